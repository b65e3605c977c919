"""The warp of frames: what is finished is kept, what is broken is a verdict, the rest is computed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby, pairwise
from pathlib import Path

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import InputError, raise_if_passing
from datagen.common.progress import unwatched
from datagen.evidence.sequence import template_vertices
from datagen.flows.framing import cameras_in_view, farthest_depth
from datagen.flows.gate import GATE_VERSION, gate
from datagen.flows.made import Made
from datagen.flows.own_settings import own_manifest, own_of
from datagen.flows.plan_store import refer
from datagen.flows.planning import BuildPlan
from datagen.flows.quarantine import read_quarantine, release
from datagen.flows.records import (
    ResultRecord,
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
from datagen.flows.stages.fit import believed, check_fitted, with_disagreeing
from datagen.flows.stages.person import (
    StoredAppearance,
    StoredPerson,
    heeded,
    learns_person,
    learnt_person,
    unlearnable,
)
from datagen.flows.state_index import open_index
from datagen.flows.stored_frames import stored_frames
from datagen.flows.views import OUTSIDE, Views, look_at_views
from datagen.flows.worker import prepared_head, texture_look
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.layout import PERSON_FOLDER, BuildLayout
from datagen.manifest import FitLimits, WarpConfig
from datagen.sources.frame import Frame, Registration, SequenceInfo, SequenceKey
from datagen.warp.bridge import Bridge
from datagen.warp.engine import ALGORITHM_VERSION, warp_frame
from datagen.warp.personal import SequencePrior
from datagen.warp.result import VERDICT_FILE, WARP_FILE, Verdict, Warp
from datagen.warp.storage import verdict_bytes, warp_bytes

# Seconds to a minute: long enough to pay for a task, short enough to show progress.
FRAMES_PER_UNIT = 4
_INPUT = "<input>"  # where a frame's digest goes


@dataclass(frozen=True)
class FrameState:
    """What the warp of one frame is to be made of, and whether it is made.

    Attributes
    ----------
    frame : int
    folder : Path
        Where it goes.
    key : str
        Content key; that of a broken input changes with the reason.
    input_digest : str
        Empty if the input cannot be read.
    broken : str
        Why the input cannot be read; empty if it can.
    record : ResultRecord or None
        Of the finished result.
    """

    frame: int
    folder: Path
    key: str
    input_digest: str
    broken: str
    record: ResultRecord | None


@dataclass(frozen=True)
class WarpUnit(Unit):
    """Some frames to be warped.

    Attributes
    ----------
    sequence : SequenceInfo
        A capture, or some consecutive frames of one.
    bridge : StoredBridge or None
        From the topology of its registrations to the canonical template; None where they are in that already.
    person : StoredPerson or None
        The one that the frames are held to.
    own : str
        Settings of their own that the frames have, which the manifest holds already.
    """

    sequence: SequenceInfo
    bridge: StoredBridge | None = None
    person: StoredPerson | None = None
    own: str = ""

    @property
    def name(self) -> str:
        """Subject and sequence, and the frames."""
        return _name(*self.part)

    @property
    def weight(self) -> int:
        """Number of frames."""
        return len(self.sequence.frames)

    @property
    def folders(self) -> list[Path]:
        """Where the frames go."""
        folder = self.layout.sequence_warps(self.sequence.key)
        return [folder / self.layout.frame_name(frame) for frame in self.sequence.frames]

    @property
    def part(self) -> tuple[SequenceKey, tuple[int, ...]]:
        """The sequence's name, and the frames."""
        return self.sequence.key, self.sequence.frames

    def key(self, input_digest: str, template: HeadTemplate) -> str:
        """Content key of the warp of an input."""
        bridge = self.bridge.key if self.bridge is not None else ""
        person = self.person.key if self.person else "none"
        gate_version = GATE_VERSION if self.sequence.gated else None
        head, limits = self.manifest.canonical.head, self.manifest.fit.verdict if self.sequence.bare else None
        version = ALGORITHM_VERSION
        text = _key_text(self.manifest.warp, head, person, bridge, template.digest, version, gate_version, limits)
        return sha256_text(text.replace(_INPUT, input_digest, 1))

    @property
    def finished(self) -> bool:
        """Whether every frame has a verdict that still holds; what the build's index does not know is read."""
        return self.known_finished or all(state.record is not None for state in self.states())

    @property
    def known_finished(self) -> bool:
        """Whether the build's index knows that every frame is finished; nothing is read."""
        source, template = self.inputs(), self.head().template
        for frame, folder in zip(self.sequence.frames, self.folders, strict=True):
            digest = source.known_digest(self.sequence.key, frame)
            if digest is None or not known_finished(folder, self.key(digest, template), self.root):
                return False
        return True

    def states(self) -> Iterator[FrameState]:
        """Look at one frame after the other."""
        source, template = self.inputs(), self.head().template
        for frame, folder in zip(self.sequence.frames, self.folders, strict=True):
            digest = broken = ""
            try:
                digest = source.input_digest(self.sequence.key, frame)
                key = self.key(digest, template)
            except InputError as error:
                raise_if_passing(error)
                broken = _reason(error)
                key = content_key({"broken": broken})
            yield FrameState(frame, folder, key, digest, broken, finished_record(folder, key, self.root))


