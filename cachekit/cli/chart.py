"""The chart of a replay: hit ratio over size, with one line per policy. Needs the `plot` extra."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cachekit.cli.simulation import Curves

_MARKERS: Final = "osDv^Xph"


def check_can_draw(path: Path) -> None:
    """Raise SystemExit, before the simulation, if the chart cannot be drawn to `path`."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise SystemExit(
            "cachekit replay: --plot needs matplotlib: pip install 'cachekit-tiered[plot]'"
        ) from None
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in kinds:
        suffixes = ", ".join(f".{kind}" for kind in sorted(kinds))
        print(
            f"cachekit replay: the file name of the chart, {path}, must end in one of {suffixes}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    if not path.absolute().parent.is_dir():
        raise SystemExit(
            f"cachekit replay: the chart must be in an existing directory, not {path.absolute().parent}"
        )


def draw(curves: Curves, path: Path) -> None:
    """Draw the curves to a file, in the format of its suffix.

    Raises:
        SystemExit: the file cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen
    from matplotlib.ticker import FuncFormatter

    from cachekit.cli.simulation import OPTIMUM

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for marker, (name, ratios) in zip(_MARKERS, curves.ratios.items(), strict=False):
        best = name == OPTIMUM
        axes.plot(
            curves.sizes,
            [100 * ratio for ratio in ratios],
            label=name,
            color="black" if best else None,
            linestyle="--" if best else "-",
            marker=None if best else marker,
            markersize=5,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.set_xlabel("maximum number of entries")
    axes.set_ylabel("hit ratio (%)")
    axes.set_title("Hit ratio by policy")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise SystemExit(f"cachekit replay: the chart cannot be written: {error}") from error
