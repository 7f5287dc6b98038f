"""What memory a process may use, by the files of both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachekit.runtime import machine

GROUPS = {
    "none": ({}, None),
    "version 2, the root of a container": ({"/sys/fs/cgroup/memory.max": "1000\n"}, 1000),
    "version 2, without a limit": (
        {"/sys/fs/cgroup/memory.max": "max\n", "/proc/self/cgroup": "0::/\n"},
        None,
    ),
    "version 2, a group above": (
        {
            "/proc/self/cgroup": "0::/system/app\n",
            "/sys/fs/cgroup/system/app/memory.max": "max\n",
            "/sys/fs/cgroup/system/memory.max": "2000\n",
        },
        2000,
    ),
    "version 1": (
        {
            "/proc/self/cgroup": "5:cpu,memory:/app\n1:name=systemd:/other\n",
            "/sys/fs/cgroup/memory/app/memory.limit_in_bytes": "3000\n",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
        3000,
    ),
}


def test_control_groups(subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The lowest limit counts."""
    for name, (files, limit) in GROUPS.items():
        with subtests.test(name), monkeypatch.context() as patch:
            patch.setattr(machine, "_text", lambda path, files=files: files.get(path, ""))
            patch.setattr(machine, "_of_machine", lambda: 10**6)
            assert machine.memory_bytes() == (10**6 if limit is None else limit)


def test_this_machine() -> None:
    """It says something."""
    assert (machine._of_machine() or 0) >= (machine.memory_bytes() or 0) > 1 << 20
