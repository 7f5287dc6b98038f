"""What commands write to stderr besides their progress."""

from __future__ import annotations

import re

_PROGRESS = re.compile(r"^.*  +\d+ %  [\d,]+ of [\d,]+ .* s\n", re.MULTILINE)


def without_progress(text: str) -> str:
    return _PROGRESS.sub("", text)
