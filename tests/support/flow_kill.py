"""Writes what the stages before the dataset write, in forked children that are killed at every durable step in turn.

Run by tests/datagen/flows/test_faults.py in a process without threads, so that a fork is safe. ``frame`` stores a
frame's warp and record, ``capture`` a simulated sequence; both with the functions the build uses, on results of a
finished one.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from datagen.flows.records import finished_record, read_result_record, store_result
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter, is_complete
from datagen.sources.frame import SequenceKey
from datagen.warp.result import VERDICT_FILE, WARP_FILE
from datagen.warp.storage import read_warp, verdict_bytes, warp_bytes
from tests.support.fault_hooks import Steps, in_child
from tests.support.shard_samples import tree

KEY = SequenceKey("s000", "performance")
MARK = "of-this-test"


def frame_writer(build: Path) -> tuple[Callable[[Path], None], Callable[[Path], bool]]:
    """Return what stores a frame unless it is finished, and what tells whether it is."""
    stored = build / "warps" / str(KEY) / "000000"
    warp, record = read_warp(stored), read_result_record(stored)
    assert record is not None

    def finished(root: Path) -> bool:
        return finished_record(root / "000000", record.content_key) is not None

    def write(root: Path) -> None:
        if not finished(root):
            contents = {WARP_FILE: warp_bytes(warp), VERDICT_FILE: verdict_bytes(warp.verdict)}
            store_result(root / "000000", record, contents)

    return write, finished


def capture_writer(build: Path) -> tuple[Callable[[Path], None], Callable[[Path], bool]]:
    """Return what stores a sequence unless it is finished, and what tells whether it is."""
    frame = FolderCaptures(build / "captures").frame(KEY, 0)
    images = {name: read() for name, read in list(frame.images.items())[:1]}
    cameras = tuple(camera for camera in frame.cameras if camera.name in images)

    def finished(root: Path) -> bool:
        return bool(is_complete(root, KEY, MARK))

    def write(root: Path) -> None:
        if not finished(root):
            with SequenceWriter(root, KEY, cameras, 12.0, generator={"name": "x", "key": MARK}) as writer:
                writer.add(0, frame.scan, landmarks=frame.landmarks, images=images)

    return write, finished


def main(build: Path, folder: Path, what: str) -> None:
    """Write undisturbed, then with a kill at each step; print how many there were."""
    write, finished = (frame_writer if what == "frame" else capture_writer)(build)
    whole, root, counter = folder / "whole", folder / "killed", folder / "steps"

    def undisturbed() -> None:
        steps = Steps(whole)
        write(whole)
        counter.write_text(str(steps.count))

    def killed(k: int) -> None:
        Steps(root, k)
        write(root)

    if in_child(undisturbed) != 0:
        sys.exit("writing undisturbed failed")
    total, expected = int(counter.read_text()), tree(whole)
    for k in range(1, total + 1):
        shutil.rmtree(root, ignore_errors=True)
        if in_child(lambda k=k: killed(k)) != signal.SIGKILL:
            sys.exit(f"the child was not killed at step {k}")
        if root.exists() and finished(root) and tree(root) != expected:
            sys.exit(f"half of it counts as finished after a kill at step {k} of {total}")
        if in_child(lambda: write(root)) != 0 or not finished(root):
            sys.exit(f"it did not go on after a kill at step {k}")
        if tree(root) != expected:
            sys.exit(f"other bytes after a kill at step {k}: {sorted(set(tree(root)) ^ set(expected))}")
    print(total)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
