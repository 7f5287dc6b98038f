"""What mypy cannot see: static methods called through an instance, and methods with type variables."""

# mypy: ignore-errors

from __future__ import annotations

from typing import TypeVar, assert_type

from cachekit import cache_result

T = TypeVar("T")


class Client:
    """A class with static methods."""

    @staticmethod
    @cache_result
    def free(key: int) -> complex:
        """A static method."""
        return key * 1j

    @staticmethod
    @cache_result
    async def free_later(key: int) -> complex:
        """A static method that is awaited."""
        return key * 1j


async def methods(client: Client) -> None:
    """What can be called, and what cannot."""
    assert_type(client.free(1), complex)
    assert_type(await client.free_later(1), complex)

    client.free("1")  # type: ignore[arg-type]
    await client.free_later()  # type: ignore[call-arg]


class Box:
    """A class with a generic method."""

    @cache_result(ignore=("self",))
    def get(self, kind: type[T]) -> T:
        """A method with a type variable of its own, which mypy loses."""
        return kind()

    @cache_result(ignore=("self",))
    async def fetch(self, kind: type[T]) -> T:
        """The same, awaited."""
        return kind()


async def generic_methods(box: Box) -> None:
    """What a method with a type variable returns."""
    assert_type(box.get(int), int)
    assert_type(await box.fetch(int), int)

    box.get(1)  # type: ignore[arg-type]
