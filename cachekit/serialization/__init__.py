"""Values to bytes and back: what every tier outside this process's memory stores.

`serializer` is what a tier uses. Values come back as they went in, or are refused on the way in. Damage is
noticed. Bytes from a place that is not trusted cannot run code.
"""
