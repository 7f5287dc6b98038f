"""Checks the limits and the strategy of a `MemoryCache`, and creates the store for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from cachekit.model.display import safe_repr, typed_repr
from cachekit.model.types import TTL, CacheStrategy
from cachekit.tiers.arguments import checked_cap, checked_interval
from cachekit.tiers.memory.eviction.base import EvictionPolicy
from cachekit.tiers.memory.sizing import ByteBound, Weigher
from cachekit.tiers.memory.store import Store

if TYPE_CHECKING:
    from cachekit.tiers.memory.eviction.adaptive import Adaptive

#: A member of CacheStrategy, a factory of a policy, or a policy that no other cache has.
Strategy: TypeAlias = CacheStrategy | EvictionPolicy | Callable[[], EvictionPolicy]


def checked_limits(
    max_size: int, default_ttl: TTL, cleanup_interval: float | None
) -> tuple[float, float | None]:
    """Return the maximum life of an entry, and the interval of sweeps, in seconds.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range.
    """
    if isinstance(max_size, bool) or not isinstance(max_size, int):
        raise TypeError(f"max_size must be an int, not {typed_repr(max_size)}")
    if max_size < 1:
        raise ValueError(f"max_size must be at least 1, not {max_size}; use memory_cache=None for no tier")
    return checked_cap(default_ttl), checked_interval(cleanup_interval)


def store_for(
    strategy: Strategy, max_bytes: int | None, weigher: Weigher | None, limits: tuple[Any, ...]
) -> Store:
    """Return the store for a strategy and a bound; `limits` are the arguments of `Store`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a bound out of range, a weigher without a bound, or a policy that belongs to another
            cache.
    """
    if weigher is not None and max_bytes is None:
        raise ValueError("weigher must be None without max_bytes; set max_bytes too")
    bound = None if max_bytes is None else ByteBound(max_bytes, weigher)
    if strategy is CacheStrategy.LRU and bound is None:
        return Store(*limits)
    policy = None if strategy is CacheStrategy.LRU else _policy(strategy)

    from cachekit.tiers.memory.policy_store import PolicyStore

    return PolicyStore(*limits, policy=policy, bound=bound)


def adaptive_policy_of(store: Store) -> Adaptive[str] | None:
    """Return the policy of a store whose shape is chosen while it runs; None if it has another policy."""
    policy = store.policy
    if policy is None:
        return None

    from cachekit.tiers.memory.eviction.adaptive import Adaptive

    return policy if isinstance(policy, Adaptive) else None


def median_load_of(store: Store) -> float:
    """Return the median of the last load times in seconds, of a store whose strategy is COST_AWARE."""
    from cachekit.tiers.memory.eviction.cost_aware import CostAware

    policy = store.policy
    assert isinstance(policy, CostAware)
    return policy.median


def _policy(strategy: Strategy) -> EvictionPolicy:
    make: Any = strategy
    if isinstance(strategy, CacheStrategy):
        from cachekit.tiers.memory.eviction.policies import POLICIES

        make = POLICIES[strategy]
    elif not _makes_policies(strategy):
        if isinstance(strategy, EvictionPolicy):
            return strategy
        raise TypeError(
            f"strategy must be a member of CacheStrategy, an EvictionPolicy, or a function that makes one, "
            f"not {typed_repr(strategy)}"
        )
    policy = make()
    if not isinstance(policy, EvictionPolicy):
        wanted = ("begin", "insert", "hit", "prolong", "evict", "remove")
        missing = ", ".join(name for name in wanted if not hasattr(policy, name))
        raise TypeError(
            f"strategy must make an EvictionPolicy, not {safe_repr(policy)} as {safe_repr(strategy)} does; "
            f"add {missing}"
        )
    return policy


def _makes_policies(strategy: Strategy) -> bool:
    # A class has the methods of its instances too, and an instance may be callable.
    return isinstance(strategy, type) or (callable(strategy) and not isinstance(strategy, EvictionPolicy))


def refuse_to_copy(strategy: Strategy) -> None:
    """Raise TypeError if a cache with this strategy cannot be copied."""
    if not isinstance(strategy, CacheStrategy) and not _makes_policies(strategy):
        raise TypeError(
            f"a MemoryCache whose strategy is one policy, {strategy!r}, cannot be copied or pickled, "
            f"because a policy belongs to one cache; pass its class, or a function that makes one"
        )
