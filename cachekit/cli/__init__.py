"""The `cachekit` command: parses the arguments and runs the command that they name.

A wrong argument exits with status 2 and a message with the remedy, Ctrl-C with 130. SIGTERM ends the process
after the same cleanup as Ctrl-C. A closed output pipe (`cachekit demo | head`) is no error. Output without a
destination is dropped, and characters that its encoding does not have are escaped.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import cachekit
from cachekit.model.display import escaped, safe_repr, shown_url, without_login
from cachekit.model.validation import checked_pattern

if TYPE_CHECKING:
    from typing import Protocol

    class Commands(Protocol):
        """What `add_subparsers` returns."""

        def add_parser(
            self,
            name: str,
            *,
            help: str,  # noqa: A002  # the name that argparse has
            description: str,
            epilog: str = ...,
        ) -> argparse.ArgumentParser:
            """Add a command, and return its parser."""
            ...


_INTERRUPTED: Final = 130  # the status that shells report for a program that Ctrl-C ended
_TERMINATED: Final = 143  # the same for SIGTERM
_AT_ONCE: Final = 1.0  # seconds: `timeout` sends SIGTERM twice


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name (default: the arguments of this process).

    Returns:
        The exit status: 0 if the command succeeded.

    Raises:
        SystemExit: an argument is wrong, or the arguments ask for help or the version.
    """
    _prepare_output()
    options = _parser().parse_args(arguments)
    try:
        with _cleanup_at_sigterm():
            status: int = options.run(options)
            sys.stdout.flush()
        return status
    except _Terminated:
        os.kill(os.getpid(), signal.SIGTERM)  # has the default action again, which sets the exit status
        return _TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except SystemExit as error:
        if isinstance(error.code, str):
            error.code = escaped(error.code)
        raise
    except BrokenPipeError:
        # Python flushes stdout again at exit, and must not fail then.
        _give_up_output()
        return 0
    except OSError as error:  # such as a full disk for the output
        print(f"cachekit {options.command}: {escaped(str(error))}", file=sys.stderr)
        _give_up_output()
        return 1


class _Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextlib.contextmanager
def _cleanup_at_sigterm() -> Iterator[None]:
    """Raise an exception at SIGTERM, so that temporary directories and child processes are removed."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    begun = -math.inf

    def end(*_: object) -> None:
        nonlocal begun
        now = time.monotonic()
        if now - begun >= _AT_ONCE:  # otherwise the cleanup has begun
            begun = now
            raise _Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _prepare_output() -> None:
    if sys.stdout is None:  # the parent process closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # open until the process ends
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # any str is a key; stderr has this by default
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _give_up_output() -> None:
    # Suppressed: stdout was replaced by an object without a file.
    with contextlib.suppress(io.UnsupportedOperation), open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """A parser whose errors show no login of a URL, and no control characters."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and end."""
        super().error(escaped(without_login(message)))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cachekit", description="A cache in tiers, for Python.")
    parser.add_argument("--version", action="version", version=f"cachekit {cachekit.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_replay(commands)
    _add_directory_commands(commands)
    _add_top(commands)
    _add_metrics(commands)
    _add_dashboard(commands)
    _add_doctor(commands)
    _add_cassette(commands)
    return parser


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="watch real work become faster",
        description=(
            "Analyses the source of Python's standard library through cached functions. Several threads "
            "ask many questions, most of them about a few modules, first with an empty cache. Then new "
            "processes ask the same. Ends with the results, and with what each tier saved."
        ),
    )
    _add_number(demo, "--modules", "ask about the N largest modules only (default: all)", least=1)
    _add_number(demo, "--requests", "questions per pass", 50_000, least=1)
    _add_number(demo, "--threads", "threads that ask, in each process", 4, least=1, most=256)
    _add_number(demo, "--processes", "new processes that ask once more", 4, least=1, most=64)
    demo.add_argument(
        "--redis",
        type=_server,
        metavar="URL",
        help="a server that another host shares; processes with another directory play that host",
    )
    _add_number(demo, "--seed", "the seed of the random questions", 1)
    demo.set_defaults(run=_demo)


