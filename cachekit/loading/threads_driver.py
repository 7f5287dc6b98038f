"""Loads: the load path, driven in the thread of its caller, or in one of its own if a timeout applies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeVar, final

from cachekit.coherence.load_fence import LoadFence
from cachekit.coherence.tier_stack import TierStack
from cachekit.loading.flights import Flight
from cachekit.loading.path import Acquire, Detach, End, LoadPath, Path, Step, Wait, raise_error
from cachekit.loading.request import LoadRequest
from cachekit.model.types import MISSING
from cachekit.runtime.background import BackgroundCall
from cachekit.runtime.backoff import wait_for

T = TypeVar("T")
V = TypeVar("V")


@final
class Loads:
    """The loads of one cache, for callers in threads. Safe in any thread."""

    __slots__ = ("figures", "flights", "path", "tasks")

    def __init__(self, tiers: TierStack) -> None:
        self.path = LoadPath(tiers)
        self.figures = self.path.figures
        self.flights = self.path.flights
        self.tasks = self.path.tasks

    def load(self, key: str, loader: Callable[[], V], request: LoadRequest) -> V:
        """Load a key that a lookup did not find, or wait for a load of it that is under way.

        Raises:
            SerializationError: the loader returned something that can be read only once.
            LoadTimeoutError: the load exceeded the hard timeout.
            Exception: what the loader raised, in this thread or another one.
        """
        values: dict[str, V] = {}
        raise_error(self.drive(self.path.load((key,), loader, request, values)))
        return values.get(key, MISSING)  # type: ignore[return-value]  # only if the request does not wait

    def load_many(
        self, keys: Sequence[str], loader: Callable[[list[str]], Mapping[str, V]], request: LoadRequest
    ) -> dict[str, V]:
        """Load distinct keys, with one call of the loader for those that are not being loaded.

        Returns:
            The values; a key that the loader left out is missing.

        Raises:
            TypeError: the loader returned no mapping.
            ValueError: the loader returned keys that are not in its argument.
            Exception: as `load`.
        """
        values: dict[str, V] = {}
        raise_error(self.drive(self.path.load(keys, loader, request.of_many(), values)))
        return values

    def reload(self, key: str, loader: Callable[[], V], request: LoadRequest) -> V:
        """Load a key whether or not a tier has it; no older load of the key is stored.

        The old value is served until the new one is loaded, and not afterwards. Other processes do not share
        such a load, and it has no soft timeout.
        """
        return self.load(key, loader, request.of_reload())

    def refresh(self, key: str, loader: Callable[[], Any], request: LoadRequest) -> None:
        """After a hit: begin a reload in the background if the value is in the last part of its life."""
        part, schedule = request.options.refresh_ahead, self.path.schedule
        if schedule.is_due(key, part):
            self.path.reload(key, loader, request, self._detach, partial(schedule.begins, key, part))

    def after_hit(
        self,
        key: str,
        value: Any,
        loader: Callable[[], Any],
        request: LoadRequest,
        name: str | None,
    ) -> None:
        """Begin what a hit asks for: a reload ahead of time, and a verification of the value.

        Args:
            key: The key.
            value: What was found.
            loader: Loads the key.
            request: How.
            name: The function of the loader, if the hit is to be verified.
        """
        if request.options.refresh_ahead:
            self.refresh(key, loader, request)
        if name is not None:
            self.path.verify(key, value, loader, request, name, partial(self._detach, ()))

    def reload_now(self, key: str, loader: Callable[[], Any], request: LoadRequest) -> None:
        """Reload a key in this thread, unless it is being loaded.

        Raises:
            Exception: what the loader raised.
        """
        # No local name for the outcome: the traceback of its error refers to this frame.
        here = lambda _, path: self.drive(path)  # noqa: E731
        raise_error(self.path.reload(key, loader, request, here, lambda: True))

    def close(self) -> None:
        """Begin no further load as a task, and release the leases. Loads that are under way may end."""
        self.path.permits.close()
        self.tasks.close()

    def drive(self, path: Path[T]) -> T:
        """Take the steps of a path in this thread, and return what the path returns."""
        struck = None
        while True:
            try:
                step = path.send(None) if struck is None else path.throw(struck)
                while True:
                    try:
                        value = step() if isinstance(step, partial) else self._take(step)
                    except BaseException as error:  # noqa: BLE001  # the path handles it or raises it
                        step = path.throw(error)
                    else:
                        step = path.send(value)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            except BaseException as error:
                if path.gi_frame is None:  # type: ignore[attr-defined]
                    raise
                struck = error  # between two steps, by Ctrl-C: the path ends its flights and its permit

    def _take(self, step: Step) -> Any:
        if isinstance(step, Wait):
            return step.flight.wait(step.seconds)
        if isinstance(step, Acquire):
            return wait_for(step.permit.try_acquire, monotonic() + step.seconds)
        if isinstance(step, Detach):
            return self._detach(step.flights, step.path)
        return step.detached.raise_exit() if isinstance(step, End) else None

    def _detach(self, _: Sequence[Flight[LoadFence]], path: Path[object]) -> BackgroundCall | None:
        background = BackgroundCall(partial(self.drive, path))
        return background if background.start() else None
