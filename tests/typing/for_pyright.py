"""Static methods asked through an instance, which mypy takes for methods once a decorator was there."""

# mypy: ignore-errors

from __future__ import annotations

from typing import assert_type

from cachekit import cache_result


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
