"""Stored bytes: one small room that every tier outside this process's memory shares.

`Serializer` turns a value with its times and tags into an envelope, and an envelope into a
`Stored`. Values come back as they went in or are refused on the way in, damage is noticed, and
bytes from a place that is not trusted cannot run code. The rest of the room is for it alone.
"""

from cachekit.serialization.serializer import Serializer, Stored
from cachekit.serialization.signing import secrets_from_environment

__all__ = ["Serializer", "Stored", "secrets_from_environment"]
