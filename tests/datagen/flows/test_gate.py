"""Masks as gates: what two cameras see beside the person is left out, counted, and told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import InputError
from datagen.flows.gate import gate, views_outside
from datagen.flows.views import examine
from datagen.geometry.mesh import Mesh
from datagen.sources.capture_file import SIMULATION
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import Registration
from datagen.warp.result import Verdict, Warp
from tests.support.round_head import round_template
from tests.support.small_capture import HEAD, frame_of, rig, silhouette, write_capture

CHAIR = np.random.default_rng(0).uniform((-0.2, -0.25, -0.2), (0.2, 0.05, -0.17), (900, 3))


def with_chair() -> Mesh:
    faces = np.arange(900).reshape(-1, 3) + len(HEAD.vertices)
    return Mesh.of(np.concatenate([HEAD.vertices, CHAIR]), np.concatenate([HEAD.faces, faces]))


def test_a_point_counts_where_it_is_seen_beside_the_mask() -> None:
    cameras = rig()
    masks = {camera.name: silhouette(camera) for camera in cameras}
    points = np.array([[0, 0, 0.1], [0.13, 0, 0.05], [0, 5, 0], [0, 0, 2.0]])
    assert views_outside(points, cameras, masks).tolist() == [0, 3, 0, 0]
    assert views_outside(points, cameras, {"left": masks["left"]}).tolist() == [0, 1, 0, 0]
    assert views_outside(HEAD.vertices, cameras, masks).max() <= 1


def test_the_chair_goes_and_the_head_stays() -> None:
    frame = frame_of(scan=with_chair())
    gated = gate(frame, examine(frame).views.wrong)
    assert gated.used
    kept = gated.frame.scan
    np.testing.assert_array_equal(kept.vertices[: len(HEAD.vertices)], HEAD.vertices)
    np.testing.assert_array_equal(kept.faces[: len(HEAD.faces)], HEAD.faces)
    # Behind the head a part of it is hidden from every camera.
    assert gated.outside > 0.4 * len(CHAIR)
    assert len(kept.vertices) == gated.points - gated.outside
    assert kept.faces.max() < len(kept.vertices)


def test_masks_of_wrong_cameras_and_a_single_mask_tell_nothing() -> None:
    frame = frame_of(scan=with_chair())
    assert not gate(frame, {"left", "right"}).used
    assert gate(frame, {"left", "right"}).frame is frame
    assert not gate(frame_of(masks=None), ()).used
    inverted = frame_of(masks=np.logical_not)
    wrong = examine(inverted).views.wrong
    assert gate(inverted, wrong).frame is inverted
    with pytest.raises(InputError, match="all of the scan of frame 0 of anna/speech lies outside the masks"):
        gate(frame_of(masks=np.zeros_like), ())


def test_a_scan_that_is_its_registration_stays_whole() -> None:
    scan = with_chair()
    frame = dataclasses.replace(frame_of(scan=scan), registration=Registration("ict", scan.vertices))
    assert gate(frame, ()).outside == 0


def test_what_was_left_out_is_told_and_strays_are_only_counted() -> None:
    template = round_template()
    n = len(HEAD.vertices)
    zeros = np.zeros(n, np.float32)
    warp = Warp(
        *(HEAD.vertices, HEAD.faces, np.zeros((n, 3), np.float32), zeros, zeros.astype(np.uint8)),
        *(template.vertices, template.faces, np.eye(4), template.space, Verdict("pass", (), {"x": 1.0})),
    )
    many = gate(frame_of(scan=with_chair()), ()).told(warp).verdict
    assert many.status == "pass"
    assert many.metrics["outside_masks"] > 300
    assert "lie outside the masks of 2 cameras or more, and were left out" in many.reasons[0]
    stray = Mesh.of(np.concatenate([HEAD.vertices, [[0.13, 0, 0.05]]]), HEAD.faces)
    few = gate(frame_of(scan=stray), ()).told(warp).verdict
    assert (few.reasons, few.metrics["outside_masks"]) == ((), 1)
    assert gate(frame_of(masks=None), ()).told(warp) is warp


def test_simulated_scans_are_kept_whole_wherever_they_lie(tmp_path: Path) -> None:
    write_capture(tmp_path / "anna/real", rig())
    write_capture(tmp_path / "anna/simulated", rig(), generator={"name": SIMULATION})
    write_capture(tmp_path / "anna/without", rig(), masks=None)
    found = {info.key.sequence: info.gated for info in FolderCaptures(tmp_path).sequences()}
    assert found == {"real": True, "simulated": False, "without": False}
    assert not gate(frame_of(scan=with_chair()), (), use=False).used
