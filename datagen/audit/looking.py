"""Frames of a build looked at one by one: their warps with what they are held against, several at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from datagen.audit.measure import FrameMeasure, landmark_rows, measure_warp, region_rows
from datagen.audit.photo_pictures import photo_picture
from datagen.audit.pictures import Picture
from datagen.audit.results import FrameResult, truth_reader
from datagen.common.blas import available_cpus
from datagen.common.errors import CanonfaceError, InputError
from datagen.fit.stored import FittedCaptures
from datagen.geometry.landmarks import Landmarks
from datagen.heads.base import HeadTemplate
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.sources.frame import Captures
from datagen.warp.result import Warp
from datagen.warp.storage import read_warp

MEASURED_FRAMES = 256
LANDMARK_FRAMES = 4000
# Each frame that is looked at holds a few hundred megabytes for as long as that takes.
MOST_AT_ONCE = 4

Found = TypeVar("Found")


@dataclass
class Looked:
    """What was found of the frames that were looked at one by one, by their names.

    Attributes
    ----------
    sampled : dict
        Measures of frames spread over the build.
    measures : dict
        Of these and of others.
    regions : dict
        Rows of :func:`datagen.audit.measure.region_rows`.
    landmarks : dict
        Rows of :func:`datagen.audit.measure.landmark_rows`.
    given : dict
        Which landmarks were given.
    """

    sampled: dict[str, FrameMeasure] = field(default_factory=dict)
    measures: dict[str, FrameMeasure] = field(default_factory=dict)
    regions: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    landmarks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    given: dict[str, tuple[int, ...]] = field(default_factory=dict)


class FrameReader:
    """Reads warps with what they are held against: truth, template, landmarks.

    Parameters
    ----------
    build : Path
    manifest : Manifest or None
        Of the build, where it has one: without it there are no landmarks.
    """

    def __init__(self, build: Path, manifest: Manifest | None) -> None:
        self._manifest = manifest
        self._truth = truth_reader(build)
        self._templates: dict[str, HeadTemplate | None] = {}
        self._captures: Captures | None = None
        if manifest is not None:
            # The build may have been moved away from its captures.
            with contextlib.suppress(CanonfaceError):
                layout = BuildLayout(build)
                captures = manifest.source.captures(layout.captures)
                self._captures = FittedCaptures(captures, layout.fits, self._canonical)

    def _canonical(self) -> HeadTemplate:
        assert self._manifest is not None  # captures are those of a recipe
        template = self.template(self._manifest.canonical.head)
        if template is None:
            raise InputError(f"the template of {self._manifest.canonical.head} is not to be had", "the head's files")
        return template

    def template(self, head: str) -> HeadTemplate | None:
        """Return a head's template; None if it is not to be had here."""
        if head not in self._templates:
            try:
                root = self._manifest.head_root if self._manifest else None
                self._templates[head] = load_head(head, root).template
            except CanonfaceError:
                self._templates[head] = None
        return self._templates[head]

    def template_of(self, warp: Warp) -> HeadTemplate | None:
        """Return the template that a warp was made with; None if this is another version of it."""
        template = self.template(warp.space.head)
        return template if template is not None and template.digest == warp.space.template_digest else None

    def error_mm(self, result: FrameResult, warp: Warp) -> npt.NDArray[np.float64] | None:
        """Return the true error of a frame's scan points (N,) in millimetres; None where it is not known."""
        return self._truth(result, warp)

    def landmarks(self, result: FrameResult) -> Landmarks | None:
        """Return the landmarks that a frame was given; None without, or where they cannot be read."""
        if self._captures is None:
            return None
        try:
            return self._captures.landmarks(result.key, result.frame)
        except (CanonfaceError, OSError):
            return None

    def photos(self, result: FrameResult, warp: Warp, template: HeadTemplate) -> Picture | None:
        """Return the registered template over the frame's photographs; None where there are none to be had."""
        if self._captures is None:
            return None
        try:
            return photo_picture(self._captures.frame(result.key, result.frame), warp, template)
        except (CanonfaceError, OSError):
            return None

    def measure(self, result: FrameResult) -> tuple[FrameMeasure, list[dict[str, Any]]]:
        """Measure a frame; return that, and its landmarks' rows."""
        warp = read_warp(result.folder)
        template = self.template_of(warp)
        measure = measure_warp(warp, self.error_mm(result, warp), template)
        return measure, [] if template is None else landmark_rows(warp, template, self.landmarks(result))


def at_once(work: Callable[..., Found], tasks: Sequence[tuple[Any, ...]]) -> list[Found]:
    """Call ``work`` with every task on the processors there are; the first alone, for it loads what all share."""
    if not tasks:
        return []
    first = work(*tasks[0])
    if len(tasks) == 1 or (threads := min(available_cpus(), MOST_AT_ONCE)) == 1:
        return [first, *(work(*task) for task in tasks[1:])]
    with ThreadPoolExecutor(threads, "look") as pool:
        futures = [pool.submit(work, *task) for task in tasks[1:]]
        return [first, *(future.result() for future in futures)]


def look(reader: FrameReader, results: Sequence[FrameResult], rng: np.random.Generator) -> Looked:
    """Measure a sample of the frames, and note the landmarks of more."""
    looked = Looked()
    measurable = [r for r in results if r.has_warp]
    chosen = [measurable[i] for i in sorted(rng.permutation(len(measurable))[:MEASURED_FRAMES])]
    look_closer(reader, looked, chosen)
    looked.sampled |= looked.measures
    for i in np.unique(np.linspace(0, len(results) - 1, min(LANDMARK_FRAMES, len(results))).astype(int)):
        marks = reader.landmarks(results[i])
        if marks is not None:
            looked.given[results[i].name] = tuple(np.asarray(marks.indices).tolist())
    return looked


def look_closer(reader: FrameReader, looked: Looked, shown: Sequence[FrameResult]) -> None:
    """Measure those frames that were not measured yet."""
    wanted = [result for result in shown if result.has_warp and result.name not in looked.measures]
    measured = at_once(reader.measure, [(result,) for result in wanted])
    for result, (measure, marks) in zip(wanted, measured, strict=True):
        looked.measures[result.name] = measure
        looked.regions[result.name] = region_rows(measure)
        if marks:
            looked.landmarks[result.name] = marks
