"""`cachekit replay`: the hit ratios of a cache for recorded requests, by size and policy.

It reads request logs, simulates every policy at every size, and shows the hit ratios beside the optimum,
which knows the future. It ends with a recommended size and policy, and the reasons. All entries count as
one size, and no time passes.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from cachekit.cli.directory import size
from cachekit.cli.display import Display, Report
from cachekit.cli.requests import Requests, read_log, sizes_of
from cachekit.cli.simulation import (
    FILE_TIER,
    OPTIMUM,
    RECORD,
    Curves,
    estimate_sizes,
    simulate,
    simulate_directory,
    simulate_optimum,
    write_next_uses,
)
from cachekit.model.display import safe_repr
from cachekit.model.types import CacheStrategy
from cachekit.tiers.file.engine.format import SMALLEST_LIMIT

#: The default policies, by the increasing cost of a hit. TTL is missing because logs have no expiry times.
POLICIES: Final = (
    CacheStrategy.LRU,
    CacheStrategy.FIFO,
    CacheStrategy.SIEVE,
    CacheStrategy.S3_FIFO,
    CacheStrategy.LFU,
    CacheStrategy.W_TINYLFU,
)
#: The default sizes, in percent of the distinct keys.
PERCENTAGES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

_WORTH: Final = 1.0  # points of hit ratio that twice the size must give
_FEWER: Final = 0.02  # share of the loads that a policy must save over LRU
_ALIKE: Final = 0.005  # share of the loads by which policies that count as equal may differ
_CHEAPEST_FIRST: Final = POLICIES

#: Names in tables and charts.
NAMES: Final = {
    CacheStrategy.LRU: "LRU",
    CacheStrategy.FIFO: "FIFO",
    CacheStrategy.SIEVE: "SIEVE",
    CacheStrategy.S3_FIFO: "S3-FIFO",
    CacheStrategy.LFU: "LFU",
    CacheStrategy.W_TINYLFU: "W-TinyLFU",
}


class Plan(NamedTuple):
    """The options of the replay."""

    files: Sequence[Path]
    column: str | None
    sizes: Sequence[tuple[float, bool]]  #: each a number of entries, or a percentage (True)
    policies: Sequence[CacheStrategy]
    sample: float  #: the share of the keys that is simulated, more than 0 to 1
    plot: Path | None
    file_tier: bool = False  #: simulate the file tier, too
    estimate: bool = False  #: show what a memory tier of each size estimates of other sizes


def run(plan: Plan, display: Display) -> int:
    """Run the replay and show its results.

    Returns:
        0.

    Raises:
        SystemExit: a file has another format, there are no requests, or the chart cannot be drawn.
    """
    if plan.plot is not None:
        from cachekit.cli.chart import check_can_draw

        check_can_draw(plan.plot)
    with tempfile.TemporaryDirectory(prefix="cachekit-replay-") as scratch:
        requests = _read(plan, Path(scratch), display)
        if not requests.unsampled:
            raise SystemExit("cachekit replay: the logs must have at least one request; check the files")
        if not requests.number:
            raise SystemExit(
                f"cachekit replay: none of the {requests.unsampled:,} requests is in a sample of "
                f"{plan.sample:g} of the keys; use a larger --sample"
            )
        distinct = round(requests.distinct / plan.sample)
        display.line(f"{requests.unsampled:,} requests for {distinct:,} distinct keys")
        if plan.sample < 1:
            display.line(f"of which {requests.number:,} for {requests.distinct:,} keys are simulated")
        sizes = _sizes(plan.sizes, distinct)
        curves = _replay(plan, requests, sizes, Path(scratch), display)
        most = requests.hit_ratio(requests.number - requests.distinct)
        estimates = _estimates(plan, requests, sizes, display) if plan.estimate else []
    display.line()
    _show(curves, display)
    if any(map(math.isnan, curves.ratios.get(FILE_TIER, ()))):
        entries = math.ceil(SMALLEST_LIMIT / RECORD / plan.sample)
        display.line(
            f"-: the file tier needs at least {size(SMALLEST_LIMIT)}, which are {entries:,} entries of 1 KiB"
        )
    if estimates:
        display.table(
            f"Hit ratio in percent at other sizes, as estimated by MemoryCache ({NAMES[plan.policies[0]]})",
            ("of a cache with", "at", "estimate", "+-", "truth", "apart"),
            estimates,
        )
    if plan.plot is not None:
        from cachekit.cli.chart import draw

        draw(curves, plan.plot)
        display.line(f"The chart is in {plan.plot}.")
    display.line()
    for line in advice(curves, distinct, most):
        display.line(line)
    return 0


def _read(plan: Plan, scratch: Path, display: Display) -> Requests:
    requests = Requests(scratch / "requests", plan.sample)
    try:
        total = max(1, sizes_of(plan.files))
        with display.progress("reading", total, "bytes") as report:
            before = 0
            for path in plan.files:
                requests.append(read_log(path, plan.column, _offset(report, before, total)))
                before += path.stat().st_size
    except BrokenPipeError:  # of the output
        raise
    except (OSError, ValueError) as error:
        raise SystemExit(f"cachekit replay: {_why(error)}") from error
    return requests


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fspath(error.filename)} cannot be read: {error.strerror}"
    return str(error)


def _offset(report: Report, before: int, total: int) -> Report:
    # A log that another process is writing may be longer than at the start.
    return lambda done: report(min(before + done, total))


def _sizes(wanted: Sequence[tuple[float, bool]], distinct: int) -> list[int]:
    # The numbers of entries, ascending and without repetitions.
    return sorted({max(1, round(size / 100 * distinct if share else size)) for size, share in wanted})


def _replay(plan: Plan, requests: Requests, sizes: Sequence[int], scratch: Path, display: Display) -> Curves:
    # For a sample of the keys, the cache is smaller by the same share.
    small = [max(1, round(size * plan.sample)) for size in sizes]
    rows = [NAMES[policy] for policy in plan.policies] + [FILE_TIER] * plan.file_tier + [OPTIMUM]
    ratios: dict[str, list[float]] = {name: [] for name in rows}
    done = 0
    with display.progress("replaying", len(sizes) * len(rows) * requests.number, "requests") as report:

        def progress(number: int) -> None:
            nonlocal done
            done += number
            report(done)

        next_uses = write_next_uses(requests, scratch)
        for size in small:
            for policy in plan.policies:
                hits = simulate(policy, size, requests, progress)
                ratios[NAMES[policy]].append(requests.hit_ratio(hits))
            if plan.file_tier:
                found = simulate_directory(size, requests, scratch / f"directory-{size}", progress)
                ratios[FILE_TIER].append(math.nan if found is None else requests.hit_ratio(found))
            hits = simulate_optimum(size, requests, next_uses, progress)
            ratios[OPTIMUM].append(requests.hit_ratio(hits))
    return Curves(sizes, ratios)


def _estimates(
    plan: Plan, requests: Requests, sizes: Sequence[int], display: Display
) -> list[tuple[str, ...]]:
    """Return a row for each size, and each other size that a cache of this size knows of."""
    rows: list[tuple[str, ...]] = []
    done = 0
    small = [max(1, round(size * plan.sample)) for size in sizes]
    with display.progress("estimating", 5 * len(sizes) * requests.number, "requests") as report:

        def progress(number: int) -> None:
            nonlocal done
            done += number
            report(done)

        for size in small:
            found, hits = estimate_sizes(plan.policies[0], size, requests, progress)
            for other, rate in found.rates.items():
                true = hits[other] / requests.number
                numbers = (rate, found.plus_minus[other], true)
                shown = [f"{100 * number:.2f}" for number in numbers]
                rows.append((f"{size:,}", f"{other:,}", *shown, f"{100 * (rate - true):+.2f}"))
            if not found:
                rows.append((f"{size:,}", found.reason or "", "", "", "", ""))
    return rows


def _show(curves: Curves, display: Display) -> None:
    best = list(map(max, zip(*curves.of_policies().values(), strict=True)))
    display.table(
        "Hit ratio in percent, by the most entries held (* is the best policy)",
        ("", *(f"{size:,}" for size in curves.sizes)),
        [
            (
                name,
                *(
                    "-" if math.isnan(ratio) else f"{_star(name, ratio, top)}{100 * ratio:.2f}"
                    for ratio, top in zip(ratios, best, strict=True)
                ),
            )
            for name, ratios in curves.ratios.items()
        ],
    )


def _star(name: str, ratio: float, top: float) -> str:
    return "*" if name not in {OPTIMUM, FILE_TIER} and ratio == top else ""


# -- the advice ------------------------------------------------------------------------------------


def advice(curves: Curves, distinct: int | None = None, most: float = 1.0) -> list[str]:
    """Return the recommended size and policy, as a line of code, and the reasons in sentences.

    Args:
        curves: The hit ratios.
        distinct: The number of distinct keys (default: not known).
        most: The hit ratio of a cache that holds all of them.
    """
    policies = curves.of_policies()
    best = list(map(max, zip(*policies.values(), strict=True)))
    chosen, why_size = _choose_size(curves.sizes, best, distinct, most)
    policy, why_policy = _choose_policy({name: it[chosen] for name, it in policies.items()})
    strategy = next(member for member, name in NAMES.items() if name == policy)
    argument = "" if strategy is CacheStrategy.LRU else f", CacheStrategy.{strategy.name}"
    optimum = curves.ratios[OPTIMUM][chosen]
    return [
        f"Advice: MemoryCache({curves.sizes[chosen]}{argument})",
        f"Size: {why_size}",
        f"Policy: {why_policy}",
        f"No policy can serve more than {100 * optimum:.2f} % at this size.",
    ]


def _choose_size(
    simulated: Sequence[int], ratios: Sequence[float], distinct: int | None, most: float
) -> tuple[int, str]:
    # The index of the smallest size beyond which no larger one is worth its memory, and the reasons.
    # Beyond those that were simulated, the ratio is known where all keys fit.
    sizes, best = list(simulated), list(ratios)
    last = len(sizes) - 1
    if distinct is not None and distinct > sizes[-1]:
        sizes.append(distinct)
        best.append(max(most, best[-1]))

    def gain(smaller: int, larger: int) -> float:
        # Points of hit ratio per doubling, between two sizes.
        return 100 * (best[larger] - best[smaller]) / math.log2(sizes[larger] / sizes[smaller])

    def most_beyond(index: int) -> float:
        # Not only the next size: a loop over many keys gives nothing until all of them fit.
        return max((gain(index, larger) for larger in range(index + 1, len(sizes))), default=0.0)

    chosen = next((index for index in range(last) if most_beyond(index) < _WORTH), last)
    reasons = []
    if chosen:
        points = gain(chosen - 1, chosen)
        reasons.append(f"up to {sizes[chosen]:,} entries, twice the size gives about {points:.1f} points")
    if chosen < last:
        reasons.append(f"beyond {sizes[chosen]:,} only {most_beyond(chosen):.1f}")
    elif distinct is not None and sizes[chosen] >= distinct:
        reasons.append(f"it holds all {distinct:,} distinct keys")
    elif distinct is not None and most_beyond(chosen) < _WORTH:
        reasons.append(f"no size serves more than {100 * most:.2f} %, which {distinct:,} entries reach")
    elif last:
        whole = "" if distinct is None else f": {distinct:,} entries serve {100 * most:.2f} %"
        reasons.append(f"it was the largest one simulated, and a larger one may be worth its memory{whole}")
    else:
        reasons.append("it was the only one simulated")
    return chosen, "; ".join(reasons) + "."


def _choose_policy(ratios: Mapping[str, float]) -> tuple[str, str]:
    # The simulated policy that saves enough loads for its price, and the reasons.
    loads = {name: 1 - ratio for name, ratio in ratios.items()}
    fewest = min(loads.values())
    alike = [name for name, share in loads.items() if share <= fewest * (1 + _ALIKE)]
    order = [NAMES[policy] for policy in _CHEAPEST_FIRST]
    policy = min(alike, key=order.index)
    lru = NAMES[CacheStrategy.LRU]
    if lru in loads and loads[lru] * (1 - _FEWER) <= loads[policy]:
        reason = f"LRU serves {100 * ratios[lru]:.2f} %, and its hits are the cheapest"
        if policy != lru:
            saved = 1 - loads[policy] / loads[lru]
            reason += f"; {policy} would save {100 * saved:.1f} % of the loads, too few to matter"
        return lru, reason + "."
    reason = f"{policy} serves {100 * ratios[policy]:.2f} %"
    if lru in loads:
        saved = 1 - loads[policy] / loads[lru]
        reason += f", LRU {100 * ratios[lru]:.2f} %, so {100 * saved:.1f} % of the loads are saved"
    others = [name for name in alike if name != policy]
    if others:
        reason += f"; {' and '.join(others)} would do as well and cost more"
    return policy, reason + "."


def parse_policies(text: str) -> tuple[CacheStrategy, ...]:
    """Return the policies of a list of names with commas, as in `lru,s3-fifo`.

    Raises:
        ValueError: a name is not that of a policy; the message lists the names.
    """
    chosen = []
    for name in filter(None, (part.strip().lower() for part in text.split(","))):
        policy = next((policy for policy in POLICIES if policy.value == name), None)
        if policy is None:
            known = ", ".join(policy.value for policy in POLICIES)
            raise ValueError(f"a policy must be one of {known}, not {safe_repr(name)}")
        chosen.append(policy)
    if not chosen:
        raise ValueError("policies must not be empty; name at least one")
    return tuple(dict.fromkeys(chosen))


def parse_sizes(text: str) -> tuple[tuple[float, bool], ...]:
    """Return the sizes of a list with commas, each a number of entries or a percentage of the keys.

    Raises:
        ValueError: a size is neither, or not more than 0.
    """
    sizes = []
    for part in filter(None, chain.from_iterable(piece.split() for piece in text.split(","))):
        share = part.endswith("%")
        try:
            size = float(part[:-1] if share else int(part.replace("_", "")))
        except (ValueError, OverflowError):
            raise ValueError(
                f"a size must be a number of entries or a percentage, not {safe_repr(part)}"
            ) from None
        if not 0 < size < math.inf:
            raise ValueError(f"a size must be more than 0, not {part!r}")
        sizes.append((size, share))
    if not sizes:
        raise ValueError("sizes must not be empty; name at least one")
    return tuple(sizes)
