"""The person of each sequence: learnt before its frames are warped, stored, and trusted from the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datagen.common.errors import InputError, WarpError
from datagen.evidence.sequence import fit_appearance
from datagen.evidence.texture import Appearance, appearance_bytes, read_appearance
from datagen.flows.gate import GATE_VERSION, gate
from datagen.flows.known_inputs import KnownInputs
from datagen.flows.made import Made
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
    known_result,
    result_strangers,
    store_result,
)
from datagen.flows.sequence_unit import SequenceReference, SequenceUnit
from datagen.flows.stage import Stage, StageStatus, Task
from datagen.flows.stages.bridge import StoredBridge, kept_bridge, stored_bridges
from datagen.flows.stages.fit import FitStage, check_fitted
from datagen.flows.views import look_at_views
from datagen.flows.worker import prepared_head, texture_look
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.layout import PERSON_FOLDER, BuildLayout
from datagen.manifest import Manifest, WarpConfig
from datagen.sources.frame import Captures, Frame, SequenceInfo, SequenceKey
from datagen.warp.engine import ALGORITHM_VERSION
from datagen.warp.personal import SequencePrior
from datagen.warp.result import APPEARANCE_FILE, PERSON_FILE
from datagen.warp.sequence import FEWEST_FRAMES, fit_keyframe, fit_sequence, keyframes_of
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
class PersonUnit(SequenceUnit):
    """One person to be learnt; the sequence has all of its frames that are not left out for the person's sake.

    Attributes
    ----------
    bridge : StoredBridge or None
        The one that the registrations of its keyframes pass through.
    """

    bridge: StoredBridge | None = None

    @property
    def folder(self) -> Path:
        """Where the person goes."""
        return self.layout.person(self.sequence.key)

    @property
    def frames(self) -> Sequence[int]:
        """Its keyframes."""
        return keyframes_of(self.sequence.frames)

    def key(self, source: Captures | KnownInputs, template: HeadTemplate) -> str:
        """Content key of the person: its keyframes, and everything that decides what is made of them."""
        inputs = {
            "algorithm": ALGORITHM_VERSION,
            "config": self.manifest.warp.model_dump(mode="json"),
            "head": self.manifest.canonical.head,
            "keyframes": self.digests(source),
            "template": template.digest,
        }
        if self.bridge is not None:
            inputs["bridge"] = self.bridge.key
        if self.sequence.gated:
            inputs["gate"] = GATE_VERSION
        return content_key(inputs)

    def reader(self, template: HeadTemplate) -> Callable[[int], Frame]:
        """Return what reads a keyframe as the person is learnt from it."""
        config, source = self.manifest.warp, self.captures()
        bridge = self.bridge.open(template) if self.bridge else None

        def read(index: int) -> Frame:
            frame = heeded(source.frame(self.sequence.key, index), config)
            known = frame.registration if config.use_registration else None
            if known is None and frame.landmarks is None and not frame.seen:
                # Such frames begin from the scan alone, which takes no person.
                raise WarpError(f"frame {index} is a bare scan", "a registration, landmarks or points seen in pictures")
            if self.sequence.gated:
                frame = gate(frame, look_at_views(frame).wrong).frame
            return replace(frame, registration=bridge.register(known) if bridge and known else known)

        return read

    def warp_head(self) -> HeadModel:
        """Return the canonical head, ready for warps."""
        manifest = self.manifest
        return prepared_head(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)


@dataclass(frozen=True)
class PersonReference(SequenceReference):
    """The person of a planned sequence.

    Attributes
    ----------
    bridge : str
        Key of the bridge, empty where there is none.
    left_out : tuple of int
        Frames that no person is learnt from.
    """

    bridge: str = ""
    left_out: tuple[int, ...] = ()

    @property
    def unit(self) -> PersonUnit:
        """The person itself."""
        planned, info = self.planned, self.planned.whole(self.number)
        manifest = own_manifest(planned.manifest, shared_own({str(info.key): planned.own(self.number)}, info))
        bridged = self.bridge and manifest.warp.use_registration
        bridge = kept_bridge(self.layout.bridges, info.registration or "", self.bridge) if bridged else None
        info = without_frames(info, frozenset((info.key, frame) for frame in self.left_out))
        return PersonUnit(self.root, manifest, info, bridge)


@dataclass(frozen=True)
class KeyframeTrial(Task):
    """One keyframe of a person that could not be learnt: tried by itself, and nothing kept of it.

    Attributes
    ----------
    of : PersonUnit or PersonReference
    frame : int
    """

    root: Path
    of: PersonUnit | PersonReference
    frame: int

    @property
    def name(self) -> str:
        """Subject, sequence and frame."""
        return f"{self.of.name}/{self.frame:06d}"

    @property
    def unit(self) -> PersonUnit:
        """The person's."""
        return self.of.unit

    def run(self) -> None:
        """Do with the keyframe all that is done with it while the person is learnt."""
        unit = self.unit
        head, config = unit.warp_head(), unit.manifest.warp
        read = unit.reader(head.template)
        prior = fit_keyframe(head, self.frame, read, config)
        if prior is not None and "texture" in config.evidence:
            fit_appearance(texture_look(head.template), head, prior, [self.frame], read, config)


