"""A dict that several threads read without a lock of their own, and whose `[]` never raises.

It is used in place of `dict.get`. On the free-threaded CPython 3.13 `get` locks the dict twice if another
thread made what it finds, so lookups of several threads wait for each other. `[]` locks it once then. If a
fork comes in that time, the lock stays taken in the child, and the child's next lookup never ends. So a child
replaces the dicts of this class that it inherits.
"""

from __future__ import annotations

from typing import TypeVar, final

TYPE_CHECKING = False

K = TypeVar("K")
V = TypeVar("V")


@final
class NoneDict(dict[K, V]):
    """A dict whose `[]` returns None for a key that is missing."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __getitem__(self, key: K, /) -> V | None: ...  # type: ignore[override]

    #: Returns None, in C.
    __missing__ = dict.get
