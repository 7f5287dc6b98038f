"""dogpile.cache's own tests of backends, run for ours."""

from __future__ import annotations

import tempfile

from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

from cachekit import FileCache, IntelligentCache, MemoryCache

memory = IntelligentCache(MemoryCache(), None, None)
files = IntelligentCache(MemoryCache(), None, FileCache(tempfile.mkdtemp()))


class TestMemory(_GenericBackendTestSuite):
    backend = "cachekit"
    config_args = {"arguments": {"cache": memory}}  # noqa: RUF012


class TestMemorySerializer(_GenericSerializerTestSuite, TestMemory):
    pass


class TestMemoryMutex(_GenericMutexTestSuite):
    backend = "cachekit"
    config_args = {"arguments": {"cache": memory}}  # noqa: RUF012


class TestFiles(_GenericBackendTestSuite):
    backend = "cachekit"
    config_args = {"arguments": {"cache": files}}  # noqa: RUF012


class TestFilesSerializer(_GenericSerializerTestSuite, TestFiles):
    pass


class TestFilesMutex(_GenericMutexTestSuite):
    backend = "cachekit"
    config_args = {"arguments": {"cache": files}}  # noqa: RUF012
