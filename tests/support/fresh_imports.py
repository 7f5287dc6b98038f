"""Programs in an interpreter that has loaded nothing but itself and finds cachekit as if it were installed.

An installation for editing, and what a `site` of this machine adds, load modules of their own.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import cachekit

CHECKOUT = str(Path(cachekit.__file__).parents[1])
#: For programs that also need the packages that cachekit needs.
SITE_PACKAGES = sysconfig.get_path("purelib")


def run(program: str, *places: str) -> str:
    """Return what the program prints; it finds the checkout, and modules in `places`."""
    path = f"import sys; sys.path[:0] = {[CHECKOUT, *places]!r}\n"
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", path + program],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def loaded_by(program: str, *places: str) -> set[str]:
    """Return the modules that the program loads, beyond those of the interpreter."""
    before = "import sys; before = set(sys.modules)\n"
    return set(run(f"{before}{program}\nprint(*sys.modules.keys() - before)", *places).split())
