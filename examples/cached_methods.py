"""Methods: is the instance part of the question or not?"""

from __future__ import annotations

from dataclasses import dataclass

from cachekit import cache_result


@dataclass(frozen=True)
class Shop:
    """A dataclass is told from another by its fields, so `self` may be part of the question."""

    country: str

    @cache_result
    def tax(self, price: int) -> float:
        """What the state takes of a price."""
        print(f"  working out the tax on {price} in {self.country}")
        return price * {"DE": 0.19, "FR": 0.2}[self.country]


class Client:
    """One connection is as good as another, so `self` is left out."""

    def __init__(self) -> None:
        self.connection = object()

    @cache_result(ignore=("self",))
    def user(self, user_id: int) -> str:
        """The user's name."""
        print(f"  asking the server for user {user_id}")
        return f"user {user_id}"

    @staticmethod
    @cache_result
    def normalised(name: str) -> str:
        """One spelling of each name."""
        return name.strip().lower()


print(Shop("DE").tax(100), Shop("DE").tax(100), Shop("FR").tax(100))
print(Client().user(1), Client().user(1))
print(Client.normalised(" Ada "))

# Ask about a method through its class, with the instance as the first argument.
print("forgotten:", Shop.tax.invalidate(Shop("DE"), 100))
