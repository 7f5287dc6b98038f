"""The `cachekit` command: reads the arguments and hands over to the command that they name.

A wrong argument ends with status 2 and a message that says what would be right; Ctrl-C ends with 130,
and a reader that goes away (`cachekit demo | head`) is no error. What a command does is its own file's.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Final

import cachekit
from cachekit.model import checked_pattern

_INTERRUPTED: Final = 130  # what shells report for a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; None takes those of this process.

    Returns:
        The status for the shell: 0 if the command did what it was asked to.

    Raises:
        SystemExit: the arguments were wrong, or only asked for help or the version.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on its way out, and must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cachekit", description="A cache in tiers, for Python.")
    parser.add_argument("--version", action="version", version=f"cachekit {cachekit.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="watch real work become faster",
        description=(
            "Analyses the source of Python's standard library through cached functions: several "
            "threads ask many questions, most of them about a few modules, first of an empty cache "
            "and then once more. Ends with what it found out and what was saved."
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
        help="threads that ask (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=_whole_number(),
        default=1,
        metavar="N",
        help="another number asks other questions (default: %(default)s)",
    )
    demo.set_defaults(run=_demo)
    _add_directory_commands(commands)
    return parser


def _add_directory_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    from cachekit.cli.demo import Plan, run
    from cachekit.cli.display import display_for

    plan = Plan(options.modules, options.requests, options.threads, options.seed)
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
