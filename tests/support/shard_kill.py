"""Builds a small dataset in forked children that are killed, or meet a full disk, at every durable step in turn.

Run by tests/datagen/shards/test_durable.py in a process without threads, so that a fork is safe. After each fault a
second child runs the same build to its end, and its tree is compared with the undisturbed one.

Most steps are the same ones for another of the sixty arrays: of each kind the first and the last is tried, and of all
together every so many.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

from datagen.common.errors import StorageError
from datagen.shards import ARRAYS, finalise, list_records, unit_is_complete, write_unit
from tests.support.fault_hooks import Steps, in_child
from tests.support.shard_samples import SUBJECTS, make_plan, make_sample, sample_keys, tree

# One shard that is not full; small images, as nothing here depends on them.
PLAN = {"counts": {"train": 2}, "samples_per_shard": 3, "clip": 1, "resolution": 8}


def make(root: Path) -> None:
    """Build what is missing of the dataset."""
    plan = make_plan(**PLAN)
    for unit in plan.units:
        if not unit_is_complete(root, unit, "k"):
            samples = [make_sample(*key, resolution=8) for key in sample_keys("train")[: unit.samples]]
            write_unit(root, plan, unit, "k", samples)
    finalise(root, plan, list_records(root))


def faulted(root: Path, step: int, action: str) -> None:
    """Build with a fault at one step; AssertionError if it does not end as it should."""
    Steps(root, step, action)
    found = None
    try:
        make(root)
    except StorageError as error:
        found = str(error)
    assert action == "full", "the kill did not come"
    assert found is not None, f"nothing happened at step {step}"
    assert "disk is full" in found, found
    # A full disk, unlike a kill, leaves nothing half-made behind.
    left = [path for path in root.rglob("*") if ".tmp-" in path.name or path.parent.parent.name == ".staging"]
    assert not left, left


def kind_of(name: str) -> str:
    """Return what a step does to what sort of file, whichever split and array it is of."""
    name = re.sub(r"\.tmp-.*|-\d+-[0-9a-f]{8}\b", "", name)
    name = re.sub(rf"/({'|'.join(SUBJECTS)})\b", "/SPLIT", name)
    return re.sub(rf"/({'|'.join(ARRAYS)})\b", "/ARRAY", name)


def main(folder: Path, action: str, every: int) -> None:
    """Build undisturbed into ``whole``, then with ``action`` at its steps; print how many there were, how many kinds of
    them, and how many were tried.
    """
    os.fsync = lambda _: None  # type: ignore[assignment]  # only a power cut would tell
    whole, root, counter = folder / "whole", folder / "faulted", folder / "steps"

    def undisturbed() -> None:
        steps = Steps(whole)
        make(whole)
        counter.write_text(json.dumps(steps.names))

    if in_child(undisturbed) != 0:
        sys.exit("the undisturbed build failed")
    kinds = [kind_of(name.replace(str(whole), "")) for name in json.loads(counter.read_text())]
    total, expected = len(kinds), tree(whole)
    first = {kind: k for k, kind in reversed(list(enumerate(kinds, 1)))}
    last = {kind: k for k, kind in enumerate(kinds, 1)}
    chosen = sorted({*range(1, total + 1, every), *first.values(), *last.values()})
    for k in chosen:
        shutil.rmtree(root, ignore_errors=True)
        status = in_child(lambda k=k: faulted(root, k, action))
        if status != (signal.SIGKILL if action == "kill" else 0):
            sys.exit(f"step {k}: the child ended with status {status}")
        # Only the fsync of the root document's folder comes after its rename: until then nothing opens.
        if (root / "zarr.json").exists() and k < total:
            sys.exit(f"the dataset opens after a fault at step {k} of {total}")
        make(root)
        if tree(root) != expected:
            sys.exit(f"other bytes after a fault at step {k}")
    print(total, len(first), len(chosen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
