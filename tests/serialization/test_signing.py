"""Signatures and the secrets behind them."""

from __future__ import annotations

import hashlib
import hmac
import pickle
from typing import Any

import pytest

from cachekit.errors import UnreadableError
from cachekit.serialization.signing import Signer, secrets_from_environment

SECRET = "sixteen bytes at least"


def test_it_is_hmac_sha256() -> None:
    """Anybody with the secret can compute the signature from the description."""
    expected = hmac.new(SECRET.encode(), b"contextab", hashlib.sha256).digest()
    assert expected == Signer(SECRET, b"context").sign(b"a", b"b")


def test_one_signer_signs_many_times() -> None:
    """The keyed state is copied, not used up."""
    signer = Signer(SECRET)
    assert signer.sign(b"x") == signer.sign(b"x") != signer.sign(b"y")


def test_str_and_bytes_are_one_secret() -> None:
    """A secret from a variable and one from a file agree."""
    assert Signer(SECRET).sign(b"x") == Signer(SECRET.encode()).sign(b"x")


def test_comparison_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures are compared by hmac.compare_digest and nothing else."""
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    signer = Signer([SECRET, SECRET + "2"])
    monkeypatch.setattr(hmac, "compare_digest", compare)
    with pytest.raises(UnreadableError):
        signer.verify(signer.sign(b"x"), b"x")
    assert len(compared) == 2


@pytest.mark.parametrize("secret", ["", "fifteen bytes!!", b"", b"short", [SECRET, "short"]])
def test_short_secrets_are_refused_without_telling_them(secret: Any) -> None:
    """Under 16 bytes a secret can be guessed; the error shows how to make one, and not the one."""
    with pytest.raises(ValueError, match=r"at least 16 bytes.*secrets\.token_hex") as caught:
        Signer(secret)
    assert "short" not in str(caught.value).replace("shorter", "")
    assert "fifteen" not in str(caught.value)


@pytest.mark.parametrize("secret", [None, 5, [5], [None], bytearray(20), {SECRET}])
def test_secrets_of_other_types_are_refused(secret: Any) -> None:
    """The error names the type."""
    with pytest.raises(TypeError, match="must be a str, bytes, or a list of them"):
        Signer(secret)


def test_it_does_not_pickle_and_shows_nothing() -> None:
    """A signer keeps no secret, and what it keeps does not travel."""
    signer = Signer(SECRET)
    assert repr(signer) == "<Signer with 1 secret(s)>"
    with pytest.raises(TypeError, match="CACHEKIT_SECRET"):
        pickle.dumps(signer)


def test_secrets_from_the_environment() -> None:
    """One, or several with commas between, the new one first; parsed strictly."""
    assert secrets_from_environment({}) is None
    assert secrets_from_environment({"CACHEKIT_SECRET": SECRET}) == [SECRET]
    both = f"{SECRET}, {SECRET}2"
    assert secrets_from_environment({"CACHEKIT_SECRET": both}) == [SECRET, SECRET + "2"]
    for wrong in "", "short", SECRET + ",":
        with pytest.raises(ValueError, match="each secret in CACHEKIT_SECRET"):
            secrets_from_environment({"CACHEKIT_SECRET": wrong})
