"""The `cachekit` command: reads the arguments and hands over to the command that they name.

A wrong argument ends with status 2 and a message that says what would be right; Ctrl-C ends with 130,
and a reader that goes away (`cachekit demo | head`) is no error. What a command does is its own file's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

import cachekit

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
        return _demo(options)
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
    return parser


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


def _demo(options: argparse.Namespace) -> int:
    from cachekit.cli.demo import Plan, run
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
