"""The keys of requests, and the tags of URLs and responses.

A key is the URL as it was sent, and the request fields on which a response may depend without a `Vary`. No
I/O, no clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple, final
from urllib.parse import unquote_to_bytes, urlsplit

from cachekit.http.fields import Headers, combined, hyphenated, lines, members, text
from cachekit.http.rfc9111 import Request, authority, variant
from cachekit.model.types import NO_TAGS

#: Longer URLs are stored under a digest.
_LONGEST_URL: Final = 1024

#: A response with more tags, or longer ones, is not stored, because a purge might not find it.
_MOST_TAGS: Final = 128
_LONGEST_TAG: Final = 1024

#: RFC 3986, section 3.2.2: a name or an address, and a port. Anything else is no part of a key.
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

#: What a target consists of: visible ASCII, and no fragment.
_PLAIN: Final = re.compile(rb"[\x21\x22\x24-\x7e]*")

#: Request fields beside `X-...` that are part of every key. Frameworks and proxies tell users, addresses and
#: parts of a page by them, and responses often depend on them without a `Vary`.
KEYED_FIELDS: Final = frozenset({
    b"api-key", b"cf-access-jwt-assertion", b"forwarded", b"front-end-https", b"hx-boosted",
    b"hx-current-url", b"hx-history-restore-request", b"hx-request", b"hx-target", b"hx-trigger",
    b"next-router-prefetch", b"next-router-state-tree", b"next-url", b"proxy-authorization", b"remote-user",
    b"rsc", b"ssl-client-cert", b"ssl-client-dn", b"turbo-frame", b"unpoly-target",
})  # fmt: skip
#: `X-...` fields that are no part of a key: they tell requests, connections and clients apart.
UNKEYED_FIELDS: Final = frozenset({
    b"x-amz-cf-id", b"x-amzn-trace-id", b"x-appengine-request-log-id", b"x-arr-log-id", b"x-azure-ref",
    b"x-client-data", b"x-client-ip", b"x-client-trace-id", b"x-cloud-trace-context",
    b"x-cluster-client-ip", b"x-correlation-id", b"x-envoy-external-address", b"x-forwarded-client-ip",
    b"x-forwarded-for", b"x-github-request-id", b"x-haproxy-unique-id", b"x-instana-l", b"x-instana-s",
    b"x-instana-t", b"x-newrelic-id", b"x-newrelic-transaction", b"x-ot-span-context",
    b"x-original-forwarded-for", b"x-proxy-id", b"x-real-ip", b"x-request-id", b"x-request-start",
    b"x-queue-start", b"x-trace-id", b"x-varnish", b"x-vercel-id", b"x-nf-request-id", b"x-wap-profile",
})  # fmt: skip
UNKEYED_PREFIXES: Final = (b"x-b3-", b"x-datadog-", b"x-envoy-")


class Target(NamedTuple):
    """What a request asks for.

    Attributes:
        request: its head, for the decisions.
        key: the key of its URL.
    """

    request: Request
    key: str

    def for_all(self) -> Target:
        """Return what a revalidation in the background asks for."""
        return self._replace(request=self.request.for_all())

    @property
    def tags(self) -> frozenset[str]:
        """Return the tags of its URL: `http:` and the path, and the whole URL."""
        return frozenset({tag_of_path(self.request.url), tag_of_url(self.request.url)})


@final
class Keys:
    """Makes the keys of one HTTP cache.

    Args:
        vary: names of request fields that are part of every key.
        ignored: names of request fields that are not, though they are by default.
    """

    __slots__ = ("_ignored", "_vary")

    def __init__(self, vary: Iterable[str], ignored: Iterable[str]) -> None:
        self._vary = tuple(sorted({name.lower() for name in vary}))
        self._ignored = frozenset(hyphenated(name.lower().encode("latin-1", "replace")) for name in ignored)

    def target(
        self,
        method: str,
        scheme: str,
        host: bytes | None,
        raw_path: bytes,
        query: bytes,
        headers: Headers,
        sent: bytes = b"",
        user: str = "",
    ) -> Target | None:
        """Return what a request asks for; None if its host or target is none that a key can have.

        Args:
            method: in upper case.
            scheme: `http` or `https`.
            host: with the port, if there is one.
            raw_path: the path as it was sent. Equivalent spellings have different keys, because an
                application may tell them apart.
            query: as it was sent.
            headers: names in lower case.
            sent: what was sent in place of the path, if the server or middleware has changed it: an
                application may read that too.
            user: who asks, if a server or middleware has checked it.
        """
        if (
            host is None
            or not _HOST.fullmatch(host)
            or not _PLAIN.fullmatch(raw_path)
            or not _PLAIN.fullmatch(query)
        ):
            return None
        root = f"{scheme}://{host.decode('ascii').lower()}"
        url = root + raw_path.decode("ascii")
        if query:
            url += f"?{query.decode('ascii')}"
        key = f"http:{url}" if len(url) <= _LONGEST_URL else f"http:{root}/#url:{_digest(url)}"
        request = Request(method, url, headers, user)
        values = self._base_variant(request, sent)
        if values is not None:
            key = f"{key}#{_digest(values)}"
        if host.startswith(b"["):
            try:
                urlsplit(url)
            except ValueError:  # no address between the brackets
                return None
        return Target(request, key)

    def _base_variant(self, request: Request, sent: bytes) -> object | None:
        """Return the values of the fields that are part of every key; None if there are none of them."""
        keyed = [("", sent.decode("latin-1"))] if sent else []
        for name in sorted({name for name, _ in request.headers if self._is_keyed(name)}):
            value = text(request.headers, name)
            if name == b"forwarded":
                value = _forwarded_as(value)
                if not value:
                    continue
            keyed.append((name.decode("ascii"), value))
        if not self._vary and not keyed:
            return None
        return [keyed, self._vary, variant(self._vary, request)]

    def _is_keyed(self, name: bytes) -> bool:
        """Return whether a field is part of every key: an unknown one may change the response."""
        plain = hyphenated(name)
        if plain in self._ignored:
            return False
        # A field with an underscore is another one here, and the same one for an application with variables.
        return (
            (plain in KEYED_FIELDS or plain.startswith(b"x-") or plain != name)
            and plain not in UNKEYED_FIELDS
            and not plain.startswith(UNKEYED_PREFIXES)
        )

    def selecting(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of a `Vary` that are not part of every key."""
        return tuple(name for name in names if name not in self._vary)

    def of_variant(self, target: Target, names: tuple[str, ...]) -> str:
        """Return the key of the response that these fields of the request select."""
        return f"{target.key}#{_digest([names, variant(names, target.request)])}"