def _add_replay(commands: Commands) -> None:
    replay = commands.add_parser(
        "replay",
        help="show the hit ratio of policies and sizes on your own requests",
        description=(
            "Reads logs of requests, simulates each policy at each size, and shows the hit ratios beside the "
            "optimum, which knows the future. Ends with the recommended size and policy, and the reasons."
        ),
        epilog=(
            "A log has one key per line. With --column it is CSV. If its name ends in .u32, it has "
            "little-endian 32-bit numbers. Each may be compressed with gzip, or be a pipe. Logs may be "
            "larger than memory: a temporary directory (see TMPDIR) takes 8 bytes per request, and 32 while "
            "the optimum is prepared."
        ),
    )
    replay.add_argument(
        "files", nargs="+", type=_log, metavar="FILE", help="logs, in order of time; - is standard input"
    )
    replay.add_argument(
        "--column",
        metavar="NAME",
        help="the CSV column with the key; a number, from 1, if the first line has no names",
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
        help="simulate this share of the keys only, such as 0.1: faster, and nearly as accurate",
    )
    replay.add_argument(
        "--file-tier",
        action="store_true",
        help="also simulate a FileCache's directory with space for as many entries of 1 KiB; slower",
    )
    replay.add_argument(
        "--estimate",
        action="store_true",
        help="also show what a memory tier with the first policy estimates of other sizes, beside the truth",
    )
    replay.add_argument("--plot", type=Path, metavar="FILE", help="draw a chart; needs the plot extra")
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
    return Path("/dev/stdin" if text == "-" else _file(text))


def _file(text: str) -> str:
    from cachekit.cli.directory import is_url

    if is_url(text):
        raise argparse.ArgumentTypeError(f"must be the path of a file, not the URL {shown_url(text)}")
    return text


def _server(text: str) -> str:
    from cachekit.cli.directory import DirectoryError
    from cachekit.cli.watched import server_tier

    try:
        server_tier(text).close()
    except DirectoryError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1, not {safe_repr(text)}")
    return share


def _add_directory_commands(commands: Commands) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="show what is in a cache directory",
        description=(
            "Shows entries, sizes, expiry, shards and health of a FileCache's directory without changing it. "
            "Exits with status 1 if the directory is damaged."
        ),
    )
    _add_directory(inspect)
    inspect.add_argument(
        "--keys",
        type=_pattern,
        metavar="PATTERN",
        help="also list the live keys that this regular expression matches from the start",
    )
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(run=_inspect)

    verify = commands.add_parser(
        "verify",
        help="read every record of a cache directory and check its checksum",
        description=(
            "Reads every record and checks its checksum. Changes nothing without --repair. Exits with status "
            "1 if the directory is damaged."
        ),
    )
    _add_directory(verify)
    verify.add_argument(
        "--repair", action="store_true", help="remove damaged entries, and files that belong to no entry"
    )
    verify.set_defaults(run=_verify)

    purge = commands.add_parser(
        "purge",
        help="remove every entry of a cache directory",
        description="Removes every entry, also while processes use the directory. Asks for confirmation.",
    )
    _add_directory(purge)
    purge.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    purge.set_defaults(run=_purge)


def _add_directory(command: argparse.ArgumentParser) -> None:
    command.add_argument("directory", metavar="DIR", help="the directory of the cache")


def _add_watched_place(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "place",
        metavar="DIR|URL",
        nargs="?",
        help=(
            "the directory of a cache, or the URL of a server such as redis://host (default: all caches of "
            "this user without files)"
        ),
    )
    command.add_argument(
        "--prefix", metavar="PREFIX", help="the key_prefix of the caches on a server (default: cachekit:)"
    )


def _add_top(commands: Commands) -> None:
    top = commands.add_parser(
        "top",
        help="watch the caches of all processes",
        description=(
            "Shows requests, hit rates, loads, tiers and processes of all caches of this host that share a "
            "directory, or of all hosts that share a server, every interval. Without a terminal it prints "
            "one line each time. q ends it."
        ),
    )
    _add_watched_place(top)
    top.add_argument("--once", action="store_true", help="print the sums since the beginning, and end")
    top.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="seconds between two looks, at least 0.1 (default: %(default)s)",
    )
    top.set_defaults(run=_top)


def _add_dashboard(commands: Commands) -> None:
    dashboard = commands.add_parser(
        "dashboard",
        help="watch the caches of all processes in a browser",
        description=(
            "Serves a page with requests, hit rates, loads, tiers and processes of all caches of this host "
            "that share a directory, or of all hosts that share a server, and prints its address. It shows "
            "no keys and no values, and changes nothing. Needs the dashboard extra. Ctrl-C ends it."
        ),
    )
    _add_watched_place(dashboard)
    _add_number(dashboard, "--port", "the port", 8055, least=0, most=65535)
    _add_host(dashboard)
    dashboard.add_argument(
        "--insecure-bind", action="store_true", help="allow an address that other hosts can reach"
    )
    dashboard.set_defaults(run=_dashboard)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(
            f"must be a number of seconds from 0.1 to 3600, not {safe_repr(text)}"
        )
    return seconds


