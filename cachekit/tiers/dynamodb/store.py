"""Items in a DynamoDB table: the requests of each call, and what the answers mean.

All reads are consistent, and all writes that compare do so in the table. An item whose end is over counts as
absent, because DynamoDB removes it days later. No request is repeated by boto3, which waits in between, and
would find its own first write when it repeats a conditional one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Final, final
from urllib.parse import SplitResult, urlsplit

from cachekit.errors import CacheClosedError, TierUnavailableError, ValueTooLargeError
from cachekit.model.display import safe_repr, typed_repr
from cachekit.model.validation import seconds
from cachekit.runtime import fork
from cachekit.runtime.clock import Clock
from cachekit.runtime.interrupts import interrupt_behind
from cachekit.runtime.reentrant_lock import RLock
from cachekit.tiers.fresh_tokens import fresh
from cachekit.tiers.polled import Item

_CONNECTIONS: Final = 1_000  # that are kept; urllib3 closes, and warns of, those of more calls at a time
_BATCH: Final = 100  # names that one request may read
_ROUNDS: Final = 8  # of a batch that is answered in parts; each answers at most 16 MB
_LARGEST: Final = 399_000  # bytes of data; names and numbers of an item take less than the rest of 400 KB
_LATEST: Final = 2**40  # the last second at which an item may end
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")
#: The codes of credentials that are wrong, or have expired. Others may be there by now.
_NOT_LET_IN: Final = ("ExpiredTokenException", "InvalidSignatureException", "UnrecognizedClientException")
_THROTTLED: Final = (
    "ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException",
)  # fmt: skip


@final
class DynamoDBStore:
    """A `PolledStore` in a table. Safe in any thread, before and after a fork.

    The first call imports boto3 and makes its client, which takes about a second.

    Args:
        table: the table's name. Its partition key is the text `k`, and it has no sort key.
        key_prefix: the beginning of all names.
        place: region, endpoint and profile; None for what boto3 finds.
        timeout: seconds to wait for a connection or an answer.
        clock: the clock by which items end.

    Raises:
        TypeError, ValueError: an argument is wrong.
        ModuleNotFoundError: the extra `dynamodb` is not installed.
    """

    def __init__(
        self,
        table: str,
        key_prefix: str,
        place: tuple[str | None, str | None, str | None],
        timeout: float,
        clock: Clock,
    ) -> None:
        self._table = _checked_table(table)
        self._prefix = key_prefix
        self._region, self._endpoint, self._profile = _checked_place(place)
        self._timeout = seconds(timeout, "timeout")
        if not 0 < self._timeout <= 3600:
            raise ValueError(f"timeout must be more than 0 and at most 3600 seconds, not {timeout!r}")
        if find_spec("boto3") is None:
            raise ModuleNotFoundError(
                "DynamoDBCache needs boto3; install it with: pip install 'cachekit-tiered[dynamodb]'"
            )
        self._clock = clock
        self._lock = RLock()  # signal handlers use caches too
        self._client: Any = None
        self._closed = False
        fork.register(self)

    # -- requests -----------------------------------------------------------------------------------

    def _connected(self) -> Any:
        """Return the client, which connects by itself."""
        client = self._client
        if client is not None:
            return client
        with self._lock:
            if self._client is None:
                from boto3.session import Session
                from botocore.config import Config

                from cachekit.tiers.socket_options import DISCARD_UNSENT

                config = Config(
                    connect_timeout=self._timeout,
                    read_timeout=self._timeout,
                    retries={"total_max_attempts": 1},
                    max_pool_connections=_CONNECTIONS,
                    tcp_keepalive=True,
                )
                session = Session(profile_name=self._profile, region_name=self._region)
                client = session.client("dynamodb", endpoint_url=self._endpoint, config=config)
                # The driver has no public name for the options of its sockets.
                client._endpoint.http_session._socket_options.append(DISCARD_UNSENT)
                self._client = client
            return self._client

    def _ask(self, operation: str, again: Callable[[], dict[str, Any]] | None, **arguments: Any) -> Any:
        """Return the answer to a request; None if its condition does not hold.

        Args:
            operation: the client's method.
            again: returns the arguments of a second try, if a connection broke. It may find its own first
                one. None for no second try.
            arguments: those of the method.
        """
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, NoCredentialsError

        if self._closed:
            raise CacheClosedError("this tier was closed; make a new one")
        try:
            return getattr(self._connected(), operation)(**arguments)
        except (BotoCoreError, ClientError, OSError, ValueError) as error:  # the last for some endpoints
            struck = interrupt_behind(error)
            if struck is not None:
                raise struck from None
            if again is not None and isinstance(error, ConnectionClosedError):
                return self._ask(operation, None, **again())
            code, said = _answered(error) if isinstance(error, ClientError) else ("", "")
            if isinstance(error, NoCredentialsError) or code in _NOT_LET_IN:
                self._client = None  # a client looks for credentials once
            if isinstance(error, ClientError):
                if code == "ConditionalCheckFailedException":
                    return None
                if code == "ValidationException" and "Item size" in said:
                    raise ValueTooLargeError(f"{self!r} has refused the value: {said}") from None
                raise TierUnavailableError(f"{self!r} failed: {code}: {said}{_remedy(code)}") from error
            raise TierUnavailableError(f"{self!r} failed: {type(error).__name__}: {error}") from error

    # -- items --------------------------------------------------------------------------------------

    def read(self, names: Sequence[str]) -> dict[str, Item]:
        """Return the items that are there, with one request for each 100 names."""
        names = list(dict.fromkeys(names))
        now = self._clock.time()
        return {
            _text(item, "k", "S"): Item(_data(item), item.get("v"))
            for begin in range(0, len(names), _BATCH)
            for item in self._batch(names[begin : begin + _BATCH])
            if not _end(item) <= now
        }

    def _batch(self, names: Sequence[str]) -> list[dict[str, Any]]:
        asked: Any = {self._table: {"Keys": [{"k": {"S": name}} for name in names], "ConsistentRead": True}}
        found: list[dict[str, Any]] = []
        for _ in range(_ROUNDS):
            answer = self._ask("batch_get_item", partial(dict, RequestItems=asked), RequestItems=asked)
            responses = answer.get("Responses")
            if responses is None:
                # A connection that is cut within the head of an answer leaves one without content.
                raise TierUnavailableError(f"{self!r} answered a read without content")
            found += responses.get(self._table, [])
            asked = answer.get("UnprocessedKeys")
            if not asked:
                return found
        left = len(asked[self._table]["Keys"])
        raise TierUnavailableError(f"{self!r} left {left} of {len(names)} items unread; it is throttled")

    def write(self, name: str, data: bytes, life: float | None) -> None:
        """Store an item in place of an older one."""
        self.write_either(name, data, lambda: data, life)

    def write_either(self, name: str, data: bytes, other: Callable[[], bytes], life: float | None) -> None:
        """Store `data` in place of an older item; or `other()`, if the connection broke before an answer."""
        self._ask("put_item", lambda: self._put(name, other(), life), **self._put(name, data, life))

    def add(self, name: str, data: bytes, life: float | None) -> bool:
        """Store an item if there is none; return whether it was stored."""
        now = {"N": str(math.floor(self._clock.time()))}
        return self._stored(name, data, life, "attribute_not_exists(k) OR e <= :now", {":now": now})

    def replace(self, name: str, data: bytes, life: float | None, version: object) -> bool:
        """Store an item in place of the one that has this version; return whether it was stored."""
        if version is None:  # no cache has written it
            return self._stored(name, data, life, "attribute_exists(k) AND attribute_not_exists(v)", None)
        return self._stored(name, data, life, "v = :version", {":version": version})

    def _stored(
        self, name: str, data: bytes, life: float | None, condition: str, values: dict[str, Any] | None
    ) -> bool:
        compared = {} if values is None else {"ExpressionAttributeValues": values}
        put = self._put(name, data, life)
        return self._ask("put_item", None, ConditionExpression=condition, **compared, **put) is not None

    def _put(self, name: str, data: bytes, life: float | None) -> dict[str, Any]:
        if len(data) > _LARGEST:
            raise ValueTooLargeError(
                f"the value must be at most {_LARGEST:,} bytes as it is stored, not {len(data):,}: DynamoDB "
                f"takes 400 KB for an item; cache the parts of the value"
            )
        item = {"k": {"S": name}, "d": {"B": data}, "v": {"N": str(fresh())}}
        if life is not None:
            end = math.ceil(min(self._clock.time() + life, _LATEST))
            item["e"] = {"N": str(end)}
        return {"TableName": self._table, "Item": item}

    # -- life ---------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Return if the table can be read. The name has the prefix, as rights may be limited to that."""
        self.read([f"{self._prefix}ping"])

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def before_fork(self) -> None:
        """Take the lock."""
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        """Leave the parent's connections, and the locks in its client, alone in the child."""
        if in_child:
            self._lock = RLock()
            self._client = None
        else:
            self._lock.release()

    def __repr__(self) -> str:
        where = self._endpoint or self._region
        return f"DynamoDB table {self._table!r}" + ("" if where is None else f" at {where}")


