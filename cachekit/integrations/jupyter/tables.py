"""Tables in HTML of what a cache tells about itself. Every text is escaped: keys and tags come from data."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from cachekit.health import Health
from cachekit.model.reports import Explanation
from cachekit.model.stats import CacheStats


def stats_table(stats: CacheStats) -> str:
    """Return the statistics that are not 0."""
    return _table((name, _number(number)) for name, number in stats.items() if number)


def health_table(health: Health) -> str:
    """Return the status, and each reason with its remedy."""
    reasons = ((f"{one.status}, {one.tier}", f"{one.message}: {one.remedy}") for one in health.reasons)
    return _table([("status", health.status), *reasons])


def explanation_table(explanation: Explanation) -> str:
    """Return the explanation, which is one sentence."""
    return f"<p>{escape(str(explanation))}</p>"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(said)}</td></tr>" for name, said in rows)
    return f"<table>{cells}</table>"


def _number(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.6g}"
