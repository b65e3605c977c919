"""What carries points that the warp never saw: pixels, discs, whatever lies on the frame's surface."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import InputError, MeshError
from datagen.geometry.mesh import face_normals, vertex_normals
from datagen.heads.base import HeadModel
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.simulation.capture import SimulatedCapture, SimulatedFrame
from datagen.sources.frame import Registration
from datagen.sources.registry import SimulatedSource
from datagen.warp.carry import Carrier
from datagen.warp.engine import warp_frame
from datagen.warp.result import Warp
from datagen.warp.storage import read_warp, write_warp
from tests.support.round_head import round_template

CONFIG = WarpConfig(subdivisions=0)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def captured(head: HeadModel) -> SimulatedFrame:
    config = SimulatedSource(kind="simulated", subjects=1, frames=2, cameras=6, image_size=64, scan_vertices=8_000)
    return SimulatedCapture(config, 5, 0, head, images=False).frame(1)


@pytest.fixture(scope="module")
def warp(head: HeadModel, captured: SimulatedFrame, tmp_path_factory: pytest.TempPathFactory) -> Warp:
    registration = Registration("anny", captured.registration)
    found = warp_frame(captured.scan, head, CONFIG, registration=registration, landmarks=captured.landmarks)
    folder = tmp_path_factory.mktemp("warp")
    write_warp(folder, found)
    return read_warp(folder)


@pytest.fixture(scope="module")
def carrier(head: HeadModel, warp: Warp) -> Carrier:
    return Carrier(warp, head.template, CONFIG)


def test_the_scans_own_points_are_carried_to_where_the_warp_has_them(warp: Warp, carrier: Carrier) -> None:
    found = carrier(warp.scan_vertices, vertex_normals(warp.scan_vertices, warp.scan_faces))
    known = np.isfinite(warp.canonical).all(axis=1)
    assert known.mean() > 0.8
    np.testing.assert_array_equal(np.isfinite(found.canonical).all(axis=1), known)
    np.testing.assert_allclose(found.canonical[known], warp.canonical[known], atol=1e-6)
    np.testing.assert_array_equal(found.region, warp.region)
    # Spread and departure are kept as float32.
    np.testing.assert_allclose(found.confidence, warp.confidence, atol=1e-4)


def test_a_point_between_the_scans_is_nearer_to_the_truth_than_its_nearest_vertex(
    warp: Warp, carrier: Carrier, captured: SimulatedFrame
) -> None:
    faces = warp.scan_faces[np.isfinite(captured.truth[warp.scan_faces]).all(axis=(1, 2))]
    middles = warp.scan_vertices[faces].mean(axis=1)
    found = carrier(middles, face_normals(warp.scan_vertices, faces))
    truth_m = captured.truth[faces].mean(axis=1) * warp.space.half_extent
    known = np.isfinite(found.canonical).all(axis=1)
    assert known.mean() > 0.9
    carried = np.linalg.norm(found.canonical * warp.space.half_extent - truth_m, axis=1)[known]
    corner = np.linalg.norm(warp.canonical[faces[:, 0]] * warp.space.half_extent - truth_m, axis=1)[known]
    assert np.median(carried) < 0.75 * np.nanmedian(corner)
    at_corners = np.linalg.norm((warp.canonical - captured.truth) * warp.space.half_extent, axis=1)
    assert np.median(carried) < 1.05 * np.nanmedian(at_corners)


def test_what_is_far_from_the_head_has_no_counterpart(warp: Warp, carrier: Carrier) -> None:
    normals = vertex_normals(warp.scan_vertices, warp.scan_faces)
    found = carrier(warp.scan_vertices + 0.1 * normals, normals)
    away = ~np.isfinite(found.canonical).all(axis=1)
    assert away.mean() > 0.95
    assert not found.confidence[away].any()
    assert not found.region[away].any()


def test_no_points_are_no_points(carrier: Carrier) -> None:
    found = carrier(np.zeros((0, 3)), np.zeros((0, 3)))
    assert (len(found.canonical), len(found.confidence), len(found.region)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("points", "normals"),
    [
        (np.zeros((2, 3)), np.ones((3, 3))),
        (np.zeros(3), np.zeros(3)),
        (np.array([[np.nan, 0, 0]]), np.ones((1, 3))),
        (np.zeros((1, 3)), np.array([[np.inf, 0, 0]])),
    ],
)
def test_points_that_cannot_be_are_refused(carrier: Carrier, points: np.ndarray, normals: np.ndarray) -> None:
    with pytest.raises(MeshError):
        carrier(points, normals)


def test_a_warp_of_another_template_is_refused(head: HeadModel, warp: Warp) -> None:
    with pytest.raises(InputError, match="Warp the frame again"):
        Carrier(warp, round_template(), CONFIG)
    with pytest.raises(InputError, match="Warp the frame again"):
        Carrier(warp, head.template, WarpConfig(subdivisions=1))
    with pytest.raises(InputError, match="0 spreads"):
        Carrier(dataclasses.replace(warp, spread_m=np.zeros(0, np.float32)), head.template, CONFIG)


def test_a_warp_without_what_carries_is_refused_when_it_is_read(warp: Warp, tmp_path: Path) -> None:
    write_warp(tmp_path, dataclasses.replace(warp, spread_m=np.zeros(3, np.float32)))
    with pytest.raises(InputError, match="spread_m"):
        read_warp(tmp_path)
