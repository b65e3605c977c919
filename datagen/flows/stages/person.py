"""The person of each sequence: learnt before its frames are warped, stored, and trusted from the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datagen.common.errors import InputError, WarpError, raise_if_passing
from datagen.evidence.sequence import fit_appearance
from datagen.evidence.texture import Appearance, appearance_bytes, read_appearance
from datagen.flows.gate import GATE_VERSION, gate
from datagen.flows.known_inputs import KnownInputs
from datagen.flows.own_settings import own_manifest, shared_own
from datagen.flows.plan_store import refer
from datagen.flows.planning import BuildPlan
from datagen.flows.quarantine import read_quarantine
from datagen.flows.records import (
    ResultRecord,
    Stored,
    check_result_folder,
    clear_folder,
    content_key,
    finished_record,
    known_finished,
    known_result,
    result_strangers,
    store_result,
)
from datagen.flows.stage import Reference, Stage, StageStatus, Unit
from datagen.flows.stages.bridge import StoredBridge, kept_bridge, stored_bridges
from datagen.flows.state_index import open_index
from datagen.flows.views import look_at_views
from datagen.flows.worker import prepared_head, texture_look
from datagen.heads.base import HeadTemplate
from datagen.layout import PERSON_FOLDER, BuildLayout
from datagen.manifest import WarpConfig
from datagen.sources.frame import Captures, Frame, SequenceInfo, SequenceKey
from datagen.warp.engine import ALGORITHM_VERSION
from datagen.warp.personal import SequencePrior
from datagen.warp.result import APPEARANCE_FILE, PERSON_FILE
from datagen.warp.sequence import FEWEST_FRAMES, fit_sequence, keyframes_of
from datagen.warp.storage import prior_bytes, read_prior

FILES = (PERSON_FILE, APPEARANCE_FILE)
# What a person's record says instead of a verdict.
LEARNT, NONE = "learnt", "none"


class StoredPerson(Stored[SequencePrior]):
    """A sequence's person; its key says what it was learnt from."""

    what = "person"

    @staticmethod
    def read(folder: Path, template: HeadTemplate) -> SequencePrior:
        """Read it from its folder."""
        return read_prior(folder, template)


class StoredAppearance(Stored[Appearance | None]):
    """How a sequence's person looks, beside the person and under the same key; None where no picture shows it."""

    what = "person"

    @staticmethod
    def read(folder: Path, template: HeadTemplate) -> Appearance | None:
        """Read it from the person's folder."""
        del template
        path = folder / APPEARANCE_FILE
        return read_appearance(path) if path.is_file() else None


@dataclass(frozen=True)
class PersonUnit(Unit):
    """One person to be learnt.

    Attributes
    ----------
    sequence : SequenceInfo
        With all of its frames.
    bridge : StoredBridge or None
        The one that the registrations of its keyframes pass through.
    """

    sequence: SequenceInfo
    bridge: StoredBridge | None = None

    @property
    def name(self) -> str:
        """Subject and sequence."""
        return str(self.sequence.key)

    @property
    def folder(self) -> Path:
        """Where the person goes."""
        return self.layout.person(self.sequence.key)

    def key(self, source: Captures | KnownInputs, template: HeadTemplate) -> str:
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
        if self.sequence.gated:
            inputs["gate"] = GATE_VERSION
        return content_key(inputs)

    def _digest(self, source: Captures | KnownInputs, frame: int) -> list[int | str]:
        try:
            return [frame, source.input_digest(self.sequence.key, frame)]
        except InputError as error:
            raise_if_passing(error)
            # Not why: the reason names the file, and all that counts is that it is passed over.
            return [frame, "broken"]


@dataclass(frozen=True)
class PersonReference(Reference):
    """The person of a planned sequence.

    Attributes
    ----------
    number : int
        The sequence's.
    bridge : str
        Key of the bridge, empty where there is none.
    """

    number: int
    bridge: str = ""

    @property
    def name(self) -> str:
        """Subject and sequence."""
        return str(self.planned.sequence(self.number).key)

    @property
    def unit(self) -> PersonUnit:
        """The person itself."""
        planned, info = self.planned, self.planned.whole(self.number)
        manifest = own_manifest(planned.manifest, shared_own({str(info.key): planned.own(self.number)}, info))
        bridged = self.bridge and manifest.warp.use_registration
        bridge = kept_bridge(self.layout.bridges, info.registration or "", self.bridge) if bridged else None
        return PersonUnit(self.root, manifest, info, bridge)


