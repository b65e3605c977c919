"""Stages a folder in forked children that are killed, or meet a full disk, at every durable step in turn.

Run as a script by test_files.py: a process without threads, so that a fork is safe. What is there after each fault must
be the old folder or the new one, whole; and staging again must bring back what the fault hid and clear what it left.
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

from datagen.common.errors import StorageError
from datagen.common.files import staged_folder, storage_errors
from datagen.common.ownership import LISTING
from tests.support.fault_hooks import REMOVING, Steps, in_child

OLD = {"a": "old", "b": "old", "gone": "old"}
NEW = {"a": "new", "b": "new", "deep/c": "new"}


def stage(root: Path) -> None:
    """Replace ``out`` by the new content."""
    with storage_errors("staging"), staged_folder(root / "out", replace=True) as folder:
        (folder / "deep").mkdir()
        for name, text in NEW.items():
            (folder / name).write_text(text)


def stage_in_vain(root: Path) -> None:
    """Stage, and give up before the end."""
    try:
        with staged_folder(root / "out", replace=True):
            raise KeyError
    except KeyError:
        pass


def content(root: Path) -> dict[str, str] | None:
    """Return every file of ``out``; None if it is not there."""
    out = root / "out"
    if not out.is_dir():
        return None
    files = [path for path in out.rglob("*") if path.is_file() and path.name != LISTING]
    return {str(path.relative_to(out)): path.read_text() for path in files}


def prepare(root: Path, before: dict[str, str] | None) -> None:
    """Make a folder that holds ``before`` as ``out``."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    if before is not None:
        with staged_folder(root / "out", replace=True) as folder:
            for name, text in before.items():
                (folder / name).write_text(text)


def faulted(root: Path, step: int, action: str) -> None:
    """Stage with a fault at one step; AssertionError if it does not end as it should."""
    steps = Steps(root, step, action)
    refusal = ""
    try:
        stage(root)
    except StorageError as error:
        refusal = str(error)
    assert action == "full", "the kill did not come"
    # A full disk refuses no removal, and those of the old folder's files come last.
    if any(name.split()[0] not in REMOVING for name in steps.names[step - 1 :]):
        assert "disk is full" in refusal, refusal or f"nothing happened at step {step}"
    assert {path.name for path in root.iterdir()} <= {"out"}, "something is left of it"


def main(folder: Path, action: str, before: dict[str, str] | None) -> None:
    """Stage undisturbed, then with ``action`` at every step; print how many steps there are."""
    root, counter = folder / "root", folder / "steps"

    def undisturbed() -> None:
        steps = Steps(root)
        stage(root)
        counter.write_text(str(steps.count))

    prepare(root, before)
    if in_child(undisturbed) != 0 or content(root) != NEW:
        sys.exit("staging undisturbed failed")
    total = int(counter.read_text())
    hidden = 0
    for k in range(1, total + 1):
        prepare(root, before)
        if in_child(lambda k=k: faulted(root, k, action)) != (signal.SIGKILL if action == "kill" else 0):
            sys.exit(f"step {k}: the child did not end as it should")
        found = content(root)
        if found is None and before is not None and action == "kill":
            hidden += 1
        elif found not in (before, NEW):
            sys.exit(f"a mixture after a fault at step {k} of {total}: {found}")
        if in_child(lambda: stage_in_vain(root)) != 0 or content(root) not in (before, NEW):
            sys.exit(f"it was not put back after a fault at step {k} of {total}")
        if {path.name for path in root.iterdir()} - {"out"}:
            sys.exit(f"something is left of a fault at step {k} of {total}")
        stage(root)
        if content(root) != NEW or [path.name for path in root.iterdir()] != ["out"]:
            sys.exit(f"it did not come out well after a fault at step {k} of {total}")
    print(total, hidden)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], OLD if sys.argv[3] == "replace" else None)
