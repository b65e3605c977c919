"""Heads fitted to the pictures of sequences without scans and registrations, one person a sequence, before all else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from datagen.common.digests import sha256_text
from datagen.common.errors import InputError, raise_if_passing
from datagen.evidence.registry import MakerSettings, open_maker
from datagen.fit.capture import read_neutral
from datagen.fit.figures import disagreement_text, judge_fit
from datagen.fit.problem import FitSettings
from datagen.fit.refine import captured_views, fit_pictures
from datagen.fit.seen import DETECTOR, seen_by, seen_sequence
from datagen.fit.stored import FIT_FILE, PERSON_FILE, FittedCaptures, FitTold, fit_contents, frame_file
from datagen.flows.fit_plan import neutral_file
from datagen.flows.known_inputs import KnownInputs
from datagen.flows.made import Made
from datagen.flows.plan_store import refer
from datagen.flows.planning import BuildPlan
from datagen.flows.quarantine import read_quarantine
from datagen.flows.records import (
    ResultRecord,
    check_result_folder,
    clear_folder,
    content_key,
    finished_record,
    known_result,
    result_strangers,
    store_result,
)
from datagen.flows.sequence_unit import SequenceReference, SequenceUnit
from datagen.flows.stage import Stage, StageStatus, Unit
from datagen.flows.views import Views
from datagen.flows.worker import open_captures, prepared_head
from datagen.heads.base import HeadTemplate
from datagen.layout import BuildLayout
from datagen.sources.frame import Captures, SequenceInfo, SequenceKey
from datagen.warp.engine import ALGORITHM_VERSION
from datagen.warp.result import Verdict, Warp
from datagen.warp.template import prepare_template

# Another number makes all fits again.
FIT_VERSION = 2
# What a fit's record says instead of a verdict.
FITTED, NONE = "fitted", "none"


@dataclass(frozen=True)
class FitUnit(SequenceUnit):
    """One sequence to be fitted, with all of its frames: they share a person."""

    @property
    def folder(self) -> Path:
        """Where the fit goes."""
        return self.layout.fit(self.sequence.key)

    @property
    def frames(self) -> Sequence[int]:
        """All of them."""
        return self.sequence.frames

    def pictures(self) -> Captures:
        """Open the captures of the build as they are."""
        return open_captures(self.manifest.source, self.layout.captures)

    def inputs(self) -> KnownInputs:
        """Return what is known of the captures' files, as they are."""
        return KnownInputs(self.root, self.manifest.source, self.pictures(), "pictures")

    def key(self, source: Captures | KnownInputs, template: HeadTemplate) -> str:
        """Content key of the fit: all frames, and everything that decides what is made of them."""
        config = self.manifest.fit
        neutral = neutral_file(config, self.sequence.key.subject)
        return content_key(
            {
                "algorithm": [FIT_VERSION, ALGORITHM_VERSION],
                # Limits say what is made of its figures, in the verdicts of frames.
                "config": config.model_dump(mode="json", include={"evidence", "neutral_error_mm", "focal", "stereo"}),
                "frames": self.digests(source),
                "head": self.manifest.canonical.head,
                "neutral": "" if neutral is None else _digest_of(neutral),
                "template": template.digest,
            }
        )

    def contents(self) -> dict[str, bytes]:
        """Fit the sequence; return the files of the result.

        Raises
        ------
        InputError
            If there is too little to fit.
        """
        manifest, config, info = self.manifest, self.manifest.fit, self.sequence
        head, captures = prepared_head(manifest.canonical.head, manifest.head_root, None), self.pictures()
        who = seen_by(config.evidence, captures.brings(info.key))
        told = MakerSettings(config.detector_python)
        with open_maker(DETECTOR, head, told) if DETECTOR in who else nullcontext() as maker:
            seen = seen_sequence(captures, info, info.frames, who, head.template, maker, strict=False)
        path = neutral_file(config, info.key.subject)
        neutral = None if path is None else read_neutral(path, head, manifest.canonical.head)
        settings = FitSettings(
            neutral_error_m=config.neutral_error_mm / 1000, focal=config.focal == "unknown", stereo=config.stereo
        )
        template, views = prepare_template(head.template), captured_views(captures, info.key)
        fit, seen.frames = fit_pictures(head, template, seen.frames, views, settings, neutral=neutral)
        return fit_contents(fit, seen, who, template, known=neutral is not None)


def _digest_of(path: Path) -> str:
    try:
        return sha256_text(path.read_bytes().hex())
    except OSError as error:
        raise InputError(
            f"fit.neutral: {path} cannot be read ({error.strerror})", "the subject's face at rest", "Restore the file"
        ) from None


@dataclass(frozen=True)
class FitReference(SequenceReference):
    """A planned sequence to be fitted."""

    @property
    def unit(self) -> FitUnit:
        """The sequence itself."""
        planned = self.planned
        return FitUnit(self.root, planned.manifest, planned.whole(self.number))


