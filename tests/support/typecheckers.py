"""mypy and pyright, run on files that use the package as it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import cachekit

_PLACE = str(Path(cachekit.__file__).parents[1])

#: A checker finds installed packages by itself, but not one that is installed for editing.
_EXTRA = [] if sysconfig.get_path("purelib") == _PLACE else [_PLACE]


def mypy(tmp_path: Path, cache: Path, *files: Path) -> str:
    """Return what mypy --strict prints, without a configuration; a cache makes later runs faster.

    What frameworks without types define is Any.
    """
    ran = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--config-file=",
            f"--cache-dir={cache}",
            *files,
        ],
        cwd=tmp_path, env=os.environ | {"MYPYPATH": os.pathsep.join(_EXTRA)},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    return ran.stdout + ran.stderr


def pyright(tmp_path: Path, *files: Path) -> list[tuple[str, int, str]]:
    """File, line and message of each error that pyright finds; it reads no `type: ignore`."""
    config = {
        "include": ["*.py"], "extraPaths": _EXTRA, "typeCheckingMode": "standard",
        "enableTypeIgnoreComments": False,
    }  # fmt: skip
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    for file in files:
        (tmp_path / file.name).write_text(file.read_text())
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", tmp_path],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    try:
        report: dict[str, Any] = json.loads(ran.stdout)
    except ValueError:
        pytest.fail(f"pyright could not run; install pyright[nodejs]:\n{ran.stdout}{ran.stderr}")
    assert len(files) == report["summary"]["filesAnalyzed"]
    return [
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"])
        for one in report["generalDiagnostics"]
        if one["severity"] == "error"
    ]
