"""`cachekit demo`: real work on input that every machine has, through cached functions.

Threads ask questions about the modules of Python's standard library. Each result comes from an analysis of
the module's source, and `cache_result` caches both. `passes` measures the passes over the questions. The
demo fails if a module was analysed more than once.
"""

from __future__ import annotations

import platform
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachekit import MemoryCache, __version__, override
from cachekit.cli.directory import counted
from cachekit.cli.display import Display
from cachekit.decorator.source import is_disabled

if TYPE_CHECKING:
    from cachekit.cli.passes import Pass
from cachekit.cli.demo_work import (
    QUESTIONS,
    Analysis,
    Plan,
    analyse,
    duration,
    library_sources,
    planned_stream,
)

# -- the demo --------------------------------------------------------------------------------------


def run(plan: Plan, display: Display) -> int:
    """Run the demo and show its results.

    Returns:
        0; 1 if a module was analysed more than once, which would be a defect of the cache.

    Raises:
        SystemExit: this Python has no sources, the environment disables caching, or there is no server at
            the URL.
    """
    from cachekit.cli.passes import Place, cold_pass, later_pass

    stream = planned_stream(plan)
    asked = sorted({source for _, source in stream})
    with tempfile.TemporaryDirectory(prefix="cachekit-demo-") as directory:
        here, there = (Place(f"{directory}/{host}", plan.redis, directory) for host in ("here", "there"))
        # Space for all entries: eviction is not the subject of this demo.
        room = MemoryCache(max_size=len(asked) * (1 + len(QUESTIONS)))
        with here.cache(room) as cache, override(cache):
            if is_disabled():
                raise SystemExit("cachekit demo: CACHEKIT_DISABLE must not be set; unset it to see the cache")
            _introduce(plan, display)
            passes = [cold_pass("cold", stream, plan, display)]
            passes.append(later_pass("restart", stream, plan, here, display))
            if plan.redis is not None:
                passes.append(later_pass("other host", stream, plan, there, display))
            display.line()
            _show_findings([analyse(source) for source in asked], display)
            if plan.redis is not None:
                cache.clear()
    display.line()
    _show_passes(passes, plan, display)
    return _verdict(passes, len(asked), plan, display)


def _introduce(plan: Plan, display: Display) -> None:
    modules = len(library_sources()[: plan.modules])
    display.line(
        f"cachekit {__version__}: {counted(plan.threads, 'thread')} put "
        f"{counted(plan.requests, 'question')} about {counted(modules, 'module')}"
    )
    display.line(
        f"of Python {platform.python_version()}'s standard library to an empty cache; "
        f"then {counted(plan.processes, 'new process')}"
    )
    display.line("ask the same, and find what the first pass left on the disk.")
    display.line()


# -- the showing -----------------------------------------------------------------------------------


def _show_findings(analyses: Sequence[Analysis], display: Display) -> None:
    functions = [function for analysis in analyses for function in analysis.functions]
    hardest = sorted(functions, key=lambda function: (-function.complexity, function.name))[:5]
    display.table(
        "The most complex functions among them",
        ("function", "complexity", "lines"),
        [(it.name, str(it.complexity), str(it.lines)) for it in hardest],
    )
    imports = Counter(name for analysis in analyses for name in analysis.imports)
    favourites = ", ".join(f"{name} ({times})" for name, times in imports.most_common(4))
    documented = sum(function.documented for function in functions)
    share = f"{documented / len(functions):.0%}" if functions else "none"
    display.line(
        f"In all {sum(analysis.lines for analysis in analyses):,} lines, "
        f"{sum(analysis.classes for analysis in analyses):,} classes, {len(functions):,} functions, "
        f"{share} of them documented."
    )
    display.line(f"Imported most: {favourites}.")


def _show_passes(passes: Sequence[Pass], plan: Plan, display: Display) -> None:
    tiers = ("memory", "redis", "file") if plan.redis is not None else ("memory", "file")
    display.table(
        "What the cache did",
        ("", "requests", *tiers, "loads", "took", "saved", "p50", "p99"),
        [
            (
                it.name,
                f"{it.requests:,}",
                *(f"{it.answered[tier]:,}" for tier in tiers),
                f"{it.analysed:,}",
                duration(it.seconds),
                duration(it.saved),
                duration(it.p50),
                duration(it.p99),
            )
            for it in passes
        ],
    )


def _verdict(passes: Sequence[Pass], asked: int, plan: Plan, display: Display) -> int:
    loads = sum(it.analysed for it in passes)
    where = "memory, redis, file" if plan.redis is not None else "memory, file"
    display.line(f"{where}: lookups served; loads: modules analysed; p50, p99: per")
    display.line("request; saved: processor time of all analyses that a cache avoids.")
    if loads != asked:
        display.line(f"{counted(asked, 'module')} requested, but {counted(loads, 'load')} made!")
        return 1
    display.line(f"{counted(asked, 'module')} requested, {counted(loads, 'load')} in all: one per key.")
    return 0
