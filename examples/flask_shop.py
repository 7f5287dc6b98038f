"""A Flask app in one file, whose cache is cachekit: a view, a memoized function, and what drops them.

python examples/flask_shop.py
"""

from __future__ import annotations

import tempfile

from flask import Flask
from flask_caching import Cache

SERVED = {"prices": 0}

app = Flask(__name__)
app.config |= {
    "SECRET_KEY": "only for this example",
    "CACHE_TYPE": "cachekit.integrations.flask_caching.CacheKitCache",
    "CACHE_DIR": tempfile.mkdtemp(prefix="shop-"),
}
cache = Cache(app)


@cache.memoize(60)
def prices_of(shelf: str) -> dict[str, int]:
    """Stand for a slow query."""
    SERVED["prices"] += 1
    return {f"{shelf} {name}": price for name, price in (("apple", 3), ("pear", 4))}


@app.route("/prices/<shelf>")
@cache.cached(10, query_string=True)
def prices(shelf: str) -> dict[str, object]:
    """Serve the prices of a shelf."""
    return {"prices": prices_of(shelf), "page": cache.cache.inc("pages")}


if __name__ == "__main__":
    client = app.test_client()
    for _ in range(3):
        page = client.get("/prices/green").json
    print(page)
    client.get("/prices/green?page=2")
    cache.delete_memoized(prices_of)
    cache.delete("nothing")
    client.get("/prices/green?page=3")
    print(f"pages {cache.cache.get('pages')}, prices worked out {SERVED['prices']} times")
