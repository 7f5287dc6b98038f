"""Leases between processes and hosts, so that one of them loads a key, and slots that bound how many load.

A lease is a plain object: it belongs to no thread, and whoever has it may release it. To lose one is
never an error of correctness, only a second load; what a value may overwrite is decided by fences. So a
holder that dies, stops or hangs holds up others no longer than they are willing to wait (`wait_for`),
and a child of a fork holds nothing of its parent's.

Two holders that wait for each other would both wait to the end; `turns` sees to it that none does.
"""
