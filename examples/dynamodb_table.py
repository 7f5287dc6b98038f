"""A cache in a DynamoDB table: two hosts share answers, and one of them invalidates those of both.

Here the table is on moto's server, which needs no account: pip install '/path/to/cachekit[test-dynamodb]'
On AWS, leave out `start` and `endpoint`.
"""

from __future__ import annotations

import logging
import os

import boto3
from moto.server import ThreadedMotoServer

from cachekit import DynamoDBCache, IntelligentCache, MemoryCache

names = {1: "Ada"}
lookups = 0


def load_name(number: int) -> str:
    global lookups
    lookups += 1
    return names[number]


def start() -> str:
    """Start a server on a free port, and return its URL."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


endpoint = start()
boto3.client("dynamodb", region_name="eu-central-1", endpoint_url=endpoint).create_table(
    TableName="caches",
    KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
    AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
    BillingMode="PAY_PER_REQUEST",
)


def host() -> IntelligentCache:
    # A server on this machine may be slow to answer for the first time.
    table = DynamoDBCache("caches", "shop:", region="eu-central-1", endpoint=endpoint, timeout=10)
    return IntelligentCache(MemoryCache(), redis_cache=table, file_cache=None)


with host() as one, host() as other:
    print(one.get_or_set("user:1", lambda: load_name(1), tags={"users"}, ttl=60))
    print(other.get_or_set("user:1", lambda: load_name(1), tags={"users"}, ttl=60))
    names[1] = "Grace"
    one.invalidate_by_tags({"users"})
    print(f"{one.get_or_set('user:1', lambda: load_name(1), tags={'users'}, ttl=60)}, {lookups} lookups")
