"""Prometheus gets each figure under the name of the table, of one process or of all of a host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from racing import race
from redis_server import wait_until
from workers import Worker

from cachekit import FileCache, IntelligentCache, MemoryCache, TierUnavailableError, aio
from cachekit.cli.alerts import all_rules, rules
from cachekit.cli.grafana import dashboard
from cachekit.health import Thresholds
from cachekit.integrations.prometheus import CacheCollector
from cachekit.model.counters import LatencyHistogram
from cachekit.monitoring.families import FAMILIES

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")


def registry_of(collector: CacheCollector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def test_a_histogram_that_lacks_parts(tmp_path: Path) -> None:
    """Damaged sums of processes that ended cost their own figures, and not the scrape."""
    with FileCache(tmp_path, 1):
        pass
    registry = registry_of(CacheCollector.of_host("main", tmp_path))
    sums = {"format": 1, "counters": {"load.duration/sum": 2.0, "load.duration/0": 1, "loads/ok": 1}}
    (tmp_path / "figures" / "ended.json").write_text(json.dumps(sums))
    (tmp_path / "figures" / "ended.json").chmod(0o600)
    text = generate_latest(registry).decode()
    assert 'cachekit_load_duration_seconds_count{cache="main"} 1.0' in text
    assert 'cachekit_loads_total{cache="main",result="ok"} 1.0' in text


def promtool(*arguments: str, given: bytes = b"") -> str:
    assert PROMTOOL is not None
    ran = subprocess.run([PROMTOOL, *arguments], input=given, capture_output=True, check=False, timeout=100)
    said = (ran.stdout + ran.stderr).decode()
    assert ran.returncode == 0, said
    return said


def test_every_family(tmp_path: Path) -> None:
    """Names, types and labels are those of the table; a cache has samples of the tiers that it has."""
    with IntelligentCache(MemoryCache(), file_cache=FileCache(tmp_path, 1)) as cache:
        cache.get_or_set("k", lambda: 1)
        cache.get("k")
        collected = {metric.name: metric for metric in CacheCollector({"main": cache}).collect()}
    assert set(collected) == {family.prometheus for family in FAMILIES}
    for family in FAMILIES:
        metric = collected[family.prometheus]
        assert (metric.type, metric.documentation) == (family.kind, family.help)
        for sample in metric.samples:
            assert set(sample.labels) - {"le"} == {"cache", *family.labels}
            assert sample.labels["cache"] == "main"
            assert sample.labels.get("tier") != "redis"
    (hit,) = [s for s in collected["cachekit_requests"].samples if s.labels["result"] == "hit"]
    assert (hit.name, hit.value) == ("cachekit_requests_total", 1)


def test_histograms_are_cumulative(tmp_path: Path) -> None:
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        for number in range(20):
            cache.get_or_set(f"k{number}", lambda: 1)
        value = registry_of(CacheCollector({"main": cache})).get_sample_value
        buckets = [
            value("cachekit_load_duration_seconds_bucket", {"cache": "main", "le": edge})
            for edge in ("1.28e-06", "5.12e-06", "+Inf")
        ]
        assert None not in buckets
        assert buckets == sorted(buckets, key=float)  # type: ignore[arg-type]  # no None, as seen above
        assert buckets[-1] == 20
        assert value("cachekit_load_duration_seconds_count", {"cache": "main"}) == 20
        seconds = cache.get_stats()["combined"].load_seconds
        assert value("cachekit_load_duration_seconds_sum", {"cache": "main"}) == seconds


def test_counters_of_a_busy_cache_never_fall(tmp_path: Path) -> None:
    """A lookup under way in a lower tier is neither a hit nor a miss, and a load neither good nor bad."""
    with IntelligentCache(MemoryCache(4), file_cache=FileCache(tmp_path, 10)) as cache:
        registry = registry_of(CacheCollector({"main": cache}))
        for number in range(50):
            cache.set(str(number), number)
        done: list[int] = []

        def use() -> None:
            for number in range(3000):
                cache.get(str(number % 60))
            done.append(1)

        def scrape() -> None:
            before: dict[Any, float] = {}
            while len(done) < 2:
                for metric in registry.collect():
                    if metric.type != "counter":
                        continue
                    for sample in metric.samples:
                        key = sample.name, *sample.labels.items()
                        assert sample.value >= before.get(key, 0), key
                        before[key] = sample.value

        race(use, use, scrape)
        total = [registry.get_sample_value("cachekit_requests_total", {"cache": "main", "result": result})
                 for result in ("hit", "miss")]  # fmt: skip
        assert total == [5000, 1000]


def test_awaited_caches_and_several_names(tmp_path: Path) -> None:
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        awaited = aio.IntelligentCache.of(cache)
        text = generate_latest(registry_of(CacheCollector({"a": cache, "b": awaited}))).decode()
        assert 'cachekit_entries{cache="a",tier="memory"} 0.0' in text
        assert 'cachekit_entries{cache="b",tier="memory"} 0.0' in text


@pytest.mark.parametrize("name", ['<img onerror="x">', 'a"b\\c\nd', "ü" * 50, ""])
def test_names_are_quoted(name: str) -> None:
    """Whatever the name is, the exposition can be read, and has that name."""
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        registry = registry_of(CacheCollector({name: cache}))
        text = exposition.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    parse: Callable[[str], Iterable[Metric]] = text_string_to_metric_families
    found = {sample.labels["cache"] for metric in parse(text) for sample in metric.samples}
    assert found == {name}


def test_wrong_arguments() -> None:
    with IntelligentCache(MemoryCache(), file_cache=None) as cache:
        for wrong in (cache, [cache], {1: cache}, {"a": 5}):
            with pytest.raises(TypeError):
                CacheCollector(wrong)  # type: ignore[arg-type]
    with pytest.raises(TierUnavailableError, match="cannot be read"):
        CacheCollector.of_host("main", "/nonexistent")


def test_all_processes_of_a_host(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One scrape has the sum of all, also of one that was killed; registering does not read."""
    workers = [Worker(tmp_path, f"w{number}") for number in range(2)]
    with FileCache(tmp_path, 10) as file:
        registry = registry_of(CacheCollector.of_host("main", file))
    labels = {"cache": "main", "result": "ok"}
    for worker in workers:
        worker.do("load 5")
    wait_until(lambda: registry.get_sample_value("cachekit_loads_total", labels) == 10, "all have published")
    workers[0].kill()
    workers[1].do("load 1")
    workers[1].end()
    assert registry.get_sample_value("cachekit_loads_total", labels) == 11
    assert not caplog.records
    shutil.rmtree(tmp_path / "figures")
    (tmp_path / "figures").mkdir()  # and others may look into it
    assert registry.get_sample_value("cachekit_loads_total", labels) is None
    assert "no figures of 'main' for Prometheus" in caplog.text