def _answered(error: Any) -> tuple[str, str]:
    """Return the code and the message of an answer that is an error."""
    answer = error.response.get("Error", {})
    return answer.get("Code", ""), answer.get("Message", "")


def _data(item: dict[str, Any]) -> bytes:
    data = item.get("d", {}).get("B")
    return data if isinstance(data, bytes) else b""  # no cache has written it


def _end(item: dict[str, Any]) -> float:
    try:
        return float(_text(item, "e", "N") or math.inf)
    except ValueError:
        return math.inf  # no cache has written it


def _text(item: dict[str, Any], attribute: str, kind: str) -> str:
    return str(item.get(attribute, {}).get(kind, ""))


def _remedy(code: str) -> str:
    if code in _THROTTLED:
        return "; give the table more capacity, or keep entries in memory above it"
    if code == "ResourceNotFoundException":
        return "; make a table with the partition key k (String)"
    if code == "ValidationException":
        return "; the table must have the partition key k (String), and no sort key"
    return ""


def _checked_table(table: str) -> str:
    if not isinstance(table, str):
        raise TypeError(f"table must be the name of a table, not {typed_repr(table)}; pass a str")
    if not _NAME.fullmatch(table):
        raise ValueError(
            f"table must be 3 to 255 letters, digits, '_', '.' and '-', not {safe_repr(table)}; "
            f"pass the name of a table, and a URL as endpoint"
        )
    return table


def _is_port_valid(parts: SplitResult) -> bool:
    """Return False if the port is no number, or too large."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def _checked_place(
    place: tuple[str | None, str | None, str | None],
) -> tuple[str | None, str | None, str | None]:
    for name, given in zip(("region", "endpoint", "profile"), place, strict=True):
        if given is not None and not isinstance(given, str):
            raise TypeError(f"{name} must be a str or None, not {safe_repr(given)}")
        if given == "":
            raise ValueError(f"{name} must not be empty; pass None for what boto3 finds")
    endpoint = place[1]
    if endpoint is not None:
        parts = urlsplit(endpoint)
        if "@" in parts.netloc:
            raise ValueError("endpoint must have no user and password; boto3 reads credentials itself")
        if parts.scheme not in ("http", "https") or not parts.hostname or not _is_port_valid(parts):
            raise ValueError(f"endpoint must be a URL such as 'https://host:8000', not {safe_repr(endpoint)}")
    return place