@dataclass(frozen=True)
class WarpReference(Reference):
    """Some frames of a planned sequence.

    Attributes
    ----------
    number : int
        The sequence's.
    start, stop : int
        Places of the frames in the sequence.
    bridge, person : str
        Keys of the bridge and the person, empty where there is none.
    """

    number: int
    start: int
    stop: int
    bridge: str = ""
    person: str = ""

    @property
    def name(self) -> str:
        """Subject and sequence, and the frames."""
        return _name(*self.part)

    @property
    def weight(self) -> int:
        """Number of frames."""
        return self.stop - self.start

    @property
    def part(self) -> tuple[SequenceKey, tuple[int, ...]]:
        """The sequence's name, and the frames."""
        info = self.planned.sequence(self.number)
        return info.key, info.frames[self.start : self.stop]

    @property
    def unit(self) -> WarpUnit:
        """The frames themselves."""
        planned, layout = self.planned, self.layout
        whole = planned.sequence(self.number)
        part = replace(whole, frames=whole.frames[self.start : self.stop])
        # Frames of a unit have the same settings.
        own = planned.own(self.number).get(part.frames[0], "")
        bridge = kept_bridge(layout.bridges, whole.registration or "", self.bridge) if self.bridge else None
        person = StoredPerson(layout.person(whole.key), self.person) if self.person else None
        return WarpUnit(self.root, own_manifest(planned.manifest, own), part, bridge, person, own)


def _name(key: SequenceKey, frames: tuple[int, ...]) -> str:
    return f"{key}/{frames[0]:06d}" + (f"-{frames[-1]:06d}" if len(frames) > 1 else "")


