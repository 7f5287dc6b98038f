"""The `cachekit` command: reads the arguments and hands over to the command that they name.

A wrong argument ends with status 2 and a message that says what would be right; Ctrl-C ends with 130,
and a reader that goes away (`cachekit demo | head`) is no error. Output that has nowhere to go is dropped,
and what its encoding does not have is escaped. What a command does is its own file's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import cachekit
from cachekit.model.validation import checked_pattern

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

_INTERRUPTED: Final = 130  # what shells report for a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; None takes those of this process.

    Returns:
        The status for the shell: 0 if the command did what it was asked to.

    Raises:
        SystemExit: the arguments were wrong, or only asked for help or the version.
    """
    _prepare_output()
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on its way out, and must not fail again.
        _give_up_output()
        return 0
    except OSError as error:  # such as a full disk, where the output goes
        print(f"cachekit {options.command}: {error}", file=sys.stderr)
        _give_up_output()
        return 1


def _prepare_output() -> None:
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as long as the process lives
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # any str is a key; so it is on stderr anyway


def _give_up_output() -> None:
    # Suppressed: a program has put something else there.
    with contextlib.suppress(io.UnsupportedOperation), open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cachekit", description="A cache in tiers, for Python.")
    parser.add_argument("--version", action="version", version=f"cachekit {cachekit.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_replay(commands)
    _add_directory_commands(commands)
    return parser


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="watch real work become faster",
        description=(
            "Analyses the source of Python's standard library through cached functions: several "
            "threads ask many questions, most of them about a few modules, first of an empty cache; "
            "then new processes ask once more. Ends with what it found out and what was saved where."
        ),
    )
    demo.add_argument(
        "--modules",
        type=_whole_number(least=1),
        metavar="N",
        help="ask about the N largest modules only (default: all of them)",
    )
    demo.add_argument(
        "--requests",
        type=_whole_number(least=1),
        default=50_000,
        metavar="N",
        help="questions per pass (default: %(default)s)",
    )
    demo.add_argument(
        "--threads",
        type=_whole_number(least=1, most=256),
        default=4,
        metavar="N",
        help="threads that ask, in each process (default: %(default)s)",
    )
    demo.add_argument(
        "--processes",
        type=_whole_number(least=1, most=64),
        default=4,
        metavar="N",
        help="new processes that ask once more (default: %(default)s)",
    )
    demo.add_argument(
        "--redis",
        metavar="URL",
        help="a server that another host shares, played by processes with a directory of their own",
    )
    demo.add_argument(
        "--seed",
        type=_whole_number(),
        default=1,
        metavar="N",
        help="another number asks other questions (default: %(default)s)",
    )
    demo.set_defaults(run=_demo)


def _add_replay(commands: Commands) -> None:
    replay = commands.add_parser(
        "replay",
        help="see what a cache would make of your own requests",
        description=(
            "Reads logs of requests, lets each policy answer them at each size, and shows the hit ratios "
            "beside the optimum, which knows the future. Ends with the size and the policy that it would "
            "choose, and why."
        ),
        epilog=(
            "A log has one key a line; or it is CSV, if there is a --column; or, if its name ends in .u32, "
            "little-endian 32-bit numbers. Any of them may be compressed with gzip, or a pipe. Logs may be "
            "larger than memory: eight bytes a request are kept in a temporary directory (see TMPDIR), and "
            "thirty-two while the optimum is prepared."
        ),
    )
    replay.add_argument(
        "files", nargs="+", type=_log, metavar="FILE", help="logs, in order of time; - is standard input"
    )
    replay.add_argument(
        "--column",
        metavar="NAME",
        help="the column of CSV that has the key; a number, from 1 on, if the first line has no names",
    )
    replay.add_argument(
        "--sizes",
        type=_parsed_by("parse_sizes"),
        default="0.1%,0.3%,1%,3%,10%,30%",
        metavar="N,...",
        help="entries, or percentages of the distinct keys (default: %(default)s)",
    )
    replay.add_argument(
        "--policies",
        type=_parsed_by("parse_policies"),
        default="lru,fifo,sieve,s3-fifo,lfu,w-tinylfu",
        metavar="NAME,...",
        help="policies (default: %(default)s)",
    )
    replay.add_argument(
        "--sample",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="look at a share of the keys only, such as 0.1, which is faster and nearly as right",
    )
    replay.add_argument(
        "--file-tier",
        action="store_true",
        help="also a FileCache's directory with the room of so many entries of a kilobyte, which is slower",
    )
    replay.add_argument("--plot", type=Path, metavar="FILE", help="draw a picture, too; needs the plot extra")
    replay.set_defaults(run=_replay)


