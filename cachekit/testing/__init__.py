"""Test tools for authors of tiers, and for users who test their own code.

`ManualClock` moves only on request, `TierContract` is the suite that every tier passes, `FaultyTier` fails on
request, `explain_calls` says why calls miss, and `pytest_plugin` has fixtures and a marker. For caches that
processes share: `history` checks results, `kills` kills processes, `damage` and `faults` harm files,
`processes` forks, and `clock.JumpingClock` jumps. `python -m cachekit.testing.compat URL` checks a server for
the Redis tier.
"""

TYPE_CHECKING = False  # every run of pytest loads this package, for `pytest_switch`
if TYPE_CHECKING:
    from cachekit.testing.clock import ManualClock
    from cachekit.testing.contract import TierContract
    from cachekit.testing.explained_calls import explain_calls
    from cachekit.testing.faulty import FaultyTier

__all__ = ["FaultyTier", "ManualClock", "TierContract", "explain_calls"]

#: The module of each name, imported when the name is first used.
_MODULES = {
    "FaultyTier": "faulty", "ManualClock": "clock", "TierContract": "contract",
    "explain_calls": "explained_calls",
}  # fmt: skip

if not TYPE_CHECKING:  # for a type checker, every name would exist

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'cachekit.testing' has no attribute {name!r}")
        import importlib

        found = getattr(importlib.import_module(f"cachekit.testing.{_MODULES[name]}"), name)
        return globals().setdefault(name, found)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