class WarpStage(Stage[WarpUnit | WarpReference, int]):
    """Warps frames. One whose input is broken gets the verdict ``fail`` with the reason; the rest is done."""

    name = "warp"
    counts = "frames"
    doing = "warping"

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[WarpReference]:
        """Return a few frames each, of those that are not in quarantine."""
        check_fitted(plan, layout)
        manifest, bridges, digest = plan.manifest, stored_bridges(plan, layout), refer(plan, layout)
        left_out, not_learnt = read_quarantine(layout, manifest).frames, unlearnable(layout, manifest)
        tasks = []
        for number, (info, whole) in enumerate(zip(plan.sequences, plan.whole_sequences, strict=True)):
            bridge = bridges.get(info.registration or "")
            person = learnt_person(layout, info.key) if learns_person(plan, whole, not_learnt) else None
            out = [place for place, frame in enumerate(info.frames) if left_out and (info.key, frame) in left_out]
            own = plan.own.get(str(info.key), {})
            for first, last in pairwise([-1, *out, len(info.frames)]):
                for begin, end, text in _alike(info.frames, first + 1, last, own):
                    held = person if own_manifest(manifest, text).warp.share_identity else None
                    keys = bridge.key if bridge else "", held.key if held else ""
                    tasks += [
                        WarpReference(layout.root, digest, number, start, min(start + FRAMES_PER_UNIT, end), *keys)
                        for start in range(begin, end, FRAMES_PER_UNIT)
                    ]
        return tasks

    def split(self, unit: WarpUnit | WarpReference) -> list[WarpUnit | WarpReference]:
        """Return one for each frame."""
        if isinstance(unit, WarpReference):
            return [replace(unit, start=place, stop=place + 1) for place in range(unit.start, unit.stop)]
        return [replace(unit, sequence=replace(unit.sequence, frames=(frame,))) for frame in unit.sequence.frames]

    def leaves_out(self, unit: WarpUnit | WarpReference) -> list[tuple[SequenceKey, int]]:
        """Return its frames."""
        key, frames = unit.part
        return [(key, frame) for frame in frames]

    def finished(self, unit: WarpUnit | WarpReference) -> bool:
        """Whether every frame has a verdict that still holds for its input, the settings and the template."""
        index = open_index(unit.root)
        if index is not None and unit in index.finished:
            return True
        done = unit.unit.finished
        if done and index is not None and isinstance(unit, WarpReference):
            index.finished.add(unit)
        return done

    def known(self, unit: WarpUnit | WarpReference) -> bool:
        """Whether the build's index knows that every frame is finished."""
        index = open_index(unit.root)
        return index is not None and (unit in index.finished or unit.unit.known_finished)

    def make(self, unit: WarpUnit | WarpReference) -> int:
        """Warp the frames that are not finished; return how many. Mistakes of the program are not caught."""
        index = open_index(unit.root)
        if index is not None and unit in index.finished:
            return 0
        computed, unit = 0, unit.unit
        for state in unit.states():
            if state.record is None:
                _store_failure(unit, state, state.broken) if state.broken else _warp_and_store(unit, state)
                computed += 1
        return computed

    def made(self, unit: WarpUnit | WarpReference) -> list[Made]:
        """Return the keys of its frames, and those of the inputs that they name."""
        unit = unit.unit
        template, key = unit.head().template, unit.sequence.key
        found = []
        for frame, folder in zip(unit.sequence.frames, unit.folders, strict=True):
            record = known_result(unit.root, folder)
            has, read = (record.content_key, record.input_digest) if record is not None else ("", "")
            # What cannot be read has no digest.
            due = unit.key(read, template) if read else ""
            found.append(Made(_name(key, (frame,)), has, due, unit.stamp(key, frame)))
        return found

    def stale(self, layout: BuildLayout, units: Sequence[WarpUnit | WarpReference]) -> list[Path]:
        """Return the warps of frames that are no longer in the plan: the report must cover this build only."""
        planned: dict[tuple[str, str], list[tuple[int, ...]]] = {}
        for unit in units:
            key, frames = unit.part
            planned.setdefault((key.subject, key.sequence), []).append(frames)
        found = []
        for folder in sorted(layout.warps.glob("*/*")):
            parts = planned.get((folder.parent.name, folder.name), ())
            names = {PERSON_FOLDER, *(layout.frame_name(frame) for frames in parts for frame in frames)}
            found += [folder / name for name in _folders_in(folder) if name not in names]
        return found

    def strangers(self, plan: BuildPlan, layout: BuildLayout) -> list[Path]:
        """Return what is where warps go and is not ours."""
        folders = [layout.frame_warp(sequence.key, frame) for sequence in plan.sequences for frame in sequence.frames]
        return [path for folder in folders for path in result_strangers(folder, (WARP_FILE, VERDICT_FILE), look=False)]

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Count the frames with a verdict."""
        left_out = read_quarantine(layout, plan.manifest).frames
        waiting = stored_frames(plan, layout).waiting
        missing = [f"{key}/{frame:06d}" for key, frames in waiting.items() for frame in frames]
        planned = sum((s.key, frame) not in left_out for s in plan.sequences for frame in s.frames)
        status = self._status(planned if left_out else plan.frames, missing, "not warped yet, or asked for again")
        if not left_out:
            return status
        why = f"{len(left_out)} in quarantine: `datagen explain {layout.root}` says why"
        return replace(status, why="; ".join(text for text in (status.why, why) if text))

    def forget(self, plan: BuildPlan, layout: BuildLayout, frames: set[tuple[SequenceKey, int]]) -> list[str]:
        """Forget the frames' warps."""
        del plan
        release(layout, frames)
        for key, frame in frames:
            clear_folder(layout.frame_warp(key, frame))
        return sorted(f"{key}/{frame:06d}" for key, frame in frames)


