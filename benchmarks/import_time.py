"""What `import cachekit` costs, beside a bare interpreter and the import of other caches.

Wall time of whole processes, in milliseconds, one after the other in turning order: the bare import, and a
program that decorates one function. An installation for editing (`pip install -e`) loads modules of its own,
and makes both slower. Then which heavy modules such a program loads: there should be none.
"""

from __future__ import annotations

import subprocess
import sys

from harness import Question, Report, Round, Row, Target, options, seconds

LIBRARIES = ("cachekit-tiered", "cachebox", "cachetools", "dogpile.cache", "theine", "cashews", "aiocache")
BARE, OURS, DECORATED = "bare interpreter", "import cachekit", "one decorated function"
PROGRAM = "from cachekit import cache_result\n@cache_result\ndef f(n: int) -> int: return n\n"
PEERS = ("cachebox", "cachetools", "dogpile.cache", "theine", "cashews", "aiocache", "asyncio")
HEAVY = ("asyncio", "redis", "filelock", "portalocker")
WALL = "wall time of a process"

TARGETS = (Target(WALL, OURS, BARE, 1.2), Target(WALL, DECORATED, BARE, 3.0))


def process(code: str) -> Round:
    # -P: what is installed counts, not what lies in the current directory.
    command = [sys.executable, "-P", "-c", code]

    def work() -> float:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = ended.stderr.strip().splitlines()[-1]
            if last.startswith("ModuleNotFoundError"):
                raise ModuleNotFoundError(last)
            raise RuntimeError(last)
        return 0.0

    work()
    return lambda: seconds(work)


def loaded(heavy: tuple[str, ...]) -> list[str]:
    """Which of these modules the program with a decorated function loads."""
    code = (
        f"import sys; before = set(sys.modules)\n{PROGRAM}"
        f"print(*(name for name in {heavy!r} if name in sys.modules and name not in before))"
    )
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.split()


def main() -> None:
    chosen = options(__doc__, rounds=25)
    report = Report(chosen, LIBRARIES)
    peers = PEERS[:1] if chosen.quick else PEERS
    rows = [
        Row(OURS, lambda: process("import cachekit"), ours=True),
        Row(DECORATED, lambda: process(PROGRAM), ours=True),
        Row(BARE, lambda: process("pass")),
        *(Row(f"import {name}", lambda name=name: process(f"import {name}")) for name in peers),  # type: ignore[misc]
    ]
    report.ask(Question(WALL, 1, rows, unit="ms", per_unit=1e-3))
    print(f"\n{DECORATED} loads, of {', '.join(HEAVY)}: {', '.join(loaded(HEAVY)) or 'none'}")
    report.judge(TARGETS)
    report.end()


if __name__ == "__main__":
    main()
