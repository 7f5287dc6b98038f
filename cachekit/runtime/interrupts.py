"""Which exceptions come from elsewhere: a time limit, such as that of a task queue or of a test runner.

Such an exception can appear in any line. It says nothing about the value, the tier or the loader that this
line works with, so the caller of this work must get it. There are two kinds:

- A signal handler raised it, in the main thread. The traceback shows the handler.
- Another thread had it raised here (`PyThreadState_SetAsyncExc`). No Python code raised it, so its traceback
  ends where Python looks for such requests: at the begin of a function, at a backward jump, or after a call
  of a function in C. At a call it may also be the error of that function. Then it counts as one from
  elsewhere if it has no arguments, which an exception that is made by its class alone does not have, and its
  class is not one that Python's own modules raise so.
"""

from __future__ import annotations

import builtins
import opcode
import sys
import threading
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, TracebackType
from typing import Any, Final

_NAMES: Final = opcode.opname
#: Python's own code in C raises these without arguments.
_BARE: Final = (MemoryError, StopIteration, StopAsyncIteration, EOFError)
#: Bytes of the code in whose frame an extension of C or Cython shows itself in a traceback.
_LENGTH_OF_STAND_IN: Final = 6
#: With fewer frames left, the caller has used up the stack, and not the value.
_FEW_FRAMES: Final = 100
#: How often a library wraps an error, at most.
_LONGEST_CHAIN: Final = 5


def is_interrupt(error: BaseException) -> bool:
    """Return whether the exception comes from elsewhere, and not from what was called."""
    return _is_asynchronous(error) or _is_of_handler(error)


def raise_interrupt(error: BaseException) -> None:
    """Raise the exception if it comes from elsewhere, in a handler for errors of what was called."""
    if is_interrupt(error):
        raise error


def interrupt_behind(error: BaseException) -> BaseException | None:
    """Return the interrupt that a library has wrapped in this error, or the error itself, or None."""
    return next(filter(is_interrupt, chain_of(error)), None)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what caused it. Errors that are raised again may be causes of each other."""
    seen: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def is_no_fault_of_value(error: BaseException) -> bool:
    """Return whether a codec that raised this may have nothing against the value or the bytes.

    Besides interrupts these are errors of a process without memory, or of a caller without stack.
    """
    if isinstance(error, RecursionError):
        frame, depth = sys._getframe(), 0
        while frame.f_back is not None:
            frame, depth = frame.f_back, depth + 1
        return depth > sys.getrecursionlimit() - _FEW_FRAMES
    # Parsers in C raise their errors without arguments, too: those are about the bytes.
    return isinstance(error, MemoryError) or _is_asynchronous(error, surely=True) or _is_of_handler(error)


def _is_of_handler(error: BaseException) -> bool:
    if error.__traceback__ is None:
        return False
    if threading.current_thread() is not threading.main_thread():
        return False  # Python calls handlers in the main thread only
    # That module in C is always there. `signal` itself makes an enum member of each answer.
    signals: Any = sys.modules["_signal"]
    found = map(signals.getsignal, range(1, signals.NSIG))
    handlers = {_code_of(handler) for handler in found if callable(handler)} - {None}
    # Not by the variables of the frames: asking for them would keep them alive.
    seen: TracebackType | None = error.__traceback__
    while seen is not None:
        if seen.tb_frame.f_code in handlers:
            return True
        seen = seen.tb_next
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


def _is_asynchronous(error: BaseException, surely: bool = False) -> bool:
    traceback = error.__traceback__
    if traceback is None:
        return False
    while (deeper := traceback.tb_next) is not None:
        traceback = deeper
    at = traceback.tb_lasti
    code = traceback.tb_frame.f_code.co_code
    if not 0 <= at < len(code) - 1 or (
        len(code) <= _LENGTH_OF_STAND_IN and _NAMES[code[-2]] == "RAISE_VARARGS"
    ):
        return False
    name, argument = _NAMES[code[at]], code[at + 1]
    # An argument of RESUME tells how a generator goes on; 0 is the begin of a function.
    # JUMP_BACKWARD_NO_INTERRUPT is where a future's exception appears that is awaited.
    if ("JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name) or (name == "RESUME" and argument == 0):
        return True
    if surely or "CALL" not in name or error.args:
        return False
    kind = type(error)
    if vars(builtins).get(kind.__name__) is kind:
        return not isinstance(error, _BARE)
    from cachekit.runtime.program import is_standard  # few errors come here

    return not is_standard(kind.__module__)