def _digest(value: object) -> str:
    return blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _forwarded_as(value: str) -> str:
    """Return what `Forwarded` says of the request's own address (RFC 7239), without those of clients."""
    pairs = [pair.strip().lower() for member in members(value) for pair in member.split(";")]
    return ";".join(pair for pair in pairs if not pair.startswith(("for=", "by=")))


def host_of(headers: Headers) -> bytes | None:
    """Return the only `Host` of a request, or None."""
    hosts = lines(headers, b"host")
    return hosts[0].strip() if len(hosts) == 1 else None


# -- tags -----------------------------------------------------------------------------------------------


def tag_of_url(url: str) -> str:
    """Return the tag of all responses of a URL.

    The path is decoded, and the default port left out, so that equal URLs are invalidated together.
    """
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"http:{parts.scheme}://{authority(parts)}{_decoded(parts.path)}{query}"


def tag_of_path(url: str) -> str:
    """Return the tag of all responses of a path, whatever host and query they are of."""
    return f"http:{_decoded(urlsplit(url).path)}"


def _decoded(path: str) -> str:
    return unquote_to_bytes(path).decode("utf-8", "replace")


def tags_of(headers: Headers) -> frozenset[str] | None:
    """Return the tags that a response names in `Cache-Tag` and `Surrogate-Key`; None if they are too many."""
    value = combined(headers, b"cache-tag") or b""
    tags = {tag.strip() for tag in value.decode("latin-1").split(",")}
    tags.update(text(headers, b"surrogate-key").replace(",", " ").split())
    tags.discard("")
    if not tags:
        return NO_TAGS
    if len(tags) > _MOST_TAGS or max(map(len, tags)) > _LONGEST_TAG:
        return None
    return frozenset(tags)