class PersonStage(Stage[PersonUnit | PersonReference, int]):
    """Learns what the frames of each sequence share.

    Keyframes that are broken, bare scans, or cannot be registered are passed over. Their bytes are part of the key all
    the same, so that a repaired one counts. A sequence whose frames give no person has a record that says so.
    """

    name = "person"
    counts = "sequences"
    doing = "learning the person of"

    def applies(self, plan: BuildPlan) -> bool:
        """Whether a person is to be learnt from any sequence."""
        return any(learns_person(plan, sequence) for sequence in plan.whole_sequences)

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[PersonReference]:
        """Return one for each sequence that a person is learnt from, unless it is in quarantine."""
        bridges, digest = stored_bridges(plan, layout), refer(plan, layout)
        keys = {name: bridge.key for name, bridge in bridges.items()}
        given_up = {unit.unit for unit in read_quarantine(layout, plan.manifest).units if unit.stage == self.name}
        return [
            PersonReference(layout.root, digest, number, keys.get(info.registration or "", ""))
            for number, info in enumerate(plan.whole_sequences)
            if learns_person(plan, info) and str(info.key) not in given_up
        ]

    def leaves_out(self, unit: PersonUnit | PersonReference) -> list[tuple[SequenceKey, int]]:
        """Return all frames of the sequence: held to another person, or to none, they would be others."""
        sequence = unit.unit.sequence
        return [(sequence.key, frame) for frame in sequence.frames]

    def finished(self, unit: PersonUnit | PersonReference) -> bool:
        """Whether a record that still holds has the person, or says that there is none."""
        unit = unit.unit
        return finished_record(unit.folder, unit.key(unit.inputs(), unit.head().template), unit.root) is not None

    def known(self, unit: PersonUnit | PersonReference) -> bool:
        """Whether the build's index knows the keyframes, and that their person is finished."""
        if open_index(unit.root) is None:
            return False
        unit = unit.unit
        source, frames = unit.inputs(), keyframes_of(unit.sequence.frames)
        if any(source.known_digest(unit.sequence.key, frame) is None for frame in frames):
            return False
        return bool(known_finished(unit.folder, unit.key(source, unit.head().template), unit.root))

    def make(self, unit: PersonUnit | PersonReference) -> int:
        """Learn and store a person; return 1 if that had to be done."""
        unit = unit.unit
        manifest, source = unit.manifest, unit.captures()
        key = unit.key(unit.inputs(), unit.head().template)
        if finished_record(unit.folder, key, unit.root) is not None:
            return 0
        check_result_folder(unit.folder, FILES)
        head = prepared_head(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)
        bridge = unit.bridge.open(head.template) if unit.bridge else None

        def read(index: int) -> Frame:
            frame = source.frame(unit.sequence.key, index)
            frame = heeded(frame, manifest.warp)
            known = frame.registration if manifest.warp.use_registration else None
            if known is None and frame.landmarks is None and not frame.seen:
                # Such frames begin from the scan alone, which takes no person.
                raise WarpError(f"frame {index} is a bare scan", "a registration, landmarks or points seen in pictures")
            if unit.sequence.gated:
                frame = gate(frame, look_at_views(frame).wrong).frame
            return replace(frame, registration=bridge.register(known) if bridge and known else known)

        prior = fit_sequence(head, unit.sequence.frames, read, manifest.warp)
        contents = {} if prior is None else {PERSON_FILE: prior_bytes(prior)}
        if prior is not None and "texture" in manifest.warp.evidence:
            keyframes = keyframes_of(unit.sequence.frames)
            seen = fit_appearance(texture_look(head.template), head, prior, keyframes, read, manifest.warp)
            contents |= {} if seen is None else {APPEARANCE_FILE: appearance_bytes(seen)}
        record = ResultRecord(key, "", NONE if prior is None else LEARNT, (), {})
        store_result(unit.folder, record, contents, root=unit.root)
        return 1

    def stale(self, layout: BuildLayout, units: Sequence[PersonUnit | PersonReference]) -> list[Path]:
        """Return the persons of sequences from which none is learnt any more."""
        planned = {unit.unit.folder for unit in units}
        return [folder for folder in sorted(layout.warps.glob(f"*/*/{PERSON_FOLDER}")) if folder not in planned]

    def strangers(self, plan: BuildPlan, layout: BuildLayout) -> list[Path]:
        """Return what is where persons go and is not ours."""
        folders = [layout.person(info.key) for info in plan.whole_sequences if learns_person(plan, info)]
        return [path for folder in folders for path in result_strangers(folder, FILES, look=False)]

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Count the sequences whose person is learnt, or cannot be."""
        keys = [sequence.key for sequence in plan.whole_sequences if learns_person(plan, sequence)]
        missing = [str(key) for key in keys if known_result(layout.root, layout.person(key)) is None]
        return self._status(len(keys), missing, "not learnt yet")

    def forget(self, plan: BuildPlan, layout: BuildLayout, frames: set[tuple[SequenceKey, int]]) -> list[str]:
        """Forget the person of each sequence that has no frame left: in any other it would come out the same."""
        forgotten = []
        for sequence in plan.sequences:
            folder = layout.person(sequence.key)
            if folder.is_dir() and frames.issuperset((sequence.key, frame) for frame in sequence.frames):
                clear_folder(folder)
                forgotten.append(str(sequence.key))
        return forgotten


def learns_person(plan: BuildPlan, whole: SequenceInfo) -> bool:
    """Whether a person is to be learnt from a sequence with all of its frames."""
    manifest = own_manifest(plan.manifest, shared_own(plan.own, whole)) if plan.own else plan.manifest
    return manifest.warp.share_identity and len(whole.frames) >= FEWEST_FRAMES


def heeded(frame: Frame, config: WarpConfig) -> Frame:
    """Return a frame without the evidence that is not asked for."""
    return frame if "captured" in config.evidence else replace(frame, seen={})


def learnt_person(layout: BuildLayout, key: SequenceKey) -> StoredPerson | None:
    """Return the person that was learnt from a sequence, None if its frames gave none.

    Raises
    ------
    InputError
        If it has not been tried yet.
    """
    folder = layout.person(key)
    record = known_result(layout.root, folder)
    if record is None:
        raise InputError(f"the person of {key} is not learnt yet", "a learnt person", "Run `datagen build` again")
    return StoredPerson(folder, record.content_key) if record.status == LEARNT else None
