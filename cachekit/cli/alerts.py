"""Alerting rules for Prometheus. Their thresholds are those of `cachekit.health`."""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from cachekit.health import Thresholds
from cachekit.monitoring.families import FAMILIES

_NAMES: Final = {family.name: family.sample for family in FAMILIES}
_LIMITS: Final = Thresholds()
_FAILING_LOADS: Final = 0.05  # the share of loads that may fail


class Rule(NamedTuple):
    """One rule."""

    alert: str
    expr: str
    lasts: str  #: how long it must hold
    severity: str
    summary: str
    remedy: str


def rate(family: str, *, by: str = "cache", where: str = "") -> str:
    """Return the sum of a counter's rates over all processes."""
    labels = f"{{{where}}}" if where else ""
    return f"sum by (job, {by}) (rate({_NAMES[family]}{labels}[5m]))"


def _share(part: str, whole: str, limit: float) -> str:
    return f"{part} / ({whole}) > {limit:g}"


def all_rules() -> list[Rule]:
    """Return the rules."""
    by_tier = "cache, tier"
    requests, hits = rate("requests"), rate("requests", where='result="hit"')
    operations = " + ".join(rate(name, by=by_tier) for name in ("lookups", "sets"))
    return [
        Rule(
            "CachekitTierDown", f"{_NAMES['tier.up']} == 0", "5m", "critical",
            "The {{ $labels.tier }} tier of {{ $labels.cache }} has been out for 5 minutes.",
            "See the log for the first error, and check its server or its disk.",
        ),
        Rule(
            "CachekitHitRateLow",
            f"{hits} / {requests} < {_LIMITS.min_hit_rate:g} and {requests} > 1",
            "15m", "warning",
            "{{ $value | humanizePercentage }} of the requests of {{ $labels.cache }} are hits.",
            "Make the tiers larger, use a longer ttl, or check what goes into the keys.",
        ),
        Rule(
            "CachekitLoadsFailing",
            _share(rate("loads", where='result="error"'), rate("loads"), _FAILING_LOADS),
            "5m", "warning",
            "{{ $value | humanizePercentage }} of the loads of {{ $labels.cache }} fail.",
            "See the log of the program for the errors of its loaders.",
        ),
        Rule(
            "CachekitRefusalsHigh",
            _share(
                rate("refusals", by=by_tier),
                f"{rate('refusals', by=by_tier)} + {rate('sets', by=by_tier)}",
                _LIMITS.max_refusals,
            ),
            "15m", "warning",
            "{{ $value | humanizePercentage }} of loaded values of {{ $labels.cache }} are outdated.",
            "Invalidate less often, or use narrower tags.",
        ),
        Rule(
            "CachekitPendingInvalidations", f"{_NAMES['tier.pending_invalidations']} > 0", "10m", "warning",
            "The {{ $labels.tier }} tier of {{ $labels.cache }} has missed {{ $value }} invalidations.",
            "They are carried out when the tier recovers. Check its server or its disk.",
        ),
        Rule(
            "CachekitErrors",
            _share(rate("errors", by=by_tier), operations, _LIMITS.max_errors),
            "10m", "warning",
            "{{ $value | humanizePercentage }} of the operations of the {{ $labels.tier }} tier of "
            "{{ $labels.cache }} fail.",
            "See the log for the errors.",
        ),
        Rule(
            "CachekitLookupsUnavailable",
            _share(
                rate("lookups", by=by_tier, where='result="unavailable"'),
                rate("lookups", by=by_tier),
                _LIMITS.max_unavailable,
            ),
            "10m", "warning",
            "{{ $value | humanizePercentage }} of the lookups in the {{ $labels.tier }} tier of "
            "{{ $labels.cache }} fail.",
            "Check its server, its network or its disk.",
        ),
    ]  # fmt: skip


def rules() -> str:
    """Return the rules as YAML. Strings are written as JSON, which is YAML too."""
    lines = ["groups:", "  - name: cachekit", "    rules:"]
    for rule in all_rules():
        lines += [
            f"      - alert: {rule.alert}",
            f"        expr: {json.dumps(rule.expr)}",
            f"        for: {rule.lasts}",
            f"        labels: {json.dumps({'severity': rule.severity})}",
            "        annotations:",
            f"          summary: {json.dumps(rule.summary)}",
            f"          description: {json.dumps(rule.remedy)}",
        ]
    return "\n".join(lines) + "\n"
