"""Figures for OpenTelemetry; needs the extra `otel`. The SDK and its exporter are the program's.

    CacheInstruments({"main": cache})

Each process exports its own figures, as OpenTelemetry has it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final, final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

import cachekit
from cachekit.integrations.sources import AnyCache, Figures, cores, of_process
from cachekit.model.counters import LatencyHistogram
from cachekit.monitoring.families import FAMILIES, Family

#: Seconds for which a snapshot is used again: each instrument has a callback of its own.
_FRESH: Final = 0.1


@final
class CacheInstruments:
    """Instruments for the figures of caches; the attribute `cache` is the name of each.

    `cachekit.load.duration` is recorded at each load from now on. All other figures are read when they are
    exported. `cachekit.tier.duration` is a sample that only Prometheus gets.

    Args:
        caches: The caches of this process by name, synchronous or awaited.
        meter_provider: Makes the meter (default: the global one).

    Raises:
        TypeError: `caches` does not map names to caches.
    """

    def __init__(
        self, caches: Mapping[str, AnyCache], *, meter_provider: MeterProvider | None = None
    ) -> None:
        self._sources = of_process(caches)
        self._read: tuple[float, dict[str, Figures]] = (-_FRESH, {})
        provider = get_meter_provider() if meter_provider is None else meter_provider
        meter = provider.get_meter("cachekit", cachekit.__version__)
        for family in FAMILIES:
            name = f"cachekit.{family.name}"
            observe = _Observer(self, family)
            if family.kind == "counter":
                meter.create_observable_counter(name, [observe], family.unit, family.help)
            elif family.kind == "gauge":
                meter.create_observable_gauge(name, [observe], family.unit, family.help)
        durations = meter.create_histogram(
            "cachekit.load.duration", "s", "Seconds that each load took",
            explicit_bucket_boundaries_advisory=list(LatencyHistogram.EDGES),
        )  # fmt: skip
        for cache, core in cores(caches).items():
            record = partial(durations.record, attributes={"cache": cache})
            core.loads.figures.listeners += (record,)

    def _figures(self) -> dict[str, Figures]:
        read_at, read = self._read
        if time.monotonic() - read_at > _FRESH:
            read = {name: source() for name, source in self._sources.items()}
            self._read = time.monotonic(), read
        return read


@final
class _Observer:
    """The callback of one instrument."""

    def __init__(self, instruments: CacheInstruments, family: Family) -> None:
        self._instruments = instruments
        self._family = family

    def __call__(self, _: CallbackOptions) -> Iterable[Observation]:
        family = self._family
        for name, figures in self._instruments._figures().items():
            numbers = figures.counters if family.kind == "counter" else figures.gauges
            for values, key in zip(family.series, family.figures(), strict=True):
                if key in numbers:
                    attributes = dict(zip(family.labels, values, strict=True))
                    yield Observation(numbers[key], {"cache": name} | attributes)