class FitStage(Stage[FitUnit | FitReference, int]):
    """Fits a head to what was seen in the pictures of each sequence that has no surface.

    Frames that cannot be read, or in which too little was seen, are left out and named: they get the verdict ``fail``
    with the reason, as do all frames of a sequence that cannot be fitted.
    """

    name = "fit"
    counts = "sequences"
    doing = "fitting"

    def applies(self, plan: BuildPlan) -> bool:
        """Whether any sequence has no surface."""
        return any(info.bare for info in plan.sequences)

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[FitReference]:
        """Return one for each sequence without a surface."""
        digest = refer(plan, layout)
        return [FitReference(layout.root, digest, n) for n, info in enumerate(plan.sequences) if info.bare]

    def leaves_out(self, unit: FitUnit | FitReference) -> list[tuple[SequenceKey, int]]:
        """Return all frames of the sequence: without a fit they have no surface."""
        sequence = unit.unit.sequence
        return [(sequence.key, frame) for frame in sequence.frames]

    def finished(self, unit: FitUnit | FitReference) -> bool:
        """Whether a record that still holds has the fit, or says that there is none."""
        return unit.unit.finished

    def known(self, unit: FitUnit | FitReference) -> bool:
        """Whether the build's index knows the frames, and that their fit is finished."""
        return unit.unit.known_finished

    def make(self, unit: FitUnit | FitReference) -> int:
        """Fit a sequence and store it; return 1 if that had to be done."""
        unit = unit.unit
        key = unit.key(unit.inputs(), unit.head().template)
        if finished_record(unit.folder, key, unit.root) is not None:
            return 0
        check_result_folder(unit.folder, _names(unit.sequence))
        try:
            contents, status = unit.contents(), FITTED
        except InputError as error:
            raise_if_passing(error)
            contents, status = {FIT_FILE: FitTold(problem=str(error)).to_bytes()}, NONE
        store_result(unit.folder, ResultRecord(key, "", status, (), {}), contents, root=unit.root)
        return 1

    def made(self, unit: FitUnit | FitReference) -> list[Made]:
        """Return its key, and what its frames were read from."""
        return [unit.unit.made]

    def stale(self, layout: BuildLayout, units: Sequence[FitUnit | FitReference]) -> list[Path]:
        """Return the fits of sequences that are not in the plan any more, or have a surface."""
        planned = {unit.unit.folder for unit in units}
        return [folder for folder in sorted(layout.fits.glob("*/*")) if folder.is_dir() and folder not in planned]

    def strangers(self, plan: BuildPlan, layout: BuildLayout) -> list[Path]:
        """Return what is where fits go and is not ours."""
        bare = [info for info in plan.whole_sequences if info.bare]
        return [path for info in bare for path in result_strangers(layout.fit(info.key), _names(info), look=False)]

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Count the sequences that were fitted, or cannot be."""
        records = {s.key: known_result(layout.root, layout.fit(s.key)) for s in plan.sequences if s.bare}
        missing = [str(key) for key, record in records.items() if record is None]
        status = self._status(len(records), missing, "not fitted yet")
        failed = [str(key) for key, record in records.items() if record is not None and record.status == NONE]
        if not failed:
            return status
        why = f"no head could be fitted to {', '.join(failed[:3])}{' …' if len(failed) > 3 else ''}: datagen explain"
        return replace(status, why="; ".join(text for text in (status.why, why) if text))

    def forget(self, plan: BuildPlan, layout: BuildLayout, frames: set[tuple[SequenceKey, int]]) -> list[str]:
        """Forget the fit of each sequence that has no frame left: in any other it would come out the same."""
        forgotten = []
        for info in plan.sequences:
            folder = layout.fit(info.key)
            if info.bare and folder.is_dir() and frames.issuperset((info.key, frame) for frame in info.frames):
                clear_folder(folder)
                forgotten.append(str(info.key))
        return forgotten


def _names(info: SequenceInfo) -> list[str]:
    return [*map(frame_file, info.frames), PERSON_FILE, FIT_FILE]


def check_fitted(plan: BuildPlan, layout: BuildLayout) -> None:
    """Refuse to go on before all sequences without a surface are fitted, or given up.

    Raises
    ------
    InputError
        Naming one that is not.
    """
    bare = [info for info in plan.sequences if info.bare]
    given_up = read_quarantine(layout, plan.manifest).frames_of(FitStage.name) if bare else frozenset()
    for info in bare:
        if (info.key, info.frames[0]) not in given_up and known_result(layout.root, layout.fit(info.key)) is None:
            raise InputError(f"no head is fitted to {info.key} yet", "the stage fit, done", "Run `datagen build` again")


def with_disagreeing(captures: FittedCaptures, key: SequenceKey, found: Views) -> Views:
    """Return what was found of views, with the cameras that disagree with the others as their sequence was fitted."""
    scales = captures.told(key).disagreeing
    wrong = {camera: disagreement_text(camera, scale) for camera, scale in scales.items()}
    return replace(found, wrong={**wrong, **found.wrong}) if wrong else found


def believed(unit: Unit, captures: FittedCaptures, key: SequenceKey, frame: int, warp: Warp) -> Warp:
    """Return the warp of a fitted frame with the verdict that its fit allows, and its figures."""
    figures = captures.told(key).frames[frame]
    status, reasons = judge_fit(figures, unit.manifest.fit.verdict)
    order = ("pass", "review", "fail")
    given = warp.verdict
    worst = max(status, given.status, key=order.index)
    verdict = Verdict(worst, (*given.reasons, *reasons), {**given.metrics, **figures.metrics})
    return replace(warp, verdict=verdict)
