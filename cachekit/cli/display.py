"""The output of commands: lines, a progress bar, tables.

On a terminal with rich installed it has colour and a moving bar. Otherwise it is the same text as plain
ASCII lines, for logs and pipes. Control characters are escaped in both: a name may come from the outside.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from cachekit.model.display import escaped

if TYPE_CHECKING:
    from rich.console import Console

#: Called with the amount that is done so far.
Report = Callable[[int], None]

_QUARTERS: Final = 4
_WIDEST: Final = 100_000  # columns of characters in a table


class Display(Protocol):
    """The output of a command."""

    def line(self, text: str = "") -> None:
        """Show one line of text."""
        ...

    def progress(self, label: str, total: int, unit: str) -> AbstractContextManager[Report]:
        """Show progress towards `total` inside the block; the same amount may be reported again."""
        ...

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table. Its first column is text, the others are numbers."""
        ...


def display_for(stream: TextIO) -> Display:
    """Return the best display for the stream and the installed packages."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return PlainDisplay(stream, sys.stderr)
    try:
        from rich.console import Console
    except ImportError:
        return PlainDisplay(stream, sys.stderr)
    return RichDisplay(Console(file=stream, highlight=False))


class PlainDisplay:
    """Lines of text; progress is one line per quarter.

    Args:
        stream: Where the output goes.
        progress: Where lines of progress go (default: the same stream).
    """

    def __init__(self, stream: TextIO, progress: TextIO | None = None) -> None:
        self._stream = stream
        self._progress = stream if progress is None else progress

    def line(self, text: str = "") -> None:  # noqa: D102
        # Flushed, so that the reader of a pipe sees progress at once.
        print(escaped(text), file=self._stream, flush=True)

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Report]:  # noqa: D102
        started = time.perf_counter()
        shown = 0

        def report(done: int) -> None:
            nonlocal shown
            quarter = done * _QUARTERS // total
            if quarter > shown:
                shown = quarter
                seconds = time.perf_counter() - started
                share = f"{quarter * 100 // _QUARTERS:3d} %"
                said = f"{label}  {share}  {done:,} of {total:,} {unit}  {seconds:.1f} s"
                print(said, file=self._progress, flush=True)

        yield report

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:  # noqa: D102
        lines = [list(map(escaped, line)) for line in (header, *rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        self.line(title)
        for line in lines:
            first, *figures = zip(line, widths, strict=True)
            cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in figures)]
            self.line("  " + "  ".join(cells).rstrip())


class RichDisplay:
    """Colour, and a moving bar."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def line(self, text: str = "") -> None:  # noqa: D102
        # Unchanged: `:cat:` must not become an emoji, and text to copy must not contain line breaks.
        self.console.print(escaped(text), markup=False, emoji=False, soft_wrap=True)

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[Report]:  # noqa: D102
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            Elapsed(),
            console=self.console,
        )
        with bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.update(task, completed=done)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:  # noqa: D102
        from rich import box
        from rich.measure import Measurement
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
            title=Text(escaped(title), style="bold"),
            title_justify="left",
        )
        for index, name in enumerate(header):
            table.add_column(name, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            cells = map(escaped, row)
            table.add_row(*(Text(cell, style="" if index else "cyan") for index, cell in enumerate(cells)))
        # On a narrow terminal let lines wrap: numbers with their ends cut off would be wrong.
        options = self.console.options.update(width=_WIDEST)
        needed = Measurement.get(self.console, options, table).maximum
        if needed > self.console.width:
            table.width = needed
        self.console.print(table, crop=False)
