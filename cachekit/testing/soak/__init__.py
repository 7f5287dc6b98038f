"""A qualification: does cachekit keep its promises on this machine, file system, server and Python?

    python -m cachekit.testing.soak files --minutes 10

Processes do mixed work on one cache, are killed, and lose their server. A checker compares each value that
they read with what was written. `Soak` is the same from Python.
"""

from cachekit.testing.soak.run import Soak, SoakReport

__all__ = ["Soak", "SoakReport"]