def _parsed_by(name: str) -> Callable[[str], object]:
    def parse(text: str) -> object:
        from cachekit.cli import replay

        try:
            return getattr(replay, name)(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _log(text: str) -> Path:
    return Path("/dev/stdin" if text == "-" else text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be a number more than 0 and at most 1, not {text!r}")
    return share


def _add_directory_commands(commands: Commands) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="show what is in a cache directory",
        description=(
            "Shows entries, sizes, expiry, shards and health of a FileCache's directory, and changes "
            "nothing in it. Ends with status 1 if something is damaged."
        ),
    )
    inspect.add_argument("directory", metavar="DIR", help="the directory of the cache")
    inspect.add_argument(
        "--keys",
        type=_pattern,
        metavar="PATTERN",
        help="list the live keys that this regular expression matches from the start, too",
    )
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(run=_inspect)

    verify = commands.add_parser(
        "verify",
        help="read every record of a cache directory and compare its checksum",
        description=(
            "Reads every record and compares its checksum. Changes nothing unless told to repair. Ends "
            "with status 1 if something is damaged."
        ),
    )
    verify.add_argument("directory", metavar="DIR", help="the directory of the cache")
    verify.add_argument(
        "--repair", action="store_true", help="drop what is damaged, and files that belong to nothing"
    )
    verify.set_defaults(run=_verify)

    purge = commands.add_parser(
        "purge",
        help="remove every entry of a cache directory",
        description="Removes every entry, also while processes use the directory. Asks before it does.",
    )
    purge.add_argument("directory", metavar="DIR", help="the directory of the cache")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    purge.set_defaults(run=_purge)


def _whole_number(least: int | None = None, most: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if least is not None and number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {number}")
        if most is not None and number > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, not {number}")
        return number

    return parse


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return checked_pattern(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _demo(options: argparse.Namespace) -> int:
    from cachekit.cli.demo import run
    from cachekit.cli.demo_work import Plan
    from cachekit.cli.display import display_for

    plan = Plan(
        options.modules,
        options.requests,
        options.threads,
        options.processes,
        options.redis,
        options.seed,
    )
    return run(plan, display_for(sys.stdout))


def _replay(options: argparse.Namespace) -> int:
    from cachekit.cli.display import display_for
    from cachekit.cli.replay import Plan, run

    plan = Plan(
        options.files, options.column, options.sizes, options.policies, options.sample, options.plot,
        options.file_tier,
    )  # fmt: skip
    return run(plan, display_for(sys.stdout))


def _inspect(options: argparse.Namespace) -> int:
    from cachekit.cli.display import display_for
    from cachekit.cli.inspect import Plan, run

    return run(Plan(options.directory, options.keys, options.json), display_for(sys.stdout))


def _verify(options: argparse.Namespace) -> int:
    from cachekit.cli.display import display_for
    from cachekit.cli.verify import Plan, run

    return run(Plan(options.directory, options.repair), display_for(sys.stdout))


def _purge(options: argparse.Namespace) -> int:
    from cachekit.cli.display import display_for
    from cachekit.cli.purge import Plan, run

    return run(Plan(options.directory, options.yes), display_for(sys.stdout))
