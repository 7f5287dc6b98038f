"""The eviction policies of the memory tier: one policy per file, with the algorithm's essay in its class.

LRU is not here, because the store of the memory tier is an LRU queue. `base.EvictionPolicy` says when each
method is called. `policies` imports all of them, so a program with LRU tiers only never loads it. The
amortized cost of a hit and of an eviction is constant in each policy except SoonestToExpire, where it grows
with the logarithm of the number of entries.
"""
