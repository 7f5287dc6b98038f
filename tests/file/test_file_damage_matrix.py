"""Any word, file and operation: a right value, a miss or TierUnavailableError, and a repair that mends."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from damage_matrix import OPERATIONS, Case, Judged, Template, is_good, run, table

from cachekit.testing.processes import in_processes

#: Among which all cases are divided.
PROCESSES = os.cpu_count() or 1


def cases_of(template: Template, seed: int) -> list[Case]:
    damages = template.word_damages(random.Random(seed)) + template.file_damages()
    return [
        Case(damage, opened, operation)
        for damage in damages
        for opened in (True, False)
        for operation in OPERATIONS
    ]


def judge(cases: list[Case], template: Template, path: Path, processes: int = 1) -> None:
    def work(number: int) -> list[str]:
        return [outcome for _, outcome in run(cases[number::processes], template, path / str(number))]

    outcomes = [""] * len(cases)
    for number, some in enumerate(in_processes(processes, work)):
        outcomes[number::processes] = some
    judged = [*map(Judged, cases, outcomes)]
    print(table(judged))
    bad = [
        f"{case.damage.name}, {'open' if case.opened else 'closed'}, {case.operation}: {outcome}"
        for case, outcome in judged
        if not is_good(outcome)
    ]
    assert bad == [], "\n".join([f"{len(bad)} of {len(judged)}:", *bad[:40]])


def test_a_sample_of_all_damage(tmp_path: Path) -> None:
    """Some of each."""
    template = Template(tmp_path / "template")
    cases = cases_of(template, 1)
    judge(random.Random(11).sample(cases, 100), template, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_all_damage(tmp_path: Path) -> None:
    """Each."""
    template = Template(tmp_path / "template")
    judge(cases_of(template, 2), template, tmp_path, PROCESSES)
