"""The pickle codec: fast and faithful, and by default unable to run code.

This module promises that a trusted codec carries whatever pickle carries, that an untrusted one
builds only what its allow-list permits, and that both refuse on the way in what they could not give
back: what can be consumed only once, and (untrusted) what its own allow-list would refuse.
"""

from __future__ import annotations

import functools
import io
import itertools
import pickle
import sys
from collections.abc import Iterable
from pickle import loads
from typing import Any, Final, final

from cachekit.errors import OnceOnlyError, SerializationError, UnreadableError, ValueTooLargeError
from cachekit.model.storable import refusal_of
from cachekit.runtime.interrupts import is_no_fault_of_value
from cachekit.serialization import pickle_inspector
from cachekit.serialization.class_fingerprints import find_by_import, table_of
from cachekit.serialization.collisions import HealthMonitor, check_within, watched
from cachekit.serialization.parts import LARGE, UNBOUNDED, Parts, Payload, pieces_of, too_large
from cachekit.serialization.pickle_allowlist import Allowance, Table, Use, line_to_add, resolve, table, unfit
from cachekit.serialization.pickle_literals import is_deep, is_deep_in_portions, is_simple, recognise

PROTOCOL: Final = 5

# Of these, an exact instance is all that there is to see: no need to look inside.
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})

#: PROTO; then BINUNICODE and BINUNICODE8, or BINBYTES and BINBYTES8; then MEMOIZE and STOP.
_BEGIN: Final = b"\x80\x05"
_TEXT: Final = b"X", b"\x8d"
_BYTES: Final = b"B", b"\x8e"
_END: Final = b"\x94."
#: The opcodes whose length takes four bytes, or eight: of texts, bytes and bytearrays.
_SHORT_HEADERS: Final = b"XB"
_LONG_HEADERS: Final = b"\x8d\x8e\x96"
_MOST_SHORT: Final = 0xFFFFFFFF
#: Characters of a text that are encoded together.
_SLICE: Final = 1 << 20

# Types that were looked at and left to pickle: looking again would cost as much as pickling a
# datetime does. Emptied when full, so that it does not keep classes alive for ever.
_unremarkable: set[type] = set()
_MOST_UNREMARKABLE: Final = 256