def _alike(frames: Sequence[int], start: int, stop: int, own: Mapping[int, str]) -> Iterator[tuple[int, int, str]]:
    """Cut places of frames into runs of the same settings; yield where each begins and ends, and the settings."""
    if not own:
        yield start, stop, ""
        return
    for text, run in groupby(range(start, stop), lambda place: own.get(frames[place], "")):
        places = list(run)
        yield places[0], places[-1] + 1, text


@lru_cache(maxsize=64)
def _key_text(
    config: WarpConfig,
    head: str,
    person: str,
    bridge: str,
    template: str,
    algorithm: int,
    gate_version: int | None,
    limits: FitLimits | None,
) -> str:
    """Return what the content key of a frame is the digest of, but for its input: frames share it."""
    inputs = {
        "algorithm": algorithm,
        # The person alone says whether identity is shared: a sequence without one keeps its key.
        "config": config.model_dump(mode="json", exclude={"share_identity"}),
        "head": head,
        "input": _INPUT,
        "person": person,
        "template": template,
    }
    if bridge:
        inputs["bridge"] = bridge
    if gate_version is not None:
        inputs["gate"] = gate_version
    if limits is not None:
        inputs["fit"] = limits.model_dump(mode="json")
    return canonical_json(inputs)


def _folders_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def register_and_warp(
    scan: Mesh,
    head: HeadModel,
    config: WarpConfig,
    *,
    bridge: Bridge | None,
    registration: Registration | None = None,
    landmarks: Landmarks | None = None,
    prior: SequencePrior | None = None,
    pixels: Sequence[PixelEvidence] = (),
    on_step: Callable[[str], None] = unwatched,
) -> Warp:
    """Warp one scan, from a registration that passes a bridge first where it is in another topology than the head's.

    A scan that is its own registration takes the topology's coordinates; see
    :meth:`datagen.warp.bridge.Bridge.keep_coordinates`.
    """
    if bridge is None or registration is None or not config.use_registration:
        known, back = registration, None
    else:
        known, back = bridge.register(registration), partial(bridge.keep_coordinates, registration=registration)
    warp = warp_frame(
        scan,
        head,
        config,
        registration=known,
        landmarks=landmarks,
        prior=prior,
        pixels=pixels,
        on_step=on_step,
    )
    return warp if back is None else back(warp)


