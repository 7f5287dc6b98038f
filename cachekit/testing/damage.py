"""A damage fuzzer: it puts one fault at a time into the files of a directory, and restores them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, final


class Damage(NamedTuple):
    """One fault in one file."""

    name: str  #: the path of the file, relative to the directory
    what: str  #: "flip", "cut", "zero" or "remove"
    offset: int  #: of the flipped byte, or the length of the cut file
    bits: int  #: the bits to flip

    def apply(self, directory: Path) -> None:
        """Put the fault into the directory."""
        path = directory / self.name
        if self.what == "remove":
            path.unlink()
            return
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if self.what == "cut":
                file.truncate(self.offset)
            elif self.what == "zero":
                file.write(bytes(size))
            else:
                file.seek(self.offset)
                byte = file.read(1)[0]
                file.seek(self.offset)
                file.write(bytes([byte ^ self.bits]))


@final
class Fuzzer:
    """Faults in a directory that no process has open.

    Args:
        directory: The undamaged directory. Its content is kept in memory, so it should be small.
        seed: The seed of the random faults (default 0).
    """

    def __init__(self, directory: Path, seed: int = 0) -> None:
        self._directory = directory
        self._random = random.Random(seed)
        self._files = {
            str(path.relative_to(directory)): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }

    def faults(self, flips: int) -> Iterator[Damage]:
        """Yield every file removed, emptied, cut in three places and zeroed, and `flips` flipped bytes.

        Flips go to every file in turn, half of them to bytes that are not zero.
        """
        for name, content in self._files.items():
            yield Damage(name, "remove", 0, 0)
            if content:
                yield Damage(name, "zero", 0, 0)
                for left in {0, 1, len(content) // 2, len(content) - 1}:
                    yield Damage(name, "cut", left, 0)
        filled = [(name, content) for name, content in self._files.items() if content]
        for number in range(flips):
            name, content = filled[number % len(filled)]
            offset = self._random.randrange(len(content))
            if number // len(filled) % 2:
                used = [at for at, byte in enumerate(content) if byte]
                offset = self._random.choice(used) if used else offset
            yield Damage(
                name, "flip", offset, self._random.choice([1, 2, 128, 255, self._random.randrange(1, 256)])
            )

    def restore(self) -> None:
        """Restore all files as they were when the fuzzer was created."""
        shutil.rmtree(self._directory)
        for name, content in self._files.items():
            path = self._directory / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o600)  # what others may open counts for nothing
