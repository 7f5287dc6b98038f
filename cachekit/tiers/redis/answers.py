"""What the server may answer to each command. Anything else is no answer, and ends the connection.

A server, or a proxy before it, may answer anything. A connection that lost its order gives each command the
answer to another one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import is_
from typing import Any, Final, TypeAlias

#: Returns whether this can be the answer to a command.
Check: TypeAlias = Callable[[Any], bool]

_MOST: Final = 1 << 63
#: Returns whether it is None. In C, because each write asks it.
is_nothing: Final[Check] = partial(is_, None)
#: Digits of seconds since the epoch.
MOST_SECONDS: Final = 12
_OF_VALUES: Final = frozenset({bytes, type(None)})
_SLOTS: Final = 1 << 14  # of a Cluster
_MOST_NODES: Final = 2000  # of a Cluster; Redis is made for 1,000


def is_value(answer: object) -> bool:
    """Return whether it is bytes, or None for nothing."""
    return answer.__class__ is bytes or answer is None


def is_bytes(answer: object) -> bool:
    """Return whether it is bytes."""
    return answer.__class__ is bytes


def is_count(answer: object) -> bool:
    """Return whether it is a number of things; drivers turn 0 and 1 into bool."""
    return isinstance(answer, int) and 0 <= answer < _MOST


def is_count_or_nothing(answer: object) -> bool:
    """Return whether it is a number of things, or None."""
    return answer is None or is_count(answer)


def is_flag(answer: object) -> bool:
    """Return whether it is 0 or 1; drivers turn it into bool."""
    return isinstance(answer, int) and 0 <= answer <= 1


def is_flag_or_bytes(answer: object) -> bool:
    """Return whether it is 0, 1 or bytes."""
    return answer.__class__ is bytes or is_flag(answer)


def is_done(answer: object) -> bool:
    """Return whether it is the answer to SET: OK, or None for not done; drivers turn OK into True."""
    return answer is None or answer is True or answer == b"OK"


def _are_digits(answer: object, most: int) -> bool:
    return isinstance(answer, bytes) and len(answer) <= most and answer.isdigit()


def is_table(answer: object) -> bool:
    """Return whether it is a time in seconds, and fields and values in turn."""
    if type(answer) is not list or len(answer) != 2:
        return False
    now, fields = answer
    return (
        _are_digits(now, MOST_SECONDS)
        and type(fields) is list
        and len(fields) % 2 == 0
        and all(map(is_bytes, fields))
    )


def is_publication(answer: object) -> bool:
    """Return whether it is when a hash began, and the number of a record, 0 or -1."""
    if type(answer) is not list or len(answer) != 2:
        return False
    begun, number = answer
    return type(begun) is bytes and isinstance(number, int) and -1 <= number < _MOST


def is_pong(answer: object) -> bool:
    """Return whether it is the answer to PING; drivers turn it into True."""
    return answer is True or answer == b"PONG"


def is_page(answer: object) -> bool:
    """Return whether it is the answer to SCAN: a cursor, and names."""
    if type(answer) is not list or len(answer) != 2:
        return False
    cursor, names = answer
    return (
        _are_digits(cursor, len(str(1 << 64)))
        and type(names) is list
        and all(type(name) is bytes for name in names)
    )


def is_slots(answer: object) -> bool:
    """Return whether it is the answer to CLUSTER SLOTS: ranges of slots, and the nodes that serve each.

    The driver goes through every slot that an answer names, and makes a client for every node.
    """
    if type(answer) is not list or not answer:
        return False
    slots = 0
    nodes: set[tuple[object, object]] = set()
    for part in answer:
        match part:
            case [int(first), int(last), *serving] if serving and 0 <= first <= last < _SLOTS:
                slots += last + 1 - first
            case _:
                return False
        for node in serving:
            match node:
                case [bytes() | str() | None as host, int(port), *_] if 0 < port < 1 << 16:
                    nodes.add((host, port))
                case _:
                    return False
        if slots > _SLOTS or len(nodes) > _MOST_NODES:
            return False
    return True


def values(length: int) -> Check:
    """Return a check of a list of so many values, each of which `is_value`; without a call for each."""

    def are_values(answer: object) -> bool:
        return type(answer) is list and len(answer) == length and _OF_VALUES.issuperset(map(type, answer))

    return are_values


def list_of(check: Check, length: int) -> Check:
    """Return a check of a list of so many answers."""

    def is_list(answer: object) -> bool:
        return type(answer) is list and len(answer) == length and all(map(check, answer))

    return is_list


def is_text_pairs(answer: object) -> bool:
    """Return whether it is a list of names and values."""
    return type(answer) is list and len(answer) % 2 == 0 and all(type(part) is bytes for part in answer)


def is_role(answer: object) -> bool:
    """Return whether it is the answer to ROLE."""
    return type(answer) is list and bool(answer) and type(answer[0]) is bytes


def is_report(answer: object) -> bool:
    """Return whether it is the answer to INFO; drivers turn it into a dict."""
    return isinstance(answer, (bytes, dict))
