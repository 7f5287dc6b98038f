"""A DynamoDB of our own, which is moto's server, where that is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import pytest
from redis_server import free_port, wait_until
from server_process import ServerProcess

TABLE, REGION = "caches", "eu-central-1"
_PROGRAM = Path(__file__).with_name("dynamodb_program.py")
#: Credentials that open nothing, and no look for others.
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class DynamoDBServer(ServerProcess):
    """A server on a free port with one table, as a context manager. Credentials are in the environment."""

    def __init__(self) -> None:
        reason = "needs the extra test-dynamodb"
        for module in ("boto3", "moto", "flask_cors"):
            pytest.importorskip(module, reason=reason)
        self._patch = pytest.MonkeyPatch()
        for name, value in _CREDENTIALS.items():
            self._patch.setenv(name, value)
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Start it (again), on the same port, with an empty table."""
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        client = self.client()
        wait_until(lambda: self._answers(client), "moto answers", 120)
        client.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        client.update_time_to_live(
            TableName=TABLE, TimeToLiveSpecification={"Enabled": True, "AttributeName": "e"}
        )
        client.close()

    def client(self) -> Any:
        """A client that waits long."""
        import boto3
        from botocore.config import Config

        config = Config(read_timeout=120, retries={"total_max_attempts": 1})
        return boto3.session.Session().client(
            "dynamodb", region_name=REGION, endpoint_url=self.endpoint, config=config
        )

    def _answers(self, client: Any) -> bool:
        from botocore.exceptions import BotoCoreError

        try:
            client.list_tables()
        except BotoCoreError:
            assert self._process is not None
            assert self._process.poll() is None, "moto has ended"
            return False
        return True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def place(self) -> dict[str, Any]:
        """The arguments that lead to it."""
        return {"region": REGION, "endpoint": self.endpoint}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._patch.undo()
