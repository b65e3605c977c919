"""Simulated captures with known truth, in the folder layout."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from datagen.common.errors import InputError
from datagen.common.files import npz_bytes, staged_folder, storage_errors
from datagen.simulation.motion import MOTION_FILE
from datagen.sources.capture_file import SIMULATION
from datagen.sources.folder_writer import SequenceWriter, is_complete
from datagen.sources.frame import SequenceInfo, SequenceKey
from datagen.sources.registry import SimulatedSource
from datagen.sources.truth import truth_path

# Raise it whenever the same plan would give other bytes.
SIMULATOR_VERSION = "4"
SEQUENCE_NAME = "performance"
_KEY_FILE = "key.txt"
# Fields that change which subjects there are, or where files lie, but not what one subject's capture holds.
_NOT_CONTENT = ("subjects", "root")


@dataclass(frozen=True)
class SequencePlan:
    """One capture to be simulated; small and picklable.

    Attributes
    ----------
    key : SequenceKey
    config : SimulatedSource
    seed : int
    subject : int
        Index of the subject.
    """

    key: SequenceKey
    config: SimulatedSource
    seed: int
    subject: int

    @property
    def info(self) -> SequenceInfo:
        """What a build has to know of the capture."""
        return SequenceInfo(self.key, tuple(range(self.config.frames)), self.config.cameras, self.config.head)


def plan_sequences(config: SimulatedSource, seed: int) -> list[SequencePlan]:
    """Plan one sequence for each subject, ``s000`` on.

    Raises
    ------
    InputError
        If the settings need files under ``root`` and none is named, or real people in a topology in which none are
        known.
    """
    if config.people == "real" and config.head != "anny":
        raise InputError(
            f"source.people is real and source.head is {config.head}",
            "source.head anny, the one whose topology real people are known in",
            "Set source.head to anny, or source.people to model",
        )
    if (config.motion == "arkit" or config.head == "ict") and config.root is None:
        raise InputError(
            f"source.head is {config.head} and source.motion is {config.motion}, but source.root is not set",
            "the folder with ict_facekit/ and arkit_motion/",
            "Set source.root, or use head anny with procedural motion, which need no files",
        )
    return [plan_sequence(config, seed, subject) for subject in range(config.subjects)]


def plan_sequence(config: SimulatedSource, seed: int, subject: int) -> SequencePlan:
    """Plan the sequence of one subject, by its number."""
    return SequencePlan(SequenceKey(f"s{subject:03d}", SEQUENCE_NAME), config, seed, subject)


def simulate_sequence(plan: SequencePlan, captures_root: Path, truth_root: Path) -> bool:
    """Make one capture and its truth, unless both are there already, made from the same plan; say if they had to be.

    The truth goes to ``truth_root`` only. Both folders are staged and renamed, the capture last, so a killed run
    leaves nothing that looks finished.

    Parameters
    ----------
    plan : SequencePlan
    captures_root, truth_root : Path
        Roots of the capture layout (docs/capture-format.md) and of the truth files; neither inside the other.

    Raises
    ------
    InputError
        If the roots overlap, or the head model or motion cannot be read.
    datagen.common.errors.StorageError
        If the disk refuses.
    """
    captures_root, truth_root = Path(captures_root), Path(truth_root)
    a, b = captures_root.resolve(), truth_root.resolve()
    if a.is_relative_to(b) or b.is_relative_to(a):
        raise InputError(
            f"captures ({a}) and truth ({b}) lie inside one another", "two separate folders", "Move the truth elsewhere"
        )
    from datagen.heads.registry import load_head

    head = load_head(plan.config.head, plan.config.root)
    key = _content_key(plan, head.template.digest)
    truth_folder = truth_path(truth_root, plan.key, 0).parent
    if _holds(plan, captures_root, truth_root, key):
        return False
    from datagen.simulation.capture import SimulatedCapture

    capture = SimulatedCapture(plan.config, plan.seed, plan.subject, head)
    # The inner folder appears first: a capture that is there has its truth.
    with (
        SequenceWriter(
            captures_root,
            plan.key,
            capture.cameras,
            plan.config.fps,
            registration_head=plan.config.head,
            generator={"name": SIMULATION, "version": SIMULATOR_VERSION, "key": key},
        ) as writer,
        staged_folder(truth_folder, replace=True) as staging,
    ):
        for index, frame in enumerate(capture):
            writer.add(
                index,
                frame.scan,
                registration=frame.registration,
                landmarks=frame.landmarks,
                images=frame.images,
                masks=frame.masks,
            )
            with storage_errors(f"writing {truth_folder}"):
                name = truth_path(truth_root, plan.key, index).name
                (staging / name).write_bytes(npz_bytes({"canonical": frame.truth}))
        with storage_errors(f"writing {truth_folder}"):
            (staging / _KEY_FILE).write_text(key + "\n")
    return True


def is_simulated(plan: SequencePlan, captures_root: Path, truth_root: Path, template_digest: str) -> bool:
    """Whether a capture and its truth are there, made from the same plan with the head of this template."""
    return _holds(plan, captures_root, truth_root, _content_key(plan, template_digest))


def _holds(plan: SequencePlan, captures_root: Path, truth_root: Path, key: str) -> bool:
    truth_folder = truth_path(truth_root, plan.key, 0).parent
    return bool(is_complete(captures_root, plan.key, key)) and _read_key(truth_folder) == key


def _content_key(plan: SequencePlan, template_digest: str) -> str:
    """SHA-256 of all that determines the bytes of a sequence."""
    content = plan.config.model_dump(mode="json", exclude=set(_NOT_CONTENT))
    if not plan.config.take:  # captures of before there were takes are first takes
        del content["take"]
    if plan.config.people == "model":  # as all were before there were others
        del content["people"]
    motion = b""
    if plan.config.motion == "arkit" and plan.config.root is not None:
        path = plan.config.root / MOTION_FILE
        motion = path.read_bytes() if path.is_file() else b""
    parts = {
        "config": content,
        "seed": plan.seed,
        "subject": plan.subject,
        "template": template_digest,
        "motion": hashlib.sha256(motion).hexdigest(),
        "simulator": SIMULATOR_VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read_key(folder: Path) -> str:
    try:
        return (folder / _KEY_FILE).read_text(errors="replace").strip()
    except OSError:
        return ""
