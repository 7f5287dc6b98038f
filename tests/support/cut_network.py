"""A network that is cut while a tier writes: what failed then does not come after what was written since."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

_SUPPORT: Final = Path(__file__).parent

#: Runs in a network of its own, whose only interface it can take down and up again.
_PROGRAM: Final = """
import ctypes, fcntl, socket, struct, sys
from pathlib import Path

NEWUSER, NEWNET, SET_FLAGS, UP, FIN_WAIT1 = 0x10000000, 0x40000000, 0x8914, 1, "04"
if ctypes.CDLL(None).unshare(NEWUSER | NEWNET):
    sys.exit(77)

def network(up):
    with socket.socket() as one:
        fcntl.ioctl(one, SET_FLAGS, struct.pack("16sh14x", b"lo", UP if up else 0))

def unfinished():
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[3] == FIN_WAIT1]

network(True)
from redis_server import wait_until
from cachekit import TierUnavailableError
{tier}
cache, patient = make(0.1), make(60)

def connect():
    try:
        return read(cache) == b"first"
    except TierUnavailableError:  # a busy machine takes longer than that
        return False

try:
    write(patient, b"first")
    wait_until(connect, "there is a connection")
    network(False)
    try:
        write(cache, b"older")
        raise AssertionError("it was stored over no network")
    except TierUnavailableError:
        pass
    network(True)
    patient.close()  # its connection is of before
    patient = make(60)
    write(patient, b"newer")
    wait_until(lambda: not unfinished(), "the system has sent all that it means to send")
    assert read(patient) == b"newer", read(patient)
finally:
    cache.close()
    patient.close()
    end()
"""


def check(tier: str) -> None:
    """Fail if a write that a cut network kept from the server reaches it later.

    Args:
        tier: a program that starts a server, and has the functions `end()`, which ends it, `make(timeout)`,
            which makes a tier, and `read(tier)` and `write(tier, value)`, for bytes under one key.
    """
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM.replace("{tier}", tier)],
        capture_output=True, text=True, timeout=200, env={"PYTHONPATH": str(_SUPPORT)},
    )  # fmt: skip
    if ended.returncode == 77:
        pytest.skip("this user may not make a network")
    assert ended.returncode == 0, ended.stderr
