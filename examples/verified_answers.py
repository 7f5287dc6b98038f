"""Find a forgotten argument: of some hits, the function is called again, and its result compared."""

import logging
import threading

from cachekit import IntelligentCache, LoadOptions

logging.basicConfig(format="%(levelname)s: %(message)s")
currency = "EUR"  # a global, which should be an argument
differed = threading.Event()


def tell(_key: str, cached: object, fresh: object) -> None:
    print(f"cached {cached}, fresh {fresh}")
    differed.set()


cache = IntelligentCache(
    file_cache=None,
    load=LoadOptions(verify=1.0, verify_budget=1.0, on_mismatch=tell),  # 0.01 in production
)


@cache.cached(ttl=3600, name="price")
def price(item: str) -> dict[str, object]:
    return {"item": item, "amount": len(item), "currency": currency}


price("apple")
currency = "CHF"
price("apple")  # a hit: still in EUR, and verified in the background
differed.wait(30)

health = cache.health()
print(f"{health.status}: {health.reasons[0].message}")
print(f"remedy: {health.reasons[0].remedy}")
print(cache.verifications())
cache.close()
