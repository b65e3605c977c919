"""Cameras against images, masks and scan: what is right passes from anywhere, every mistake is found by its camera."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import InputError
from datagen.flows.check import CheckResult, _check_sequence
from datagen.flows.planning import plan_build
from datagen.flows.records import ResultRecord, read_result_record, write_result_record
from datagen.flows.stages.warp import _with_views
from datagen.flows.stored_frames import NO_VIEW, stored_frames
from datagen.flows.views import NO_IMAGE, Views, look_at_views
from datagen.geometry.mesh import Mesh
from datagen.layout import BuildLayout
from datagen.manifest import parse_manifest
from datagen.shards import open_dataset
from datagen.sources.frame import Frame
from datagen.warp.result import Verdict, Warp
from tests.support.round_head import round_template
from tests.support.small_capture import HEAD, KEY, MISTAKES, SIZE, frame_of, photo, rig, scaled, silhouette, with_pose

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult


def test_what_is_right_is_used() -> None:
    for frame in (frame_of(), frame_of(masks=None), frame_of(masks=lambda m: m, images=None)):
        assert not look_at_views(frame).wrong
    assert look_at_views(frame_of()).blind == {}
    assert set(look_at_views(frame_of(images=None)).blind.values()) == {NO_IMAGE}


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from([24, 48, 96]),
    yaw=st.floats(-180, 180),
    strays=st.integers(0, 60),
    seed=st.integers(0, 9),
    border=st.integers(-1, 2),
)
def test_a_true_camera_is_believed_from_anywhere(size: int, yaw: float, strays: int, seed: int, border: int) -> None:
    """Also with stray points, few pixels, and masks a pixel too small or two too large."""
    from scipy.ndimage import binary_dilation, binary_erosion

    camera = rig((yaw, yaw, yaw), size)[1]
    # Of pixel centres, as masks are: a pixel that is only touched is no foreground.
    mask = binary_erosion(binary_dilation(silhouette(camera)), iterations=2 if size < SIZE else 1)
    if border and size == SIZE:
        mask = binary_dilation(mask, iterations=border) if border > 0 else binary_erosion(mask)
    points = np.random.default_rng(seed).uniform(-0.25, 0.25, (strays * (size == SIZE), 3))
    scan = Mesh.of(np.concatenate([HEAD.vertices, points]), HEAD.faces)
    image = photo(silhouette(camera))
    views = look_at_views(
        Frame(KEY, 0, 0.0, scan, (camera,), images={"front": lambda: image}, masks={"front": lambda: mask})
    )
    assert (views.wrong, views.blind) == ({}, {})


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("masks", [True, False])
def test_cameras_that_contradict_the_pictures_are_found_by_name(name: str, masks: bool) -> None:
    views = look_at_views(frame_of(MISTAKES[name], masks=(lambda m: m) if masks else None))
    # The front camera's pose is nearly its own inverse: without masks nothing tells them apart.
    unseen = {"front"} if name in {"inverse", "centre as t", "opengl inverse"} and not masks else set()
    assert {"left", "right"} <= {*views.wrong, *views.blind}
    assert {"left", "front", "right"} - {*views.wrong, *views.blind} <= unseen
    for camera, reason in views.wrong.items():
        assert f"camera {camera}" in reason


@pytest.mark.parametrize(("factor", "named"), [(1e-3, "1000 times"), (1e3, "0.001 times"), (0.01, "100 times")])
def test_cameras_in_another_unit_than_the_scan_are_told_so(factor: float, named: str) -> None:
    views = look_at_views(frame_of(with_pose(lambda E: scaled(E, factor))))
    for reason in {**views.wrong, **views.blind}.values():
        assert f"with {named} its translation" in reason
        assert "camera_unit" in reason


@pytest.mark.parametrize(
    ("masks", "word"),
    [
        (np.logical_not, "inside its mask"),
        (lambda m: m[::-1], "inside its mask"),
        (np.zeros_like, "black everywhere"),
        (np.ones_like, "white everywhere"),
        (lambda m: np.roll(m, 30, axis=1), "inside its mask"),
    ],
)
def test_masks_that_contradict_the_scan_are_found(masks: Callable[[np.ndarray], np.ndarray], word: str) -> None:
    views = look_at_views(frame_of(masks=masks))
    assert views.wrong.keys() == {"left", "front", "right"}
    assert all(word in reason for reason in views.wrong.values())


def test_pictures_exchanged_between_cameras_are_found_without_masks() -> None:
    # Farther apart than the rig above, whose pictures hardly differ.
    true = rig((-70, 0, 70))
    seen = {c.name: photo(silhouette(other)) for c, other in zip(true, true[::-1], strict=True)}
    shifted = {name: np.roll(image, 25, axis=1) if name != "front" else image for name, image in seen.items()}
    frame = Frame(KEY, 0, 0.0, HEAD, true, images={n: (lambda m=m: m) for n, m in shifted.items()})
    assert look_at_views(frame).wrong.keys() == {"left", "right"}


def test_what_cannot_be_read_is_a_reason_of_its_camera_alone() -> None:
    def broken() -> np.ndarray:
        raise InputError("mask m.png has colours", "white on black")

    frame = frame_of()
    frame = dataclasses.replace(frame, masks={**frame.masks, "left": broken})
    assert look_at_views(frame).wrong == {"left": "mask m.png has colours. Expected white on black."}


def a_warp(frame: Frame, status: Any = "pass") -> Warp:
    template = round_template()
    n = len(frame.scan.vertices)
    return Warp(
        frame.scan.vertices,
        frame.scan.faces,
        np.zeros((n, 3), np.float32),
        np.ones(n, np.float32),
        np.zeros(n, np.uint8),
        template.vertices,
        template.faces,
        np.eye(4),
        template.space,
        Verdict(status, ("as it was",) if status != "pass" else ()),
    )


@pytest.mark.parametrize("status", ["pass", "review", "fail"])
def test_a_view_that_contradicts_gives_no_sample_and_asks_for_a_review(status: str) -> None:
    frame = frame_of()
    bad = frame.masks["left"]()
    images = {name: read for name, read in frame.images.items() if name != "right"}
    frame = dataclasses.replace(frame, masks={**frame.masks, "left": lambda: ~bad}, images=images)
    warp, cameras, views = _with_views(frame, a_warp(frame, status), round_template(), look_at_views(frame))
    assert cameras == ("front",)
    assert (views.wrong.keys(), views.blind) == ({"left"}, {"right": NO_IMAGE})
    assert views.farthest_m["front"] == pytest.approx(0.85, abs=0.1)
    assert warp.verdict.status == ("review" if status == "pass" else status)
    assert warp.verdict.reasons[-1].startswith("camera left gives no sample: of the scan")
    fine, cameras, views = _with_views(frame_of(), a_warp(frame_of()), round_template(), look_at_views(frame_of()))
    assert (cameras, fine.verdict) == (("front", "left", "right"), a_warp(frame_of()).verdict)


def test_what_is_left_out_is_counted_by_camera_and_depth_that_cannot_be_stored_is_left_out(tmp_path: Path) -> None:
    source = {"kind": "simulated", "subjects": 2, "frames": 3, "cameras": 3}
    manifest = parse_manifest({"name": "x", "source": source, "splits": {"val": 0, "test": 0}})
    plan, layout = plan_build(manifest), BuildLayout(tmp_path)
    for sequence in plan.sequences:
        for frame in sequence.frames:
            views = Views(
                {"cam00": "inverted"} if frame == 1 else {},
                {"cam00": "outside"} if frame == 0 else {},
                {"cam01": 1.2, "cam02": 65535 * 2e-5 + 0.001 * frame},
            )
            cameras = ("cam01", "cam02") if frame < 2 else ("cam02",)
            folder = layout.frame_warp(sequence.key, frame)
            folder.mkdir(parents=True)
            write_result_record(folder, ResultRecord("k", "i", "review", cameras, {}, views))
            found = read_result_record(folder)
            assert found is not None
            assert found.views == views
    frames = stored_frames(plan, layout)
    assert frames.camera_names() == {"cam01"}
    assert len(list(frames.stored())) == 4
    assert frames.left_out == {NO_VIEW: 2}
    of_first = {c.camera: c for c in frames.cameras if c.key == plan.sequences[0].key}
    assert {name: (c.frames, c.wrong) for name, c in of_first.items()} == {"cam00": (2, True), "cam02": (3, True)}
    assert str(of_first["cam00"]) == f"{plan.sequences[0].key} camera cam00 (2 frames): inverted"
    assert "Raise shards.depth_scale" in of_first["cam02"].reason
    coarse = manifest.model_copy(update={"shards": manifest.shards.model_copy(update={"depth_scale": 3e-5})})
    assert {names for part in stored_frames(plan_build(coarse), layout).parts for names in part.cameras} == {
        ("cam01", "cam02"),
        ("cam02",),
    }


def test_check_says_each_camera_once_and_only_what_holds_for_all_frames() -> None:
    frames = [
        frame_of(masks=np.logical_not),
        frame_of(cameras=(*rig()[:2], MISTAKES["opengl"][2])),
        frame_of(images=None, masks=np.logical_not, cameras=(*rig()[:2], MISTAKES["opengl"][2])),
    ]

    def check(*chosen: int) -> CheckResult:
        result = CheckResult()
        source = SimpleNamespace(frame=lambda _key, index: frames[index])
        progress = SimpleNamespace(expect=lambda _: None, advance=lambda _: None)
        _check_sequence(source, KEY, chosen, result, progress)  # type: ignore[arg-type]
        return result

    both = check(0, 1)
    assert {p["where"] for p in both.problems} == {f"{KEY}/000000 camera {name}" for name in ("left", "front", "right")}
    (alone,) = check(1).problems
    assert alone["where"] == f"{KEY}/000001 camera right"
    assert alone["problem"].startswith("camera right sees nothing of the scan, which lies behind it")
    assert "OpenGL axes (y and z turned) fits: 1.00 instead of 0.00" in alone["problem"]
    last = check(2, 2)
    assert all("(2 of 2 frames have such a problem)" in p["problem"] for p in last.problems if "mask" in p["problem"])
    assert {note["where"] for note in last.notes} == {f"{KEY} camera {name}" for name in ("left", "front")}


def test_the_masks_of_captures_are_stored_as_their_images_are(tiny_build: BuildResult) -> None:
    train = open_dataset(tiny_build.dataset)["train"]
    for sample in (train.sample(i) for i in range(len(train))):
        assert sample.mask is not None
        surface = sample.depth > 0
        assert (sample.mask[surface] > 127).mean() > 0.97
        # Hair and clothes lie beyond the surface that is rendered, the background beyond these.
        assert 0.02 < (sample.mask == 0).mean() < 0.98