Person = PersonUnit | PersonReference | KeyframeTrial


class PersonStage(Stage[Person, int]):
    """Learns what the frames of each sequence share.

    Keyframes that are broken, bare scans, or cannot be registered are passed over. Their bytes are part of the key all
    the same, so that a repaired one counts. A sequence whose frames give no person has a record that says so. Keyframes
    that kill, hang or break whatever learns from them are left out of the build: the person is then that of a sequence
    that never had them.
    """

    name = "person"
    counts = "sequences"
    doing = "learning the person of"
    inquires = True

    def applies(self, plan: BuildPlan) -> bool:
        """Whether a person is to be learnt from any sequence."""
        return any(learns_person(plan, sequence) for sequence in plan.whole_sequences)

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[PersonReference]:
        """Return one for each sequence that a person is learnt from, if enough of its frames are not in quarantine."""
        check_fitted(plan, layout)
        bridges, digest = stored_bridges(plan, layout), refer(plan, layout)
        keys = {name: bridge.key for name, bridge in bridges.items()}
        out = unlearnable(layout, plan.manifest)
        return [
            PersonReference(
                layout.root,
                digest,
                number,
                keys.get(info.registration or "", ""),
                tuple(frame for frame in info.frames if (info.key, frame) in out) if out else (),
            )
            for number, info in enumerate(plan.whole_sequences)
            if learns_person(plan, info, out)
        ]

    def suspects(self, unit: Person) -> list[Person]:
        """Return its keyframes."""
        if isinstance(unit, KeyframeTrial):
            return []
        return [KeyframeTrial(unit.root, unit, frame) for frame in unit.unit.frames]

    def without(self, unit: Person, guilty: Sequence[Person]) -> Person | None:
        """Return the person of a sequence without keyframes; None where too few frames are left to share one."""
        frames = tuple(trial.frame for trial in guilty if isinstance(trial, KeyframeTrial))
        if isinstance(unit, PersonReference):
            unit = replace(unit, left_out=tuple(sorted({*unit.left_out, *frames})))
        elif isinstance(unit, PersonUnit):
            out = frozenset((unit.sequence.key, frame) for frame in frames)
            unit = replace(unit, sequence=without_frames(unit.sequence, out))
        return unit if _shares_person(unit.unit.manifest, unit.unit.sequence) else None

    def leaves_out(self, unit: Person) -> list[tuple[SequenceKey, int]]:
        """Return all frames of the sequence: held to another person, or to none, they would be others."""
        sequence = unit.unit.sequence
        return [
            (sequence.key, frame) for frame in ((unit.frame,) if isinstance(unit, KeyframeTrial) else sequence.frames)
        ]

    def finished(self, unit: Person) -> bool:
        """Whether a record that still holds has the person, or says that there is none."""
        return not isinstance(unit, KeyframeTrial) and unit.unit.finished

    def known(self, unit: Person) -> bool:
        """Whether the build's index knows the keyframes, and that their person is finished."""
        return not isinstance(unit, KeyframeTrial) and unit.unit.known_finished

    def make(self, unit: Person) -> int:
        """Learn and store a person; return 1 if that had to be done."""
        if isinstance(unit, KeyframeTrial):
            unit.run()
            return 0
        unit, manifest = unit.unit, unit.unit.manifest
        key = unit.key(unit.inputs(), unit.head().template)
        if finished_record(unit.folder, key, unit.root) is not None:
            return 0
        check_result_folder(unit.folder, FILES)
        head = unit.warp_head()
        read = unit.reader(head.template)
        prior = fit_sequence(head, unit.sequence.frames, read, manifest.warp)
        contents = {} if prior is None else {PERSON_FILE: prior_bytes(prior)}
        if prior is not None and "texture" in manifest.warp.evidence:
            seen = fit_appearance(texture_look(head.template), head, prior, unit.frames, read, manifest.warp)
            contents |= {} if seen is None else {APPEARANCE_FILE: appearance_bytes(seen)}
        record = ResultRecord(key, "", NONE if prior is None else LEARNT, (), {})
        store_result(unit.folder, record, contents, root=unit.root)
        return 1

    def made(self, unit: Person) -> list[Made]:
        """Return its key, and what its keyframes were read from; of a trial nothing is kept."""
        return [] if isinstance(unit, KeyframeTrial) else [unit.unit.made]

    def stale(self, layout: BuildLayout, units: Sequence[Person]) -> list[Path]:
        """Return the persons of sequences from which none is learnt any more."""
        planned = {unit.unit.folder for unit in units}
        return [folder for folder in sorted(layout.warps.glob(f"*/*/{PERSON_FOLDER}")) if folder not in planned]

    def strangers(self, plan: BuildPlan, layout: BuildLayout) -> list[Path]:
        """Return what is where persons go and is not ours."""
        folders = [layout.person(info.key) for info in plan.whole_sequences if learns_person(plan, info)]
        return [path for folder in folders for path in result_strangers(folder, FILES, look=False)]

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Count the sequences whose person is learnt, or cannot be."""
        out = unlearnable(layout, plan.manifest)
        keys = [sequence.key for sequence in plan.whole_sequences if learns_person(plan, sequence, out)]
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


def learns_person(plan: BuildPlan, whole: SequenceInfo, out: frozenset[tuple[SequenceKey, int]] = frozenset()) -> bool:
    """Whether a person is to be learnt from a sequence with all of its frames but those in ``out``."""
    manifest = own_manifest(plan.manifest, shared_own(plan.own, whole)) if plan.own else plan.manifest
    return _shares_person(manifest, without_frames(whole, out))


def _shares_person(manifest: Manifest, sequence: SequenceInfo) -> bool:
    return manifest.warp.share_identity and len(sequence.frames) >= FEWEST_FRAMES


def unlearnable(layout: BuildLayout, manifest: Manifest) -> frozenset[tuple[SequenceKey, int]]:
    """Return the frames that persons could not be learnt from: no person is, as if there were no such frames.

    Those whose fit was given up have no surface to learn from.
    """
    quarantine = read_quarantine(layout, manifest)
    return quarantine.frames_of(PersonStage.name) | quarantine.frames_of(FitStage.name)


def without_frames(info: SequenceInfo, out: frozenset[tuple[SequenceKey, int]]) -> SequenceInfo:
    """Return a sequence without some frames."""
    if not out:
        return info
    return replace(info, frames=tuple(frame for frame in info.frames if (info.key, frame) not in out))


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
