"""A forked child that runs something, and cannot outlive its test."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable


def in_fork(work: Callable[[], object]) -> Callable[[], int]:
    """Run `work` in a forked child; the function returned waits for it, and says 0 if all went well."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # The parent's alarm, if any, is not inherited; a child that hangs ends by its own.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(120)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return lambda: os.waitpid(child, 0)[1]