def _warp_and_store(unit: WarpUnit, state: FrameState) -> None:
    manifest = unit.manifest
    head = prepared_head(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)
    check_result_folder(state.folder, (WARP_FILE, VERDICT_FILE))
    # Outside the `try`: a missing person is not a broken frame, and without it the whole sequence would change.
    prior = unit.person.open(head.template) if unit.person else None
    try:
        captures, key = unit.captures(), unit.sequence.key
        content = captures.frame(key, state.frame)
        seen = look_at_views(content)
        if unit.sequence.bare:
            seen = with_disagreeing(captures, key, seen)
        gated = gate(content, seen.wrong, use=unit.sequence.gated)
        content = heeded(gated.frame, manifest.warp)
        bridge = unit.bridge.open(head.template) if unit.bridge else None
        # No warm start from the frame before: the result would depend on where a killed build was resumed.
        warp = register_and_warp(
            content.scan,
            head,
            manifest.warp,
            bridge=bridge,
            registration=content.registration,
            landmarks=content.landmarks,
            prior=prior,
            pixels=(*content.evidence, *_own_texture(unit, content, seen, head, bridge, prior)),
        )
    except InputError as error:
        raise_if_passing(error)
        _store_failure(unit, state, _reason(error))
        return
    warp = gated.told(warp)
    if unit.sequence.bare:
        warp = believed(unit, captures, key, state.frame, warp)
    warp, cameras, views = _with_views(content, warp, head.template, seen)
    record = ResultRecord(state.key, state.input_digest, warp.verdict.status, cameras, {}, views, own_of(unit.own))
    contents = {WARP_FILE: warp_bytes(warp), VERDICT_FILE: verdict_bytes(warp.verdict)}
    store_result(state.folder, record, contents, root=unit.root)


def _own_texture(
    unit: WarpUnit, frame: Frame, views: Views, head: HeadModel, bridge: Bridge | None, prior: SequencePrior | None
) -> Sequence[PixelEvidence]:
    """Return what the person's own texture says of a frame, where that is asked for and known.

    Cameras that contradict their pictures are not asked.
    """
    config = unit.manifest.warp
    if unit.person is None or "texture" not in config.evidence:
        return ()
    appearance = StoredAppearance(unit.person.folder, unit.person.key).open(head.template)
    if appearance is None:
        return ()
    known = frame.registration if config.use_registration else None
    if bridge is not None and known is not None:
        frame = replace(frame, registration=bridge.register(known))
    frame = replace(frame, images={name: image for name, image in frame.images.items() if name not in views.wrong})
    vertices = template_vertices(frame, head, config, prior, frame.evidence)
    return texture_look(head.template).evidence(frame, vertices, appearance)


def _with_views(frame: Frame, warp: Warp, template: HeadTemplate, found: Views) -> tuple[Warp, tuple[str, ...], Views]:
    """Choose the cameras that give samples; one that contradicts its image or mask makes the frame one to review."""
    in_view = cameras_in_view(frame.cameras, warp, template)
    outside = {c.name: OUTSIDE for c in frame.cameras if c.name not in in_view and c.name not in found.wrong}
    views = replace(found, blind={**outside, **found.blind})
    verdict = warp.verdict
    if views.wrong:
        reasons = (f"camera {name} gives no sample: {reason}" for name, reason in views.wrong.items())
        status = "review" if verdict.status == "pass" else verdict.status
        warp = replace(warp, verdict=replace(verdict, status=status, reasons=(*verdict.reasons, *reasons)))
    used = [c for c in frame.cameras if c.name in in_view and c.name not in views.wrong and c.name not in views.blind]
    depths = {camera.name: round(farthest_depth(camera, warp, template), 4) for camera in used}
    return warp, tuple(sorted(depths)), replace(views, farthest_m=depths)


def _store_failure(unit: WarpUnit, state: FrameState, reason: str) -> None:
    check_result_folder(state.folder, (WARP_FILE, VERDICT_FILE))
    record = ResultRecord(state.key, state.input_digest, "fail", (), {}, own=own_of(unit.own))
    store_result(state.folder, record, {VERDICT_FILE: verdict_bytes(Verdict("fail", (reason,)))}, root=unit.root)


def _reason(error: InputError) -> str:
    return f"{type(error).__name__}: {error}"
