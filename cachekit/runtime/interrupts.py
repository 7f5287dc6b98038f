"""Which exceptions a signal handler raised: a time limit, such as that of a task queue or of a test runner.

Such an exception can appear in any line of the main thread. It says nothing about the value, the tier or the
loader that this line works with, so the caller of this work must get it.
"""

from __future__ import annotations

from types import CodeType, FrameType
from typing import Final

_VARARGS: Final = 0x04  # CO_VARARGS of the module inspect, which costs too much to load


def is_interrupt(error: BaseException) -> bool:
    """Return whether a signal handler raised the exception, or called what did."""
    traceback = error.__traceback__
    while traceback is not None:
        if _is_handler(traceback.tb_frame):
            return True
        traceback = traceback.tb_next
    return False


def _is_handler(frame: FrameType) -> bool:
    # Python calls a handler with the number of the signal and the frame that it interrupts, which is the
    # handler's caller. No other function gets its caller's frame.
    caller = frame.f_back
    if caller is None:
        return False
    variables = frame.f_locals
    for name in _parameters(frame.f_code):
        argument = variables.get(name)
        if argument is caller or (isinstance(argument, tuple) and any(one is caller for one in argument)):
            return True
    return False


def _parameters(code: CodeType) -> tuple[str, ...]:
    count = code.co_argcount
    names = code.co_varnames[:count]
    if code.co_flags & _VARARGS:
        names += (code.co_varnames[count + code.co_kwonlyargcount],)
    return names
