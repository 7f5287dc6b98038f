"""The pause of loads that no caller has asked for: of keys that are kept warm, and of prefetched ones."""

from __future__ import annotations

from typing import Final, final


@final
class Pause:
    """Whether the loads in the background of all caches wait."""

    __slots__ = ("is_on",)

    def __init__(self) -> None:
        self.is_on = False


#: On while a cassette answers: a replay must call no loader.
pause: Final = Pause()