@needs_promtool
def test_promtool_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    with IntelligentCache(MemoryCache(max_bytes=1000), file_cache=FileCache(tmp_path, 1)) as cache:
        cache.get_or_set("k", lambda: 1)
        scraped = generate_latest(registry_of(CacheCollector({"main": cache})))
    assert promtool("check", "metrics", given=scraped) == ""


@needs_promtool
def test_rules_alert(tmp_path: Path) -> None:
    """Each rule is read by Prometheus, and fires for series that it is about, and for no others."""
    (tmp_path / "rules.yml").write_text(rules())
    assert f"SUCCESS: {len(all_rules())} rules found" in promtool(
        "check", "rules", str(tmp_path / "rules.yml")
    )
    (tmp_path / "test.yml").write_text(rules_test())
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "test.yml"))


#: Counts per minute, or values, of a cache with all faults, of a good one, and of one that is idle.
SERIES = {
    'tier_up{tier="file"': ("0x60", "1x60"),
    'tier_pending_invalidations{tier="file"': ("3x60", "0x60"),
    'requests_total{result="hit"': ("0+100x60", "0+300x60", "0+0x60"),
    'requests_total{result="miss"': ("0+300x60", "0+100x60", "0+6x60"),
    'loads_total{result="ok"': ("0+90x60", "0+99x60"),
    'loads_total{result="error"': ("0+10x60", "0+1x60"),
    'refusals_total{tier="file"': ("0+50x60", "0+1x60"),
    'sets_total{tier="file"': ("0+100x60", "0+100x60"),
    'errors_total{tier="file"': ("0+20x60", "0+1x60"),
    'lookups_total{tier="file", result="hit"': ("0+80x60", "0+800x60"),
    'lookups_total{tier="file", result="unavailable"': ("0+20x60", "0+1x60"),
}


def rules_test() -> str:
    """Return what `promtool test rules` reads: the alerts that fire after 45 minutes."""
    series = [
        {"series": f'cachekit_{name}, job="shop", cache="{cache}"}}', "values": values}
        for name, all_values in SERIES.items()
        for cache, values in zip(("bad", "good", "idle"), all_values, strict=False)
    ]
    firing = [
        {"labels": f'{{alertname="{rule.alert}", alertstate="firing", cache="bad"}}', "value": 1}
        for rule in all_rules()
    ]
    question = {"expr": "count by (alertname, cache, alertstate) (ALERTS)", "eval_time": "45m"}
    test = {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [question | {"exp_samples": firing}],
    }
    return json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]})


def test_every_expression_names_families_of_the_table() -> None:
    """Those of the dashboard and of the rules; labels, too."""
    samples = {family.sample: {"job", "cache", "le", *family.labels} for family in FAMILIES}
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    expressions += [variable["query"]["query"] for variable in dashboard()["templating"]["list"][1:]]
    expressions += [rule.expr for rule in all_rules()]
    assert len(expressions) > 20
    for expression in expressions:
        named = re.findall(r"cachekit_\w+", expression)
        assert named, expression
        for name in named:
            assert name in samples, expression
        labels = set(re.findall(r"(\w+)=~?\"", expression))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            labels |= set(group.split(", "))
        assert labels <= set.union(*(samples[name] for name in named)), expression


def test_thresholds_are_those_of_health() -> None:
    limits = {rule.alert: rule.expr for rule in all_rules()}
    assert f"< {Thresholds().min_hit_rate:g} " in limits["CachekitHitRateLow"]
    assert limits["CachekitErrors"].endswith(f"> {Thresholds().max_errors:g}")
    assert limits["CachekitRefusalsHigh"].endswith(f"> {Thresholds().max_refusals:g}")


def test_edges_are_written_in_full() -> None:
    """Prometheus matches buckets by the text of their edge."""
    assert len({f"{edge:.17g}" for edge in LatencyHistogram.EDGES}) == 14


def test_the_page_has_the_table() -> None:
    """docs/metrics.md names each figure with its unit, type and labels, and each alert."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for family in FAMILIES:
        total = "_total" if family.kind == "counter" else ""
        labels = "; ".join(
            f"{label} = {', '.join(dict.fromkeys(values[number] for values in family.series))}"
            for number, label in enumerate(family.labels)
        )
        row = (
            f"| `{family.prometheus}{total}` | `cachekit.{family.name}` ({family.unit}) | {family.kind} "
            f"| {labels} |"
        )
        assert row in page
    for rule in all_rules():
        assert f"| `{rule.alert}` |" in page
