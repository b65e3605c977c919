"""The warp of one sequence chunk: what is finished is kept, what is broken is a verdict, the rest is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datagen.common.blas import use_one_blas_thread
from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes, disk_refusals
from datagen.flows.framing import cameras_in_view
from datagen.flows.planning import PlannedSequence
from datagen.flows.records import (
    ResultRecord,
    clear_folder,
    content_key,
    digest_files,
    finished_record,
    write_result_record,
)
from datagen.flows.stages.bridge import StoredBridge
from datagen.flows.stages.person import StoredPerson
from datagen.flows.worker import prepared_head
from datagen.heads.base import HeadModel
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from datagen.warp.bridge import warp_bridged
from datagen.warp.engine import ALGORITHM_VERSION
from datagen.warp.result import VERDICT_FILE, WARP_FILE, Verdict
from datagen.warp.storage import verdict_bytes, write_warp


@dataclass(frozen=True)
class WarpTask:
    """One task of the warp stage; small, so that it travels to any worker.

    Attributes
    ----------
    root : Path
        The build folder.
    manifest : Manifest
    sequence : PlannedSequence
        A capture, or some consecutive frames of one.
    bridge : StoredBridge or None
        From the topology of its registrations to the canonical template; None where they are in that already.
    person : StoredPerson or None
        That the frames are held to.
    """

    root: Path
    manifest: Manifest
    sequence: PlannedSequence
    bridge: StoredBridge | None = None
    person: StoredPerson | None = None

    @property
    def name(self) -> str:
        """Name used in messages."""
        return str(self.sequence.key)


@dataclass(frozen=True)
class WarpTally:
    """What came of a warp task.

    Attributes
    ----------
    verdicts : mapping of status to number of frames
    computed : int
        Frames that were not finished before.
    """

    verdicts: Mapping[str, int] = field(default_factory=dict)
    computed: int = 0


@dataclass(frozen=True)
class FrameKeys:
    """Content keys of the frames of one build.

    Attributes
    ----------
    manifest : Manifest
    template_digest : str
        Of the canonical head.
    bridge : StoredBridge or None
        That the registrations of the frames pass.
    person : StoredPerson or None
        That the frames are held to.
    """

    manifest: Manifest
    template_digest: str
    bridge: StoredBridge | None = None
    person: StoredPerson | None = None

    def of(self, input_digest: str) -> str:
        """Content key of the warp of an input."""
        inputs = {
            "algorithm": ALGORITHM_VERSION,
            # Whether identity is shared is told by the person alone: a sequence without one stays as it is.
            "config": self.manifest.warp.model_dump(mode="json", exclude={"share_identity"}),
            "head": self.manifest.canonical.head,
            "input": input_digest,
            "person": self.person.key if self.person else "none",
            "template": self.template_digest,
        }
        if self.bridge is not None:
            inputs["bridge"] = self.bridge.key
        return content_key(inputs)

    def of_broken(self, error: InputError) -> str:
        """Content key of an input that cannot be read: it changes with the reason."""
        return content_key({"broken": _reason(error)})


def warp_sequence(task: WarpTask) -> WarpTally:
    """Warp the frames of a task that are not finished yet.

    A frame whose input is broken gets the verdict ``fail`` with the reason, and the rest goes on. Mistakes of the
    program are not caught.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    use_one_blas_thread()
    with disk_refusals(f"warping {task.name}"):
        head = prepared_head(task.manifest.canonical.head, task.manifest.head_root, task.manifest.warp.subdivisions)
        layout = BuildLayout(task.root)
        source = FolderCaptures(layout.captures_of(task.manifest))
        keys = FrameKeys(task.manifest, head.template.digest, task.bridge, task.person)
        verdicts: Counter[str] = Counter()
        computed = 0
        for frame in task.sequence.frames:
            folder = layout.frame_warp(task.sequence.key, frame)
            record, compute = frame_state(folder, source, task.sequence.key, frame, keys)
            if record is None:
                record = compute(head)
                computed += 1
            verdicts[record.status] += 1
    return WarpTally(dict(verdicts), computed)


def frame_state(
    folder: Path, source: FolderCaptures, key: SequenceKey, frame: int, keys: FrameKeys
) -> tuple[ResultRecord | None, Callable[[HeadModel], ResultRecord]]:
    """Return a frame's record if it is finished, and the function that finishes it.

    Parameters
    ----------
    folder : Path
        The frame's folder under ``warps``.
    source : FolderCaptures
    key : SequenceKey
    frame : int
    keys : FrameKeys
    """
    try:
        digest = source.input_digest(key, frame)
    except InputError as error:
        reason, broken = error, keys.of_broken(error)
        return finished_record(folder, broken), lambda _: _store_failure(folder, broken, "", reason)
    wanted = keys.of(digest)
    return (
        finished_record(folder, wanted),
        lambda head: _warp_and_store(folder, source, key, frame, keys, wanted, digest, head),
    )


def _warp_and_store(
    folder: Path,
    source: FolderCaptures,
    key: SequenceKey,
    frame: int,
    keys: FrameKeys,
    wanted: str,
    digest: str,
    head: HeadModel,
) -> ResultRecord:
    clear_folder(folder)
    # Not among what may be broken in a frame: without its person the whole sequence would come out otherwise.
    prior = keys.person.open(head.template) if keys.person else None
    try:
        content = source.frame(key, frame)
        # No warm start from the frame before: the result would depend on where a killed build was resumed.
        warp = warp_bridged(
            content.scan,
            head,
            keys.manifest.warp,
            bridge=keys.bridge.open(head.template) if keys.bridge else None,
            registration=content.registration,
            landmarks=content.landmarks,
            prior=prior,
        )
    except InputError as error:
        return _store_failure(folder, wanted, digest, error)
    write_warp(folder, warp)
    cameras = cameras_in_view(content.cameras, warp, head.template)
    record = ResultRecord(wanted, digest, warp.verdict.status, cameras, digest_files(folder, (WARP_FILE, VERDICT_FILE)))
    write_result_record(folder, record)
    return record


def _store_failure(folder: Path, wanted: str, digest: str, error: InputError) -> ResultRecord:
    clear_folder(folder)
    atomic_write_bytes(folder / VERDICT_FILE, verdict_bytes(Verdict("fail", (_reason(error),))))
    record = ResultRecord(wanted, digest, "fail", (), digest_files(folder, (VERDICT_FILE,)))
    write_result_record(folder, record)
    return record


def _reason(error: InputError) -> str:
    return f"{type(error).__name__}: {error}"
