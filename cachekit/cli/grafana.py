"""A dashboard for Grafana, made from the table of families."""

from __future__ import annotations

from typing import Any, Final

from cachekit.monitoring.families import FAMILIES

_FAMILIES: Final = {family.name: family for family in FAMILIES}
_WHERE: Final = 'job=~"$job", cache=~"$cache"'
_WIDTH: Final = 12  # of a panel; a row has 24 columns
_HEIGHT: Final = 8


def dashboard() -> dict[str, Any]:
    """Return the dashboard, ready for JSON. It asks for its data source when it is imported."""
    panels = [
        _panel("Requests", "reqps", ("{{cache}} {{result}}", _rate("requests", "cache, result"))),
        _panel(
            "Hit rate of requests", "percentunit",
            ("{{cache}}", f"{_rate('requests', 'cache', hits=True)} / {_rate('requests', 'cache')}"),
        ),
        _panel(
            "Hit rate by tier", "percentunit",
            (
                "{{cache}} {{tier}}",
                f"{_rate('lookups', 'cache, tier', hits=True)} / {_rate('lookups', 'cache, tier')}",
            ),
        ),
        _panel(
            "Load duration", "s",
            ("{{cache}} p50", _quantile("load.duration", 0.5, "cache")),
            ("{{cache}} p99", _quantile("load.duration", 0.99, "cache")),
        ),
        _panel("Loads", "ops", ("{{cache}} {{result}}", _rate("loads", "cache, result"))),
        _panel(
            "Hit duration by tier, p99 of a sample", "s",
            ("{{cache}} {{tier}}", _quantile("tier.duration", 0.99, "cache, tier")),
        ),
        _panel(
            "Removals by cause", "ops",
            ("{{cache}} {{tier}} {{cause}}", _rate("removals", "cache, tier, cause")),
        ),
        _panel(
            "Bytes", "bytes",
            ("{{cache}} {{tier}}", _gauge("size", "sum")),
            ("{{cache}} {{tier}} limit", _gauge("size.limit", "sum")),
        ),
        _panel("Entries", "short", ("{{cache}} {{tier}}", _gauge("entries", "sum"))),
        _panel("Tier up", "short", ("{{cache}} {{tier}}", _gauge("tier.up", "min"))),
        _panel(
            "Pending invalidations", "short",
            ("{{cache}} {{tier}}", _gauge("tier.pending_invalidations", "sum")),
        ),
        _panel(
            "Errors, refusals, outages", "ops",
            ("{{cache}} {{tier}} errors", _rate("errors", "cache, tier")),
            ("{{cache}} {{tier}} refusals", _rate("refusals", "cache, tier")),
            ("{{cache}} {{tier}} outages", _rate("tier.outages", "cache, tier")),
        ),
    ]  # fmt: skip
    for number, panel in enumerate(panels):
        panel["id"] = number + 1
        panel["gridPos"] = {
            "x": _WIDTH * (number % 2), "y": _HEIGHT * (number // 2), "w": _WIDTH, "h": _HEIGHT,
        }  # fmt: skip
    return {
        "title": "cachekit",
        "uid": "cachekit",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "tags": ["cachekit"],
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
                _variable("job", f"label_values({_FAMILIES['requests'].sample}, job)"),
                _variable("cache", f'label_values({_FAMILIES["requests"].sample}{{job=~"$job"}}, cache)'),
            ]
        },
        "panels": panels,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(title: str, unit: str, *lines: tuple[str, str]) -> dict[str, Any]:
    return {
        "title": title,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(lines)
        ],
    }


def _rate(family: str, by: str, *, hits: bool = False) -> str:
    where = _WHERE + (', result="hit"' if hits else "")
    return f"sum by ({by}) (rate({_FAMILIES[family].sample}{{{where}}}[$__rate_interval]))"


def _quantile(family: str, share: float, by: str) -> str:
    return f"histogram_quantile({share:g}, {_rate(family, f'{by}, le')})"


def _gauge(family: str, how: str) -> str:
    return f"{how} by (cache, tier) ({_FAMILIES[family].sample}{{{_WHERE}}})"
