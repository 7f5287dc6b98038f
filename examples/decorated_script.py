"""Cache a function with two lines. In the second run of this program nothing is computed."""

from __future__ import annotations

from cachekit import cache_result


@cache_result
def count_primes(limit: int) -> int:
    print(f"  counting the primes below {limit} ...")
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, limit))


print("primes below 20000:", count_primes(20_000))
print("asked again:       ", count_primes(20_000))
print("in other words:    ", count_primes(limit=20_000))

info = count_primes.cache_info()
print(f"answers from the cache: {info.hits}, worked out: {info.misses}")
