"""A disk that notes what is asked of it: in which order bytes, names and folders reach it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

Step = tuple[str, str]


class Disk:
    """Notes what is asked of the disk, in order, and does all but sync; names are relative to a root.

    A step is (what, where): ``sync`` of a file with its length, ``sync/`` of a folder, ``move`` to a name, ``unlink``
    and ``mkdir``. Temporary names are shortened to what they stand for.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[Step] = []
        self._root, self._lengths = root, dict[str, int]()
        for name in ("replace", "rename"):
            patch.setattr(os, name, self._moving(getattr(os, name)))
        patch.setattr(os, "fsync", self._sync)
        patch.setattr(os, "unlink", self._noting("unlink", os.unlink))
        patch.setattr(os, "mkdir", self._noting("mkdir", os.mkdir))

    def _name(self, path: Any) -> str:
        return Path(path).relative_to(self._root).as_posix()

    def _sync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.steps.append(("sync/" if path.is_dir() else f"sync {path.stat().st_size}", self._name(path)))

    def _moving(self, real: Any) -> Any:
        def noted(source: Any, target: Any) -> None:
            self.steps.append((f"move {Path(source).stat().st_size} {self._name(source)}", self._name(target)))
            real(source, target)

        return noted

    def _noting(self, what: str, real: Any) -> Any:
        def noted(path: Any, *rest: Any, **options: Any) -> None:
            real(path, *rest, **options)
            if Path(path).is_absolute():  # rmtree works relative to open folders
                self.steps.append((what, self._name(path)))

        return noted

    def written(self, name: str) -> bool:
        """Whether a file was synced whole under another name, then moved, then its folder synced, in this order."""
        moves = [k for k, (what, where) in enumerate(self.steps) if what.startswith("move") and where == name]
        assert len(moves) == 1, (name, self.steps)
        _, length, source = self.steps[moves[0]][0].split(" ")
        folder = Path(name).parent.as_posix()
        synced = (f"sync {length}", source) in self.steps[: moves[0]]
        return synced and ("sync/", folder) in self.steps[moves[0] :]

    def place(self, step: Step) -> int:
        """Where a step is that comes once."""
        assert self.steps.count(step) == 1, (step, self.steps)
        return self.steps.index(step)

    def moved(self) -> list[str]:
        """The names files were moved to, in order."""
        return [where for what, where in self.steps if what.startswith("move")]
