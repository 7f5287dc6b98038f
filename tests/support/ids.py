"""Names of parameters that are the same in each process: workers that share a run compare them."""

from __future__ import annotations

import re


def without_address(value: object) -> str:
    """Return the representation of a value, without the addresses of objects."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
