"""Which tokens tags probably have, so that an entry with tags is stored without reading them first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, final

_MOST: Final = 1024
_LONGEST: Final = 512  # characters of a tag


@final
class ForeseenTokens:
    """The tokens that tags had when this process read them last.

    A wrong guess costs a round trip: the server compares them. Safe in any thread.
    """

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}

    def of(self, tags: Iterable[str]) -> dict[str, int] | None:
        """Return the tokens that the tags probably have; None if one of them is not known."""
        tokens = {tag: self._tokens.get(tag, 0) for tag in tags}
        return tokens if all(tokens.values()) else None

    def learn(self, tokens: Mapping[str, int]) -> None:
        """Remember tokens that were read."""
        if len(self._tokens) + len(tokens) > _MOST:
            self._tokens.clear()
        if len(tokens) <= _MOST:
            self._tokens.update({tag: token for tag, token in tokens.items() if len(tag) <= _LONGEST})

    def forget(self, tags: Iterable[str]) -> None:
        """Forget the tokens of tags that are invalidated."""
        for tag in tags:
            self._tokens.pop(tag, None)
