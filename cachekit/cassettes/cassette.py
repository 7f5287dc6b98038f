"""`cassette`: a block in which cached functions and `get_or_set` answer from a file of recorded answers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, final

from cachekit.cassettes.answers import AnswerCodec
from cachekit.cassettes.player import CassettePlayer
from cachekit.cassettes.redaction import Redact, Redaction
from cachekit.decorator.source import playing, reset_followers, switching
from cachekit.loading.pause import pause
from cachekit.model.display import safe_repr, typed_repr
from cachekit.runtime.threads import run_in_thread
from cachekit.serialization.signing import Secret, secrets_from_environment

Mode: TypeAlias = Literal["auto", "record", "replay", "off"]
VersionCheck: TypeAlias = Literal["check", "ignore"]

_REMEDY: Final = "to record it, run the block once with mode='auto'; mode='record' also calls the rest again"

MODES: Final = ("auto", "record", "replay", "off")

#: The players in use, the innermost last. `switching` guards it.
_stack: list[CassettePlayer] = []


def cassette(
    path: str | os.PathLike[str],
    mode: Mode = "auto",
    *,
    version: VersionCheck = "check",
    exceptions: type[Exception] | tuple[type[Exception], ...] = (),
    redact: Redact | None = None,
    secret: Secret | None = None,
    allow: Iterable[Any] = (),
) -> Cassette:
    """Return a block, for `with` or `async with`, in which a file answers in place of functions and tiers.

    Cached functions, `get_or_set`, `get_or_set_many` and `warm_cache` of all caches answer from the file.
    TTLs and tiers do not count. The block applies to the whole process, in every thread. In nested blocks the
    innermost one answers.

    Args:
        path: The file, of JSON lines. Its directory is made when answers are recorded.
        mode: "auto" (the default): answer what is recorded, and record the rest. "record": call every
            function again and record it. "replay": call no function; a question that is not recorded raises
            CassetteMissError. "off": do nothing.
        version: "check" (the default): an answer of a function whose source has changed since is a miss.
            "ignore": it is used.
        exceptions: The class, or a tuple of classes, of exceptions that are recorded, and raised again in a
            replay. Others are not recorded.
        redact: What must not be recorded: a function from each text in arguments and answers to the text
            to record; or a tuple of names, of parameters and of dict keys, whose values are left out.
        secret: Signs answers that are no plain values, so that all classes may be in them. At least 16 bytes
            (default: CACHEKIT_SECRET, if set).
        allow: Classes that such answers may contain without a secret (see `FileCache`).

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown `mode` or `version`, or a secret that is too short.

    Entering the block raises FileFormatError for a file that is no cassette, or one of another version.
    """
    return Cassette(path, mode, version, exceptions, redact, secret, allow)


@final
class Cassette:
    """The block that `cassette` returns. It may be entered again after its end, and reads the file again."""

    __slots__ = ("_arguments", "_mode", "_path", "_player")

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: Mode,
        version: VersionCheck,
        exceptions: type[Exception] | tuple[type[Exception], ...],
        redact: Redact | None,
        secret: Secret | None,
        allow: Iterable[Any],
        remedy: str = _REMEDY,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
            raise TypeError(f"path must be a str or a Path, not {typed_repr(path)}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {safe_repr(mode)}")
        if version not in ("check", "ignore"):
            raise ValueError(f"version must be 'check' or 'ignore', not {safe_repr(version)}")
        kinds = exceptions if isinstance(exceptions, tuple) else (exceptions,)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise TypeError(
                    f"exceptions must be classes of exceptions, not {safe_repr(kind)}; write "
                    f"exceptions=(TimeoutError,)"
                )
        redaction = Redaction(redact)
        codec = AnswerCodec(secrets_from_environment() if secret is None else secret, allow, kinds, redaction)
        self._path = Path(path)
        self._mode = mode
        self._arguments = version == "check", kinds, codec, redaction, remedy
        self._player: CassettePlayer | None = None

    @property
    def path(self) -> Path:
        """Return the path of the file."""
        return self._path

    @property
    def mode(self) -> Mode:
        """Return the mode."""
        return self._mode

    @property
    def replayed(self) -> int:
        """Return how many answers came from the file in this block, or in the last one."""
        return 0 if self._player is None else self._player.replayed

    @property
    def recorded(self) -> int:
        """Return how many answers were recorded in this block, or in the last one."""
        return 0 if self._player is None else self._player.recorded

    def _open(self) -> CassettePlayer:
        return CassettePlayer(self._path, self._mode, *self._arguments)

    def _begin(self, player: CassettePlayer) -> None:
        with switching:
            if self._player in _stack:
                raise RuntimeError(
                    f"the cassette {self._path} is in use; make another one for a nested block"
                )
            self._player = player
            _stack.append(player)
            playing.player = player
            pause.is_on = True
            reset_followers()

    def _end(self) -> CassettePlayer | None:
        player = self._player
        if player is not None:
            with switching:
                _stack.remove(player)  # blocks of several threads may end in any order
                playing.player = _stack[-1] if _stack else None
                pause.is_on = bool(_stack)
                reset_followers()
        return player

    def __enter__(self) -> Cassette:
        if self._mode != "off":
            self._begin(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        player = self._end()
        if player is not None:
            player.save()

    async def __aenter__(self) -> Cassette:
        if self._mode != "off":
            self._begin(await run_in_thread(self._open))
        return self

    async def __aexit__(self, *_: object) -> None:
        player = self._end()
        if player is not None:
            await run_in_thread(player.save)

    def __repr__(self) -> str:
        return f"cassette({str(self._path)!r}, mode={self._mode!r})"
