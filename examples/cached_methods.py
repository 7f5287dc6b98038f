"""Cache methods, with the instance as part of the key or without it."""

from __future__ import annotations

from dataclasses import dataclass

from cachekit import cache_result


@dataclass(frozen=True)
class Shop:
    """A dataclass is compared by its fields, so `self` can be part of the key."""

    country: str

    @cache_result
    def tax(self, price: int) -> float:
        """Return the tax on a price."""
        print(f"  working out the tax on {price} in {self.country}")
        return price * {"DE": 0.19, "FR": 0.2}[self.country]


class Client:
    """All connections return the same users, so `self` is left out of the key."""

    def __init__(self) -> None:
        self.connection = object()

    @cache_result(ignore=("self",))
    def user(self, user_id: int) -> str:
        """Return the user's name."""
        print(f"  asking the server for user {user_id}")
        return f"user {user_id}"

    @staticmethod
    @cache_result
    def normalised(name: str) -> str:
        """Return the name in one spelling."""
        return name.strip().lower()


print(Shop("DE").tax(100), Shop("DE").tax(100), Shop("FR").tax(100))
print(Client().user(1), Client().user(1))
print(Client.normalised(" Ada "))

# Call the functions of a cached method through its class, with the instance as the first argument.
print("forgotten:", Shop.tax.invalidate(Shop("DE"), 100))
