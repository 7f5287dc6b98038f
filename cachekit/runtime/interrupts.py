"""Which exceptions a signal handler raised: a time limit, such as that of a task queue or of a test runner.

Such an exception can appear in any line of the main thread. It says nothing about the value, the tier or the
loader that this line works with, so the caller of this work must get it.
"""

from __future__ import annotations

import signal
import threading
from functools import partial
from types import CodeType, FunctionType, MethodType


def is_interrupt(error: BaseException) -> bool:
    """Return whether the handler of a signal raised the exception, or called what did."""
    if threading.current_thread() is not threading.main_thread():
        return False  # Python calls handlers in the main thread only
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    # Not by the variables of the frames: asking for them would keep them alive.
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in handlers:
            return True
        traceback = traceback.tb_next
    return False


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, partial):
        handler = handler.func
    if isinstance(handler, MethodType):
        handler = handler.__func__
    if not isinstance(handler, FunctionType):
        # Of a callable object, perhaps inherited.
        found = [vars(kind).get("__call__") for kind in type(handler).__mro__]
        handler = next(filter(None, found), None)
    return handler.__code__ if isinstance(handler, FunctionType) else None
