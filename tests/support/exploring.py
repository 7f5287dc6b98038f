"""How many examples Hypothesis tries: few in the suite, others in each run; thousands with a profile.

The header of a run names its seed. `--hypothesis-seed=N` tries the same examples again, and
`--hypothesis-profile=soak` tries thousands.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, core, settings

# These judge how examples are drawn, by chance and by how busy the machine is, and not what is tested.
_BY_CHANCE = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

# Without a database a run depends on its seed alone, and not on the runs before it.
settings.register_profile(
    "suite",
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    database=None,
    suppress_health_check=_BY_CHANCE,
)
settings.register_profile("soak", settings.get_profile("suite"), max_examples=3000, stateful_step_count=50)
settings.load_profile("suite")


def explored(*, examples: float = 1, steps: float = 1) -> settings:
    """Return settings with so many times the examples and the steps of the profile."""
    profile = settings()
    return settings(
        max_examples=round(profile.max_examples * examples),
        stateful_step_count=round(profile.stateful_step_count * steps),
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Explore from the seed that is given, or from that of the order of tests, or from a random one."""
    if core.global_force_seed is None:
        seed = config.getoption("randomly_seed", None) or random.SystemRandom().getrandbits(32)
        core.global_force_seed = seed  # type: ignore[assignment]  # as the option of Hypothesis sets it


def pytest_report_header() -> str:
    """Return the option that repeats the examples of this run."""
    return f"Examples of --hypothesis-seed={core.global_force_seed}"
