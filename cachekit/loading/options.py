"""LoadOptions: how a value is loaded. The TTLs and tags of the value are arguments beside its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias, final

from cachekit.model.display import safe_repr, typed_repr
from cachekit.model.validation import check_share

#: What shares one load of a key: the threads and tasks of a process; also the processes on a directory; also
#: the hosts on a server.
LeaseScope: TypeAlias = Literal["thread", "process", "fleet"]

_SCOPES: Final = ("thread", "process", "fleet")

#: What a verification does about a value that differs from a fresh load.
VerifyAction: TypeAlias = Literal["report", "replace"]

_ACTIONS: Final = ("report", "replace")

# A server counts milliseconds, and not every clock can wait for longer.
_SHORTEST: Final = 0.001
_LONGEST: Final = 1e9

_NAMES: Final = (
    "soft_timeout", "hard_timeout", "refresh_ahead", "lease", "lease_timeout", "max_concurrent_loads",
    "verify", "verify_budget", "verify_action", "same", "on_mismatch",
)  # fmt: skip


@final
class LoadOptions:
    """How values are loaded, for a whole cache, a cached function or one call. All is off by default.

    Args:
        soft_timeout: Seconds until a caller that has a stale value (`stale_ttl`) gets it. The load goes on in
            the background.
        hard_timeout: Seconds until a caller gets a LoadTimeoutError, or a stale value if it has one. The load
            goes on in the background, and its value is stored unless the key is invalidated. Later callers
            begin another load.
        refresh_ahead: The last part of a value's life, 0 to less than 1, in which a hit begins a reload in
            the background.
        lease: What shares one load of a key. "thread": the threads and tasks of this process. "process": the
            processes on the directory of the file tier. "fleet": the hosts on the server of the Redis tier.
        lease_timeout: Seconds to wait for a lease or a slot. Afterwards the load runs without one. A lease on
            the server also expires after this time, so make it longer than a load takes.
        max_concurrent_loads: How many loads run at once in all processes on the directory of the file tier,
            among those that give the same number. None is no limit.

        verify: The share of hits, 0 to 1, chosen at random, whose value is loaded again in the background and
            compared with what was served. See docs/verification.md.
        verify_budget: The share of time, more than 0 and up to 1, that verifications of one function take at
            most (default 0.05). There are at most ten a second.
        verify_action: "report" (the default) counts and logs a difference. "replace" also stores the fresh
            value, unless the key was written or invalidated since.
        same: From the cached and the fresh value to whether they are equal (default: `==`, with arrays,
            frames and NaN by content).
        on_mismatch: Called as `on_mismatch(key, cached, fresh)` in the background (default None).

    Seconds are from 0.001 to 1e9. If a timeout applies, a `def` loader runs in a thread of its own, in a copy
    of the caller's context. A loader that asks for other keys while it holds a lease or a slot waits for no
    further one.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range.
    """

    __slots__ = (
        "acts_on_hits",
        "hard_timeout",
        "lease",
        "lease_timeout",
        "max_concurrent_loads",
        "on_mismatch",
        "refresh_ahead",
        "same",
        "soft_timeout",
        "takes_turns",
        "verify",
        "verify_action",
        "verify_budget",
    )  # fmt: skip

    #: Whether a hit may begin a load.
    acts_on_hits: bool
    #: Whether a load may have to wait for loads of other processes.
    takes_turns: bool

    soft_timeout: float | None
    hard_timeout: float | None
    refresh_ahead: float
    lease: LeaseScope
    lease_timeout: float
    max_concurrent_loads: int | None
    verify: float
    verify_budget: float
    verify_action: VerifyAction
    same: Callable[[Any, Any], object] | None
    on_mismatch: Callable[[str, Any, Any], object] | None

    def __init__(
        self,
        *,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
        refresh_ahead: float = 0.0,
        lease: LeaseScope = "thread",
        lease_timeout: float = 30.0,
        max_concurrent_loads: int | None = None,
        verify: float = 0.0,
        verify_budget: float = 0.05,
        verify_action: VerifyAction = "report",
        same: Callable[[Any, Any], object] | None = None,
        on_mismatch: Callable[[str, Any, Any], object] | None = None,
    ) -> None:
        for name, value in (("soft_timeout", soft_timeout), ("hard_timeout", hard_timeout)):
            if value is not None:
                _check_seconds(name, value, "; None is off")
        _check_seconds("lease_timeout", lease_timeout, "")
        check_share("refresh_ahead", refresh_ahead, "the last part of a life")
        if lease not in _SCOPES:
            raise ValueError(f"lease must be one of {', '.join(map(repr, _SCOPES))}, not {safe_repr(lease)}")
        if max_concurrent_loads is not None:
            if isinstance(max_concurrent_loads, bool) or not isinstance(max_concurrent_loads, int):
                raise TypeError(
                    f"max_concurrent_loads must be an int or None, not {typed_repr(max_concurrent_loads)}"
                )
            if max_concurrent_loads < 1:
                raise ValueError(
                    f"max_concurrent_loads must be at least 1, not {max_concurrent_loads!r}; None is no limit"
                )
        _check_part("verify", verify, 0, "the share of hits")
        _check_part("verify_budget", verify_budget, 1e-6, "the share of time")
        if verify_action not in _ACTIONS:
            raise ValueError(f"verify_action must be 'report' or 'replace', not {safe_repr(verify_action)}")
        for name, function in (("same", same), ("on_mismatch", on_mismatch)):
            if function is not None and not callable(function):
                raise TypeError(
                    f"{name} must be a function, not {safe_repr(function)}; pass it without calling it"
                )
        arguments = (
            soft_timeout, hard_timeout, refresh_ahead, lease, lease_timeout, max_concurrent_loads,
            verify, verify_budget, verify_action, same, on_mismatch,
        )  # fmt: skip
        for name, said in zip(_NAMES, arguments, strict=True):
            object.__setattr__(self, name, said)
        object.__setattr__(self, "acts_on_hits", bool(refresh_ahead or verify))
        object.__setattr__(self, "takes_turns", lease != "thread" or max_concurrent_loads is not None)

    def shared_by(self, lease: LeaseScope) -> LoadOptions:
        """Return these options with another lease."""
        if self.lease == lease:
            return self
        return LoadOptions(**{**self._said(), "lease": lease})

    def _said(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _NAMES}

    def __eq__(self, other: object) -> bool:
        return self._said() == other._said() if isinstance(other, LoadOptions) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._said().values()))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"LoadOptions are frozen; make others instead of setting {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"LoadOptions are frozen; {name} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_of, (self._said(),)

    def __repr__(self) -> str:
        said = (f"{name}={value!r}" for name, value in self._said().items() if value != getattr(OFF, name))
        return f"LoadOptions({', '.join(said)})"


@final
class Prefetch:
    """How keys are loaded before they are asked for: `prefetch=True`, with other numbers than the defaults.

    Args:
        depth: The most keys ahead, 1 to 64 (default 16). It begins with one, and follows the latency.
        rows: The most keys whose successors are known, 1 to 1,000,000. None (the default) is four times the
            `max_size` of the memory tier, and at most 65,536.
        max_waste: The share of useful prefetches that may be wasted, 0 to 1 (default 0.25).
        clock: Whether keys that are asked for in the same minute of an hour or a day are loaded shortly
            before that minute (default True). It begins when they have proven to come again.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range.
    """

    __slots__ = ("clock", "depth", "max_waste", "rows")

    depth: int
    rows: int | None
    max_waste: float
    clock: bool

    def __init__(
        self, *, depth: int = 16, rows: int | None = None, max_waste: float = 0.25, clock: bool = True
    ) -> None:
        for name, value, most in (("depth", depth, 64), ("rows", rows, 1_000_000)):
            if value is None and name == "rows":
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {typed_repr(value)}")
            if not 1 <= value <= most:
                raise ValueError(f"{name} must be from 1 to {most:,}, not {value!r}")
        if isinstance(max_waste, bool) or not isinstance(max_waste, (int, float)):
            raise TypeError(f"max_waste must be a number, not {typed_repr(max_waste)}")
        if not 0 <= max_waste <= 1:
            raise ValueError(f"max_waste must be a share, 0 to 1, not {max_waste!r}")
        if not isinstance(clock, bool):
            raise TypeError(f"clock must be True or False, not {typed_repr(clock)}")
        for name, said in (("depth", depth), ("rows", rows), ("max_waste", max_waste), ("clock", clock)):
            object.__setattr__(self, name, said)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Prefetch is frozen; make another one instead of setting {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Prefetch is frozen; {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return self._said() == other._said() if isinstance(other, Prefetch) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._said())

    def _said(self) -> tuple[int, int | None, float, bool]:
        return self.depth, self.rows, self.max_waste, self.clock

    def __reduce__(self) -> tuple[Any, ...]:
        return _prefetch_of, self._said()

    def __repr__(self) -> str:
        said = f"depth={self.depth}, rows={self.rows}, max_waste={self.max_waste}, clock={self.clock}"
        return f"Prefetch({said})"


def _prefetch_of(depth: int, rows: int | None, max_waste: float, clock: bool = True) -> Prefetch:
    return Prefetch(depth=depth, rows=rows, max_waste=max_waste, clock=clock)


def checked_prefetch(prefetch: object) -> Prefetch | None:
    """Return the options, those of `prefetch=True`, or None for False.

    Raises:
        TypeError: it is neither a bool nor a Prefetch.
    """
    if prefetch is True:
        return Prefetch()
    if prefetch is False:
        return None
    if not isinstance(prefetch, Prefetch):
        raise TypeError(f"prefetch must be True, False or Prefetch(...), not {typed_repr(prefetch)}")
    return prefetch


def _made_of(said: dict[str, Any]) -> LoadOptions:
    return LoadOptions(**said)


def _check_seconds(name: str, value: object, off: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {typed_repr(value)}")
    if not _SHORTEST <= value <= _LONGEST:
        raise ValueError(f"{name} must be from {_SHORTEST} to {_LONGEST:g} seconds, not {value!r}{off}")


def _check_part(name: str, part: object, least: float, what: str) -> None:
    if isinstance(part, bool) or not isinstance(part, (int, float)):
        raise TypeError(f"{name} must be a number, not {typed_repr(part)}")
    if not least <= part <= 1:
        raise ValueError(f"{name} is {what}, from {least:g} to 1, not {part!r}")


#: Everything off.
OFF: Final = LoadOptions()


def checked_options(load: object) -> LoadOptions:
    """Return the options.

    Raises:
        TypeError: they are no LoadOptions.
    """
    if not isinstance(load, LoadOptions):
        raise TypeError(f"load must be LoadOptions(...), not {typed_repr(load)}")
    return load