def _add_metrics(commands: Commands) -> None:
    metrics = commands.add_parser(
        "metrics",
        help="export the figures of all processes that share a directory or a server",
        description=(
            "Prints the figures of all processes of this host that share a cache directory, or of all hosts "
            "that share a server, in the format of Prometheus; with --port, serves them. Needs the "
            "prometheus extra."
        ),
    )
    _add_watched_place(metrics)
    _add_number(metrics, "--port", "serve /metrics at this port", least=0, most=65535)
    _add_host(metrics)
    metrics.add_argument(
        "--name",
        metavar="NAME",
        help=(
            "the label `cache` (default: the name of DIR; for a URL the key_prefix of --prefix, or fleet "
            "without one; user if neither is given)"
        ),
    )
    printed = metrics.add_mutually_exclusive_group()
    printed.add_argument("--grafana", action="store_true", help="print a dashboard for Grafana, and end")
    printed.add_argument("--alerts", action="store_true", help="print alerting rules for Prometheus, and end")
    metrics.set_defaults(run=_metrics)


def _add_doctor(commands: Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="show what this installation has, and what keeps a cache from working",
        description=(
            "Shows versions, extras, environment variables, the limit of the memory tier, the directory of "
            "the default cache and the server, each with a remedy where one is needed. Stores one value in a "
            "directory of its own and under a key of its own, and removes both. Exits with status 1 if there "
            "is a problem."
        ),
    )
    doctor.add_argument("--dir", metavar="DIR", help="the directory of caches (default: CACHEKIT_DIR)")
    doctor.add_argument("--redis", metavar="URL", help="the server (default: CACHEKIT_REDIS_URL)")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)


def _add_cassette(commands: Commands) -> None:
    cassette = commands.add_parser(
        "cassette",
        help="show or prune recorded answers",
        description="Shows or prunes a cassette, the file of recorded answers of `cachekit.cassette`.",
    )
    actions: Commands = cassette.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser(
        "show",
        help="list questions and answers",
        description=(
            "Lists each recorded question with its answer. Exits with status 1 if a line cannot be read."
        ),
    )
    prune = actions.add_parser(
        "prune",
        help="remove lines that are never used, and answers of functions",
        description=(
            "Removes lines that cannot be read, and lines that a later one replaces, as after a merge; with "
            "--function, also the answers of these functions. Sorts the rest."
        ),
    )
    for action, run in ((show, "show"), (prune, "prune")):
        action.add_argument("file", type=_file, metavar="FILE", help="the cassette")
        action.add_argument(
            "--function",
            type=_pattern,
            metavar="PATTERN",
            help=f"{run} functions whose name this regular expression matches from the start",
        )
        action.set_defaults(run=_cassette)


def _add_host(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="the address to serve at (default: %(default)s)",
    )


def _add_number(
    command: argparse.ArgumentParser,
    option: str,
    what: str,
    default: int | None = None,
    *,
    least: int | None = None,
    most: int | None = None,
) -> None:
    """Add an option that takes a whole number within bounds."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not {safe_repr(text)}") from None
        if least is not None and number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {number}")
        if most is not None and number > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, not {number}")
        return number

    if default is not None:
        what += " (default: %(default)s)"
    command.add_argument(option, type=parse, default=default, metavar="N", help=what)


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
        options.file_tier, options.estimate,
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


def _top(options: argparse.Namespace) -> int:
    from cachekit.cli.display import display_for
    from cachekit.cli.top import Plan, run

    return run(Plan(options.place, options.prefix, options.once, options.interval), display_for(sys.stdout))


def _metrics(options: argparse.Namespace) -> int:
    from cachekit.cli import metrics

    if options.grafana:
        return metrics.print_grafana()
    if options.alerts:
        return metrics.print_alerts()
    return metrics.run(metrics.Plan(options.place, options.prefix, options.name, options.host, options.port))


def _doctor(options: argparse.Namespace) -> int:
    from cachekit.cli.display import display_for
    from cachekit.cli.doctor import Plan, run

    return run(Plan(options.dir, options.redis, options.json), display_for(sys.stdout))


def _cassette(options: argparse.Namespace) -> int:
    from cachekit.cli import cassettes
    from cachekit.cli.display import display_for

    run = cassettes.show if options.action == "show" else cassettes.prune
    return run(cassettes.Plan(options.file, options.function), display_for(sys.stdout))


def _dashboard(options: argparse.Namespace) -> int:
    from cachekit.cli.dashboard import Plan, run

    return run(Plan(options.place, options.prefix, options.host, options.port, options.insecure_bind))