class _Sink:
    """What a pickler writes to. It ends the pickling once the bound is passed."""

    __slots__ = ("left", "most", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.most = self.left = 0

    def write(self, piece: Any) -> None:
        """Keep a frame, or what a large object holds, which may be the object itself."""
        plain = type(piece) is bytes
        size = len(piece) if plain else memoryview(piece).nbytes
        self.left -= size
        if self.left < 0:
            raise too_large(self.most - self.left)
        self.pieces.append(piece if plain else bytes(piece))  # which may change later


class _Pickler(pickle.Pickler):
    """A pickler that looks at each value that is not a plain builtin, and so refuses what is read once."""

    def __init__(self) -> None:
        self.sink = _Sink()
        super().__init__(self.sink, PROTOCOL)
        #: The classes of the values, and those that are values. By address: some cannot be hashed.
        self.kinds: dict[int, type] = {}

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        self.kinds[id(kind)] = kind
        if kind in _unremarkable:
            return NotImplemented
        if isinstance(value, type):
            self.kinds[id(value)] = value
            return NotImplemented
        refusal = refusal_of(value)
        if refusal is not None:
            raise OnceOnlyError(f"the value contains {refusal}")
        if kind.__name__ == "ZoneInfo" and kind.__module__ == "zoneinfo":
            # Pickle would store a getattr(ZoneInfo, "_unpickle"), which no allow-list can permit.
            # ZoneInfo(key) does the same for every zone that came from there.
            _, (key, from_cache) = value.__reduce__()
            return (kind, (key,)) if from_cache else NotImplemented
        if len(_unremarkable) >= _MOST_UNREMARKABLE:
            _unremarkable.clear()
        _unremarkable.add(kind)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Finds classes on a list and nowhere else; a guarded one is handed out as its guard."""

    def __init__(self, payload: bytes, allowed: Table) -> None:
        super().__init__(io.BytesIO(payload))
        self._allowed = allowed
        self._allowance = Allowance(len(payload))
        self._watch = HealthMonitor()

    def find_class(self, module: str, name: str) -> Any:
        grant = self._allowed.get((module, name))
        if grant is None:
            raise pickle_inspector.RefusedClassError(module, name)
        found = resolve(grant, module, name)
        if grant.guard is None:
            return found
        if grant.use is Use.NEW:
            return grant.guard(found)
        return functools.partial(grant.guard, self._allowance, found)

    def persistent_load(self, parts: Any) -> Any:
        # No stored pickle comes here: inspection knows no opcode of persistent ids. `watched` writes them.
        return self._watch.fill(parts)


@final
class PickleCodec:
    """Values as pickles of protocol 5. Safe to share between threads.

    Args:
        allow: classes that an untrusted pickle may name besides the standard list.
        trusted: read pickles without looking at what they do: for bytes that are signed, or from a
            place where no other user can write.

    Raises:
        TypeError, ValueError: something in `allow` is no class, or cannot be found by its name.
    """

    name: str = "pickle"
    code: int = 1

    def __init__(self, allow: Iterable[Any] = (), *, trusted: bool = False) -> None:
        self._allowed = table(allow)
        #: Whether it reads pickles without looking at what they do.
        self.trusted = trusted

    def encode(self, value: Any) -> bytes:
        """The value as a pickle that this codec reads.

        Raises:
            SerializationError: see `encode_with_classes`.
        """
        return b"".join(pieces_of(self.encode_with_classes(value)[0]))

    def encode_with_classes(self, value: Any, most: int = UNBOUNDED) -> tuple[Payload, bytes]:
        """The value as a pickle that this codec reads, and the table of its classes, which `find` finds.

        Args:
            value: the value.
            most: bytes that the pickle may have. A larger one is not built whole.

        Raises:
            SerializationError: pickle cannot carry the value, it can be consumed only once, or it
                contains a class that this codec would refuse to read.
            ValueTooLargeError: the pickle would have more than `most` bytes.
        """
        kind = type(value)
        if kind in _SCALARS:
            if (kind is bytes or kind is str) and len(value) > LARGE:
                return _in_parts(value, most), b""
            scalar = pickle.dumps(value, PROTOCOL)
            return scalar if self.trusted else self._verified(value, scalar), b""
        payload, kinds = _dumped(value, most)
        if self.trusted:
            return payload, table_of(kinds.values()) if kinds else b""
        if not kinds and isinstance(payload, Parts) and self._is_verified_by_outline(payload):
            return payload, b""
        whole = payload if isinstance(payload, bytes) else _joined(payload)
        if not kinds:
            return whole if is_simple(whole) else self._verified(value, whole), b""
        # What a registered function makes is whole, whatever its class.
        known = [one for one in kinds.values() if (one.__module__, one.__qualname__) in self._allowed]
        return self._verified(value, whole), table_of(known)

    def _is_verified_by_outline(self, payload: Parts) -> bool:
        """Verify what is left without large texts, if they are most of it; return False to verify it whole.

        To join the parts, or to read them back, would take the memory of the value once more.
        """
        outline = _outline(payload)
        if outline is None:
            return False
        try:
            if not is_simple(outline):
                self._verify(loads(outline), outline)
        except SerializationError:
            return False  # verified whole, the error speaks of the value itself
        return True

    def _verified(self, value: Any, payload: bytes) -> bytes:
        self._verify(value, payload)
        return payload

    def decode(self, payload: bytes | memoryview) -> Any:
        """The value in the pickle.

        Raises:
            UnreadableError: it is damaged or hostile (damage), or names a class that may not be
                unpickled or is gone (class).
        """
        try:
            if self.trusted:
                return loads(payload)
            # First look, then load, both on the same immutable bytes: nothing can change them in between.
            whole = payload if type(payload) is bytes else bytes(payload)
            return loads(whole) if is_simple(whole) else self._load_allowed(whole)
        except UnreadableError:
            raise
        except (ImportError, AttributeError) as error:
            if is_no_fault_of_value(error):
                raise
            raise UnreadableError(f"a class of the stored value is gone: {error}", "class") from error
        except Exception as error:
            if is_no_fault_of_value(error):
                raise
            raise UnreadableError(
                f"the stored pickle cannot be loaded: {type(error).__name__}", "damage"
            ) from error

    def find(self, module: str, name: str) -> object:
        """Return the class of these names, if this codec may read it."""
        if self.trusted:
            return find_by_import(module, name)
        return resolve(self._allowed[module, name], module, name)

    def _load_allowed(self, payload: bytes) -> Any:
        plain = recognise(payload)
        if plain is not None:
            value = _Unpickler(watched(payload), {}).load() if plain.may_collide else loads(payload)
            if plain.may_be_deep and is_deep(value):
                pickle_inspector.inspect(payload, self._allowed)
            return value
        return self._load_inspected(payload, pickle_inspector.inspect(payload, self._allowed))

    def _load_inspected(self, payload: bytes, inspected: pickle_inspector.Inspected) -> Any:
        return _Unpickler(watched(payload) if inspected.collides else payload, self._allowed).load()

    def _verify(self, value: Any, payload: bytes) -> None:
        """Find out what reading would refuse, so that a refusal comes at `set` and not as misses.

        What names no class is not read back: that would take the memory of the value once more.
        """
        try:
            plain = recognise(payload)
            if plain is not None:
                if plain.may_be_deep and is_deep_in_portions(value, len(payload)):
                    pickle_inspector.inspect(payload, self._allowed)
                if plain.may_collide:
                    check_within(value)
                return
            inspected = pickle_inspector.inspect(payload, self._allowed)
            if not inspected.names:
                if inspected.collides:
                    check_within(value)
                return
            loaded = self._load_inspected(payload, inspected)
        except pickle_inspector.RefusedClassError as refused:
            raise SerializationError(_refusal(value, refused.module, refused.name)) from refused
        except Exception as error:
            if is_no_fault_of_value(error):
                raise
            raise SerializationError(
                f"a {type(value).__name__} was pickled, but could not be read back from a place "
                f"that is not trusted: {error}; give the cache a secret=, or store simpler values"
            ) from error
        if type(loaded) is not type(value):
            raise SerializationError(
                f"a {type(value).__name__} would come back as a {type(loaded).__name__}; "
                f"store one of the two plainly"
            )

    def __repr__(self) -> str:
        return f"PickleCodec(trusted={self.trusted})"


#: Picklers that are not in use. One that is made takes longer than what it does to a small value.
_free: list[_Pickler] = []


def _dumped(value: Any, most: int) -> tuple[Payload, dict[int, type]]:
    """Return the pickle of a value, and the classes that the pickler met."""
    try:
        pickler = _free.pop()
    except IndexError:
        pickler = _Pickler()
    sink = pickler.sink
    sink.most = sink.left = most
    try:
        pickler.dump(value)  # after an error it is not used again
    except (SerializationError, ValueTooLargeError):
        raise
    except RecursionError as error:
        if is_no_fault_of_value(error):
            raise
        raise SerializationError(
            f"a {type(value).__name__} is nested too deeply to be pickled; store a flatter value"
        ) from error
    except Exception as error:
        if is_no_fault_of_value(error):
            raise
        from cachekit.serialization.unpicklable import refusal_by_pickle  # few values need it

        raise SerializationError(refusal_by_pickle(value, error)) from error
    kinds, pieces = pickler.kinds, sink.pieces
    if len(pieces) == 1:
        payload = pieces.pop()
        if kinds:
            pickler.kinds = {}
        pickler.clear_memo()
        _free.append(pickler)
        return payload, kinds
    # Its memo is as large as the value was.
    return b"".join(pieces) if most - sink.left <= LARGE else Parts(pieces), kinds


def _in_parts(value: bytes | str, most: int) -> Parts:
    """Return the pickle of a large text, or of large bytes, which are one of its pieces."""
    if len(value) > most:  # a character takes a byte at least
        raise too_large(len(value))
    opcodes, pieces = _BYTES, [b""]
    if isinstance(value, bytes):
        pieces.append(value)
    else:
        opcodes, left = _TEXT, most
        for start in range(0, len(value), _SLICE):
            pieces.append(value[start : start + _SLICE].encode("utf-8", "surrogatepass"))
            left -= len(pieces[-1])
            if left < 0:
                raise too_large(most - left)
    size = sum(map(len, pieces))
    short = size <= _MOST_SHORT
    pieces[0] = _BEGIN + opcodes[not short] + size.to_bytes(4 if short else 8, "little")
    parts = Parts((*pieces, _END))
    if len(parts) > most:
        raise too_large(len(parts))
    return parts


def _outline(parts: Parts) -> bytes | None:
    """Return a pickle with a short text in place of each that is a piece of its own; None if they are few.

    The pickler writes a large text, or large bytes, as a piece behind one that ends with opcode and length.
    The short ones differ from each other, as keys have to.
    """
    headers, texts = [b""], 0  # of each piece, what stands before it if it is a text
    for before, piece in itertools.pairwise(parts.pieces):
        headers.append(b"" if headers[-1] else _header_of(before, len(piece)))
        texts += len(piece) if headers[-1] else 0
    if 2 * texts < len(parts):
        return None
    pieces: list[bytes] = []
    for number, (header, piece) in enumerate(zip(headers, parts.pieces, strict=True)):
        if header:
            short = b"%x" % number
            pieces[-1] = pieces[-1][: -len(header)]
            pieces += header[:1], len(short).to_bytes(len(header) - 1, "little"), short
        else:
            pieces.append(piece)
    return b"".join(pieces)


def _header_of(piece: bytes, size: int) -> bytes:
    """Return the opcode and the length with which a piece ends that a text of this size follows; else b""."""
    for opcodes, width in ((_SHORT_HEADERS, 4), (_LONG_HEADERS, 8)):
        header = piece[-1 - width :]
        if len(header) > width and header[0] in opcodes and int.from_bytes(header[1:], "little") == size:
            return header
    return b""


def _joined(parts: Parts) -> bytes:
    """Return the pieces as one, and free each as it is copied: both together would be twice the value."""
    whole = io.BytesIO()
    pieces = parts.pieces
    pieces.reverse()
    while pieces:
        whole.write(pieces.pop())
    return whole.getvalue()


def _refusal(value: Any, module: str, name: str) -> str:
    kind = type(value)
    named = getattr(sys.modules.get(module), name, None)
    if callable(named) and not isinstance(named, type):
        beginning = (
            f"cannot store a value of type {kind.__name__}, because reading it would call {module}.{name}: "
        )
    else:
        found = (kind.__module__, kind.__qualname__) != (module, name)
        inside = f" (found in a value of type {kind.__name__})" if found else ""
        beginning = f"cannot store a value of type {module}.{name}{inside}: "
    reason = unfit(module, named)
    if reason is not None:
        return f"{beginning}{reason}; give the cache a secret=, or store simpler values"
    if (module, name) in table(()):
        return (
            f"{beginning}this class is stored only as a plain instance of its own here, with "
            f"nothing added and not as a value itself; give the cache a secret=, or store simpler "
            f"values"
        )
    return (
        f"{beginning}the place where this cache stores is not trusted, so only registered classes "
        f"may be unpickled from it. If this one is safe to call with any arguments, write "
        f"{line_to_add(module, name)}; or give the cache a secret="
    )
