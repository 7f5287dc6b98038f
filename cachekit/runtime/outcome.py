"""Outcome: what a call returned or raised, kept for callers that get it later, perhaps in another thread."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, final

R = TypeVar("R")


@final
class Outcome(Generic[R]):
    """A value or an error. `get` may be called many times, and makes no reference cycle.

    Attributes:
        value: what the call returned; of no meaning if there is an error.
        error: what the call raised, or None.
    """

    __slots__ = ("_context", "_traceback", "error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value: R = value
        self.error = error
        if error is not None:
            self._traceback, self._context = error.__traceback__, error.__context__

    def get(self) -> R:
        """Return the value, or raise the error.

        Each call raises the error with the traceback and the context that it had when it was stored. So
        the traceback does not grow with each caller, and the error does not keep what a caller is handling.

        Raises:
            BaseException: the error.
        """
        error = self.error
        if error is None:
            return self.value
        try:
            raise error.with_traceback(self._traceback)
        finally:
            # `raise` has replaced the context with the exception that this caller is handling.
            error.__context__ = self._context
            # The traceback of the error refers to this frame. Without this the error would refer to itself.
            del error, self
