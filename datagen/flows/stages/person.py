"""The person of each sequence: learnt before its frames are warped, stored, and trusted from the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from datagen.common.blas import use_one_blas_thread
from datagen.common.errors import InputError, WarpError
from datagen.common.files import disk_refusals
from datagen.flows.planning import BuildPlan, PlannedSequence
from datagen.flows.records import (
    ResultRecord,
    Stored,
    clear_folder,
    content_key,
    digest_files,
    finished_record,
    write_result_record,
)
from datagen.flows.stages.bridge import BridgeTask, StoredBridge, bridge_of
from datagen.flows.worker import prepared_head
from datagen.heads.base import HeadTemplate
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import Frame
from datagen.warp.engine import ALGORITHM_VERSION
from datagen.warp.personal import SequencePrior
from datagen.warp.result import PERSON_FILE
from datagen.warp.sequence import FEWEST_FRAMES, fit_sequence, keyframes_of
from datagen.warp.storage import read_prior, write_prior

# What a person's record says instead of a verdict.
LEARNT, NONE = "learnt", "none"


class StoredPerson(Stored[SequencePrior]):
    """A sequence's person; its key says what it was learnt from."""

    what = "person"

    @staticmethod
    def read(folder: Path, template: HeadTemplate) -> SequencePrior:
        """Read it from its folder."""
        return read_prior(folder, template)


@dataclass(frozen=True)
class PersonTask:
    """One task of the person stage.

    Attributes
    ----------
    root : Path
        The build folder.
    manifest : Manifest
    sequence : PlannedSequence
        With all of its frames.
    bridge : StoredBridge or None
        That the registrations of its keyframes pass.
    """

    root: Path
    manifest: Manifest
    sequence: PlannedSequence
    bridge: StoredBridge | None = None

    @property
    def name(self) -> str:
        """Name used in messages."""
        return str(self.sequence.key)

    @property
    def folder(self) -> Path:
        """Where the person goes."""
        return BuildLayout(self.root).person(self.sequence.key)

    def key(self, source: FolderCaptures, template: HeadTemplate) -> str:
        """Content key of the person: its keyframes, and everything that decides what is made of them."""
        inputs = {
            "algorithm": ALGORITHM_VERSION,
            "config": self.manifest.warp.model_dump(mode="json"),
            "head": self.manifest.canonical.head,
            "keyframes": [self._digest(source, frame) for frame in keyframes_of(self.sequence.frames)],
            "template": template.digest,
        }
        if self.bridge is not None:
            inputs["bridge"] = self.bridge.key
        return content_key(inputs)

    def _digest(self, source: FolderCaptures, frame: int) -> list[int | str]:
        try:
            return [frame, source.input_digest(self.sequence.key, frame)]
        except InputError as error:
            return [frame, f"broken: {error}"]


def learns_person(manifest: Manifest, sequence: PlannedSequence) -> bool:
    """Whether a person is to be learnt from a sequence."""
    return manifest.warp.share_identity and len(sequence.frames) >= FEWEST_FRAMES


def plan_persons(plan: BuildPlan, layout: BuildLayout, bridges: Mapping[str, BridgeTask]) -> list[PersonTask]:
    """Return one task for each sequence that a person is learnt from."""
    return [
        PersonTask(layout.root, plan.manifest, sequence, bridge_of(bridges, sequence.registration))
        for sequence in plan.sequences
        if learns_person(plan.manifest, sequence)
    ]


def finished_person(
    task: PersonTask, source: FolderCaptures, template: HeadTemplate
) -> tuple[bool, StoredPerson | None]:
    """Return whether a task is finished, and the person if there is one."""
    key = task.key(source, template)
    record = finished_record(task.folder, key)
    return record is not None, StoredPerson(task.folder, key) if record and record.status == LEARNT else None


def learn_person(task: PersonTask) -> StoredPerson | None:
    """Learn and store the person of a task unless that is done; return it, None if its frames do not tell.

    Keyframes that are broken, bare scans, or cannot be registered are passed over. Their bytes are part of the key all
    the same, so that a repaired one counts.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    use_one_blas_thread()
    with disk_refusals(f"learning the person of {task.name}"):
        manifest = task.manifest
        head = prepared_head(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)
        source = FolderCaptures(BuildLayout(task.root).captures_of(manifest))
        key = task.key(source, head.template)
        record = finished_record(task.folder, key)
        if record is None:
            bridge = task.bridge.open(head.template) if task.bridge else None

            def read(index: int) -> Frame:
                frame = source.frame(task.sequence.key, index)
                known = frame.registration if manifest.warp.use_registration else None
                if known is None and frame.landmarks is None:
                    # Such frames begin from the scan alone, which takes no person.
                    raise WarpError(f"frame {index} is a bare scan", "a registration or landmarks")
                return replace(frame, registration=bridge.register(known) if bridge and known else known)

            record = _store(task.folder, key, fit_sequence(head, task.sequence.frames, read, manifest.warp))
    return StoredPerson(task.folder, key) if record.status == LEARNT else None


def _store(folder: Path, key: str, prior: SequencePrior | None) -> ResultRecord:
    clear_folder(folder)
    if prior is not None:
        write_prior(folder, prior)
    names = (PERSON_FILE,) if prior is not None else ()
    record = ResultRecord(key, "", LEARNT if prior is not None else NONE, (), digest_files(folder, names))
    write_result_record(folder, record)
    return record
