"""Sentinels with a primary and a replica, all real, and a Redis that has TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_server import RedisServer, free_port, wait_until

#: The words by which clients log in to the servers, and to the sentinels.
PASSWORD, SENTINEL_PASSWORD = "hunter2-of-data", "hunter2-of-sentinels"


@contextmanager
def redis_program() -> Iterator[str]:
    """A Redis server out of the package `redis-sentinel`: the program tells by its name what it is."""
    found = shutil.which("redis-sentinel")
    if found is None:
        pytest.skip("redis-sentinel is not installed")
    with tempfile.TemporaryDirectory(prefix="cachekit-redis-") as directory:
        link = Path(directory, "redis-server")
        link.symlink_to(os.path.realpath(found))
        yield str(link)


class Fleet:
    """Two servers, one of them a replica, and three sentinels. They want passwords."""

    def __init__(self, program: str | None = None, certificates: Certificates | None = None) -> None:
        found = shutil.which("redis-sentinel")
        if found is None:
            pytest.skip("redis-sentinel is not installed")
        auth = ("--requirepass", PASSWORD, "--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0")
        self._certificates = certificates
        #: Where clients connect to the servers; with TLS these are other ports than their own.
        self.ports: list[int] = []
        self.servers: list[RedisServer] = []
        for _ in range(2):
            port, options = 0, list(auth)
            if certificates is not None:
                port = free_port()
                options += [*certificates.options(port), "--tls-replication", "yes"]
            if self.ports:
                options += ["--replicaof", "127.0.0.1", str(self.ports[0])]
            self.servers.append(RedisServer(*options, program=program))
            self.ports.append(port or self.servers[-1].port)
        self.directory = tempfile.mkdtemp(prefix="cachekit-sentinel-")
        self.nodes: list[tuple[str, int]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for number in range(3):
            self._start_sentinel(found, number)
        self.plain = [self._client(port) for _, port in self.nodes]
        wait_until(self._is_complete, "the sentinels know each other and the replica")

    def _start_sentinel(self, program: str, number: int) -> None:
        port = free_port()
        configuration = Path(self.directory, f"{number}.conf")
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.directory}\nrequirepass {SENTINEL_PASSWORD}\n"
            f"sentinel sentinel-pass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor main 127.0.0.1 {self.ports[0]} 2\n"
            f"sentinel auth-pass main {PASSWORD}\nsentinel down-after-milliseconds main 500\n"
            f"sentinel failover-timeout main 1500\n"
        )
        if self._certificates is not None:
            words = configuration.read_text().replace(f"port {port}\n", "port 0\n", 1)
            words += f"tls-port {port}\ntls-replication yes\n"
            options = self._certificates.options(port)[2:]
            words += "".join(
                f"{name[2:]} {value}\n" for name, value in zip(options[::2], options[1::2], strict=True)
            )
            configuration.write_text(words)
        with open(f"{self.directory}/{number}.log", "ab") as log:
            process = subprocess.Popen([program, str(configuration)], stdout=log, stderr=log)
        self._processes.append(process)
        self.nodes.append(("127.0.0.1", port))

    def _client(self, port: int) -> Any:
        made = self._certificates
        options = {} if made is None else made.of_client()
        return redis.Redis(
            "127.0.0.1", port, password=SENTINEL_PASSWORD, protocol=2, retry=Retry(NoBackoff(), 0),
            socket_timeout=5, **options,
        )  # fmt: skip

    def _is_complete(self) -> bool:
        try:
            for client in self.plain:
                said = self.said(client)
                if (said["num-slaves"], said["num-other-sentinels"]) != ("1", "2"):
                    return False
                (replica,) = client.execute_command("SENTINEL", "REPLICAS", "main", NEVER_DECODE=[])
                fields = dict(zip(replica[::2], replica[1::2], strict=True))
                if fields[b"master-link-status"] != b"ok":
                    return False
        except redis.RedisError:
            return False
        return True

    @staticmethod
    def said(client: Any) -> dict[str, str]:
        """What a sentinel says of the primary."""
        words = client.execute_command("SENTINEL", "MASTER", "main", NEVER_DECODE=[])
        if isinstance(words, dict):  # as some versions of the driver have it
            return {str(name): str(value) for name, value in words.items()}
        return {name.decode(): value.decode() for name, value in zip(words[::2], words[1::2], strict=True)}

    @property
    def url(self) -> str:
        listed = ",".join(f"{host}:{port}" for host, port in self.nodes)
        scheme = "redis" if self._certificates is None else "rediss"
        return f"{scheme}+sentinel://:{PASSWORD}@{listed}/main/0?sentinel_password={SENTINEL_PASSWORD}"

    def primary(self) -> RedisServer:
        """The server that all sentinels name."""
        ports = {int(self.said(client)["port"]) for client in self.plain}
        found = [server for server in self.servers if {server.port} == ports]
        assert found, f"the sentinels do not agree: {ports}"
        return found[0]

    def wait_for_failover(self, gone: RedisServer) -> None:
        """Until all sentinels name another server."""
        wait_until(
            lambda: all(int(self.said(client)["port"]) != gone.port for client in self.plain),
            "the sentinels name the other server",
        )

    def close(self) -> None:
        for client in self.plain:
            client.close()
        for process in self._processes:
            process.kill()
            process.wait()
        for server in self.servers:
            server.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Certificates:
    """A CA of our own, with a certificate for 127.0.0.1 that servers and clients present."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self.ca, self.cert, self.key = (str(directory / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        new = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ]
        self._run(*new, "-days", "2", "-subj", "/CN=test", "-keyout", f"{self.ca}.key", "-out", self.ca)
        self._run(
            *new, "-days", "2", "-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-CA", self.ca, "-CAkey", f"{self.ca}.key", "-keyout", self.key, "-out", self.cert,
        )  # fmt: skip

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    def options(self, port: int) -> list[str]:
        """Of a server, which demands a certificate of its clients."""
        return [
            "--tls-port", str(port), "--tls-ca-cert-file", self.ca, "--tls-cert-file", self.cert,
            "--tls-key-file", self.key,
        ]  # fmt: skip

    def of_client(self) -> dict[str, Any]:
        """Options of the driver."""
        return {
            "ssl": True, "ssl_ca_certs": self.ca, "ssl_certfile": self.cert, "ssl_keyfile": self.key,
        }  # fmt: skip

    def lock(self, path: Path) -> None:
        """Write the key with a passphrase."""
        self._run("openssl", "ec", "-in", self.key, "-aes256", "-passout", "pass:words", "-out", str(path))
