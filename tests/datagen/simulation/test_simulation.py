"""Simulated captures: deterministic, and their truth is true."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from datagen.common.errors import InputError
from datagen.geometry.edges import unique_edges
from datagen.heads.regions import INTERIOR_REGIONS, mask_of
from datagen.heads.registry import HEADS, load_head
from datagen.simulation.capture import SimulatedCapture, SimulatedFrame
from datagen.simulation.motion import MAX_ROTATION_DEG, MAX_TRANSLATION_M, expression_curves, head_poses
from datagen.simulation.plan import SIMULATOR_VERSION, is_simulated, plan_sequences, simulate_sequence
from datagen.simulation.triangulate import random_triangulation, subdivide_long_edges
from datagen.sources.folder import FolderCaptures
from datagen.sources.registry import SimulatedSource
from datagen.sources.truth import read_truth
from tests.support.places import SHARED_DATA

DATA = SHARED_DATA
SMALL = SimulatedSource(
    kind="simulated", subjects=2, frames=2, fps=4, cameras=3, image_size=64, scan_vertices=4000, scan_noise_mm=0.1
)
SEED = 11


@lru_cache(maxsize=1)
def small_capture() -> SimulatedCapture:
    return SimulatedCapture(SMALL, SEED, 0, load_head("anny"))


@lru_cache(maxsize=2)
def small_frame(index: int) -> SimulatedFrame:
    return small_capture().frame(index)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    simulate_sequence(plan_sequences(SMALL, SEED)[0], folder / "captures", folder / "truth")
    return folder


def test_a_departure_moves_the_person_and_leaves_the_skin_where_it_belongs() -> None:
    head = load_head("anny")
    other = SimulatedCapture(SMALL, SEED, 0, head, departure_rms_m=1.5e-3, images=False)
    plain = small_capture()
    at = (plain.expressions[1], plain.poses[1])
    posed, departed = plain.subject.pose(*at), other.subject.pose(*at)
    moved = np.linalg.norm(departed.template_vertices - posed.template_vertices, axis=1)
    assert 1e3 * np.sqrt((moved**2).mean()) == pytest.approx(1.5, rel=1e-6)
    np.testing.assert_array_equal(departed.canonical, posed.canonical)
    faces = head.template.faces
    step = np.diff((departed.template_vertices - posed.template_vertices)[faces[:, :2]], axis=1)[:, 0]
    length = np.diff(head.template.vertices[faces[:, :2]], axis=1)[:, 0]
    assert np.quantile(np.linalg.norm(step, axis=1) / np.linalg.norm(length, axis=1), 0.99) < 0.3
    frame = other.frame(1)
    assert not frame.images
    assert not frame.masks


def test_another_take_shows_the_same_person_otherwise() -> None:
    """Shape, look and clothes stay; motion, pose, light and cameras do not."""
    head, one = load_head("anny"), small_capture()
    config = SMALL.model_copy(update={"take": 1})
    other = SimulatedCapture(config, SEED, 0, head)
    rest = np.zeros(len(head.expression_names))
    np.testing.assert_array_equal(other.subject.shape(rest), one.subject.shape(rest))
    assert one.studio is not None
    assert other.studio is not None
    assert other.studio.look == one.studio.look
    assert not np.allclose(other.studio.light.irradiance, one.studio.light.irradiance)
    assert not np.allclose(other.expressions, one.expressions)
    assert not np.allclose(other.poses[0], one.poses[0])
    assert not np.allclose(other.cameras[0].K, one.cameras[0].K)
    frames = small_frame(0), other.frame(0)
    assert not np.array_equal(frames[0].images["cam00"], frames[1].images["cam00"])


def test_a_take_makes_another_capture_and_first_takes_stay_what_they_were(written: Path) -> None:
    """A finished capture of before there were takes, and other people than the model's, is not made again."""
    places = written / "captures", written / "truth"
    assert not simulate_sequence(plan_sequences(SMALL, SEED)[0], *places)
    config = SMALL.model_copy(update={"take": 1})
    other = plan_sequences(config, SEED)[0]
    digest = load_head("anny").template.digest
    assert not is_simulated(other, *places, digest)
    content = SMALL.model_dump(mode="json")
    for name in ("take", "people", "subjects", "root"):
        del content[name]
    parts = {"config": content, "seed": SEED, "subject": 0, "template": digest, "simulator": SIMULATOR_VERSION}
    parts["motion"] = hashlib.sha256(b"").hexdigest()
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    assert json.loads((places[0] / "s000" / "performance" / "capture.json").read_text())["generator"]["key"] == key


def test_true_regions_are_those_of_the_true_place() -> None:
    frame = small_frame(0)
    template = load_head("anny").template
    known = np.isfinite(frame.truth).all(axis=1)
    np.testing.assert_array_equal(frame.region > 0, known)
    nearest = cKDTree(template.vertices).query(template.space.metres(frame.truth[known]))[1]
    assert (template.regions[nearest] == frame.region[known]).mean() > 0.9


def test_an_expression_or_a_noise_can_be_asked_for() -> None:
    capture = small_capture()
    neutral = capture.frame(1, expression=np.zeros(capture.expressions.shape[1]), scan_noise_mm=0.0)
    template = capture.subject.head.template
    at_rest = capture.subject.head.vertices(capture.subject.identity, np.zeros(capture.expressions.shape[1]))
    R, t = capture.poses[1, :3, :3], capture.poses[1, :3, 3]
    off = neutral.landmarks.points - template.landmarks(at_rest @ R.T + t)
    assert 1e3 * np.abs(off).max() < 5 * SMALL.landmark_noise_mm


def test_plans_are_small_and_picklable() -> None:
    plans = plan_sequences(SMALL, SEED)
    assert [str(plan.key) for plan in plans] == ["s000/performance", "s001/performance"]
    assert pickle.loads(pickle.dumps(plans)) == plans
    assert len(pickle.dumps(plans)) < 5000
    with pytest.raises(InputError, match=r"source\.root is not set"):
        plan_sequences(SMALL.model_copy(update={"motion": "arkit"}), SEED)


def test_files_hold_what_was_simulated_and_no_truth(written: Path) -> None:
    source = FolderCaptures(written / "captures")
    (info,) = source.sequences()
    made = small_frame(1)
    frame = source.frame(info.key, 1)
    np.testing.assert_allclose(frame.scan.vertices, made.scan.vertices, atol=1e-7)
    np.testing.assert_array_equal(frame.scan.faces, made.scan.faces)
    assert frame.registration is not None
    np.testing.assert_allclose(frame.registration.vertices, made.registration, atol=1e-7)
    for name in made.images:
        np.testing.assert_array_equal(frame.images[name](), made.images[name])
        np.testing.assert_array_equal(frame.masks[name](), made.masks[name])
    np.testing.assert_array_equal(read_truth(written / "truth", info.key, 1), made.truth)
    suffixes = {path.suffix for path in (written / "captures").rglob("*") if path.is_file()}
    assert suffixes == {".ply", ".npz", ".json", ".png"}
    template = load_head("anny").template
    for path in (written / "captures").rglob("*.npz"):
        with np.load(path) as archive:
            assert archive.files == ["vertices"]
            assert archive["vertices"].shape == template.vertices.shape
    for path in (written / "captures").rglob("*.ply"):
        header = path.read_bytes().split(b"end_header")[0].decode()
        assert [line.split()[-1] for line in header.splitlines() if "property" in line] == [
            "x", "y", "z", "vertex_indices",
        ]  # fmt: skip
    with pytest.raises(InputError, match="no truth for frame 7"):
        read_truth(written / "truth", info.key, 7)


def test_same_seed_gives_the_same_bytes_and_finished_work_is_kept(written: Path, tmp_path: Path) -> None:
    plan = plan_sequences(SMALL, SEED)[0]
    simulate_sequence(plan, tmp_path / "captures", tmp_path / "truth")
    files = [path.relative_to(written) for path in written.rglob("*") if path.is_file()]
    assert len(files) == 2 + 2 * (1 + 1 + 1 + 2 * 3) + 4  # each folder with its listing
    for path in files:
        assert (written / path).read_bytes() == (tmp_path / path).read_bytes(), path
    capture_file = tmp_path / "captures/s000/performance/capture.json"
    before = capture_file.stat().st_mtime_ns, capture_file.stat().st_ino
    # More subjects do not change the first one.
    more = plan_sequences(SMALL.model_copy(update={"subjects": 5}), SEED)[0]
    simulate_sequence(more, tmp_path / "captures", tmp_path / "truth")
    assert (capture_file.stat().st_mtime_ns, capture_file.stat().st_ino) == before
    # Truth that got lost is made again, bit for bit.
    shutil.rmtree(tmp_path / "truth")
    simulate_sequence(plan, tmp_path / "captures", tmp_path / "truth")
    for path in files:
        assert (written / path).read_bytes() == (tmp_path / path).read_bytes(), path
    with pytest.raises(InputError, match="inside one another"):
        simulate_sequence(plan, tmp_path, tmp_path / "truth")


def test_another_seed_or_subject_gives_another_person() -> None:
    head = load_head("anny")
    others = [SimulatedCapture(SMALL, SEED, 1, head), SimulatedCapture(SMALL, SEED + 1, 0, head)]
    for other in others:
        difference = np.linalg.norm(other.subject.neutral - small_capture().subject.neutral, axis=1)
        assert np.median(difference) > 5e-4


def test_truth_maps_onto_the_scan() -> None:
    """Looking a true coordinate up on the canonical surface and posing it lands on the scan point."""
    capture, frame = small_capture(), small_frame(1)
    surface = capture.subject.pose(capture.expressions[1], capture.poses[1])
    template = capture.subject.head.template
    known = np.isfinite(frame.truth).all(axis=1)
    points = template.space.metres(frame.truth[known])
    # An independent look-up: the nearest canonical triangle centres, then barycentric weights by least squares.
    faces = capture.subject.faces
    corners = surface.canonical[faces]
    best, landed = np.full(len(points), np.inf), np.zeros_like(points)
    scan = frame.scan.vertices[known]
    for candidate in cKDTree(corners.mean(axis=1)).query(points, k=12)[1].T:
        a, b, c = corners[candidate].transpose(1, 0, 2)
        basis = np.stack([b - a, c - a], axis=2)
        uv = np.einsum("nij,nj->ni", np.linalg.pinv(basis), points - a)
        weights = np.column_stack([1 - uv.sum(axis=1), uv])
        off = np.linalg.norm(np.einsum("nij,nj->ni", basis, uv) - (points - a), axis=1)
        off = off + 1e-2 * np.maximum(-weights.min(axis=1), 0)
        posed = np.einsum("nk,nkd->nd", weights, surface.vertices[faces[candidate]])
        landed[off < best] = posed[off < best]
        best = np.minimum(off, best)
    distance_mm = 1000 * np.linalg.norm(landed - scan, axis=1)
    assert np.median(distance_mm) < 0.12
    assert np.quantile(distance_mm, 0.99) < 0.4
    # Most of the scan is skin with a truth; the scraps have none, and lie away from the head.
    assert 0.9 < known.mean() < 1
    stray = frame.scan.vertices[~known]
    assert cKDTree(surface.vertices).query(stray)[0].max() > 3e-3


def test_scan_noise_is_what_the_config_says() -> None:
    quiet = SimulatedCapture(SMALL.model_copy(update={"scan_noise_mm": 0.0}), SEED, 0, load_head("anny")).frame(0)
    noisy = small_frame(0)
    known = np.isfinite(quiet.truth).all(axis=1)
    difference = np.linalg.norm((noisy.scan.vertices - quiet.scan.vertices)[known], axis=1)
    assert np.sqrt(np.mean(difference**2)) == pytest.approx(1e-4, rel=0.2)


def test_scans_have_their_own_triangulation() -> None:
    first, second = small_frame(0), small_frame(1)
    surface = small_capture().subject.dense.points
    space = load_head("anny").template.space
    for frame in (first, second):
        edges, counts = unique_edges(frame.scan.faces)
        assert counts.max() <= 2
        assert np.all(np.bincount(frame.scan.faces.ravel(), minlength=len(frame.scan.vertices)) > 0)
        length = np.linalg.norm(np.diff(frame.scan.vertices[edges], axis=1)[:, 0], axis=1)
        assert np.quantile(length, 0.99) < 4 * np.median(length)
        assert abs(len(frame.scan.vertices) - SMALL.scan_vertices) < 0.2 * SMALL.scan_vertices
    a, b = (space.metres(f.truth[np.isfinite(f.truth).all(axis=1)]) for f in (first, second))
    # Points of one frame are not those of the other, nor the template's vertices.
    assert np.median(cKDTree(a).query(b)[0]) > 3e-4
    assert np.median(cKDTree(surface).query(a)[0]) > 1e-4


def test_registration_error_is_exactly_what_the_config_says() -> None:
    capture = small_capture()
    for index in range(2):
        truth = capture.subject.pose(capture.expressions[index], capture.poses[index]).template_vertices
        error = small_frame(index).registration - truth
        assert 1000 * np.sqrt((error**2).sum(axis=1).mean()) == pytest.approx(SMALL.registration_error_mm, rel=1e-6)
        faces = load_head("anny").template.faces
        step = np.linalg.norm(error[faces[:, 0]] - error[faces[:, 1]], axis=1)
        length = np.linalg.norm(truth[faces[:, 0]] - truth[faces[:, 1]], axis=1)
        assert np.quantile(step / length, 0.99) < 0.2  # smooth over the surface


def test_landmarks_lie_near_the_true_ones() -> None:
    capture, frame = small_capture(), small_frame(0)
    truth = capture.subject.pose(capture.expressions[0], capture.poses[0]).template_vertices
    off = frame.landmarks.points - capture.subject.head.template.landmarks(truth)
    assert np.sqrt((off**2).mean()) * 1000 == pytest.approx(SMALL.landmark_noise_mm, rel=0.25)


def test_images_show_a_head_on_a_background() -> None:
    frame = small_frame(0)
    assert set(frame.images) == set(frame.masks) == {"cam00", "cam01", "cam02"}
    for name, mask in frame.masks.items():
        assert 0.12 < mask.mean() < 0.6
        assert not mask[:, [0, -1]].any()
        assert frame.images[name].std() > 5
    front = next(camera for camera in small_capture().cameras if camera.name == "cam01")
    nose = frame.landmarks.points[30:31]
    (pixel,), _ = front.project(nose)
    assert frame.masks["cam01"][int(pixel[1]), int(pixel[0])]


def test_most_of_the_mouth_is_missing_from_scans() -> None:
    capture = small_capture()
    inside = mask_of(capture.subject.dense.regions, ("mouth_interior",))
    assert capture._scannable[inside].mean() == pytest.approx(0.15, abs=0.02)
    assert capture._scannable[~inside].all()
    assert inside.any()
    assert mask_of(capture.subject.dense.regions, INTERIOR_REGIONS).sum() > inside.sum()


@given(st.integers(0, 10_000), st.floats(0.3, 8.0))
@settings(max_examples=25, deadline=None)
def test_motion_is_smooth_and_bounded(seed: int, duration: float) -> None:
    names = load_head("anny").expression_names
    times = np.linspace(0, duration, int(duration * 200) + 3)
    step = times[1]
    curves = expression_curves(names, times, np.random.default_rng(seed))
    assert curves.min() >= 0
    assert curves.max() <= 1
    # The fastest event, a blink of 70 ms, bends by at most strength / σ² = 1 / 0.07²; a few may overlap.
    assert np.abs(np.diff(curves, 2, axis=0)).max() / step**2 < 3 / 0.07**2
    poses = head_poses(times, np.random.default_rng(seed))
    angle = np.rad2deg(np.arccos(np.clip((np.trace(poses[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert angle.max() <= MAX_ROTATION_DEG + 1e-6
    assert np.linalg.norm(poses[:, :3, 3], axis=1).max() <= MAX_TRANSLATION_M + 1e-9
    speed = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) / step
    assert speed.max(initial=0) < 0.1
    gram = poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1)
    assert np.abs(gram - np.eye(3)).max() < 1e-12


@given(st.integers(0, 1000), st.integers(200, 800))
@settings(max_examples=10, deadline=None)
def test_random_triangulation_covers_a_closed_surface_without_holes(seed: int, count: int) -> None:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.1)
    vertices, faces = np.asarray(ball.vertices), np.asarray(ball.faces)
    refined = subdivide_long_edges(vertices, faces, 0.004)
    positions = refined.matrix @ vertices
    assert np.linalg.norm(np.diff(positions[unique_edges(refined.faces)[0]], axis=1), axis=2).max() <= 0.004
    active = np.ones(len(positions), bool)
    samples = random_triangulation(refined, positions, active, count, np.random.default_rng(seed))
    points = samples.interpolate(positions)
    assert abs(len(points) - count) < 0.25 * count
    edges, counts = unique_edges(samples.faces)
    assert (counts == 2).all()
    assert len(points) - len(edges) + len(samples.faces) == 2  # Euler: one sphere
    corner = points[samples.faces]
    outwards = (np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]) * corner.mean(axis=1)).sum(axis=1)
    assert (outwards > 0).mean() > 0.995


def test_published_vertex_counts_are_right() -> None:
    assert HEADS["anny"].vertices == len(load_head("anny").template.vertices)


@pytest.mark.realdata
@pytest.mark.skipif(not (DATA / "arkit_motion").is_dir(), reason="development data not present")
def test_recorded_motion_keeps_true_time() -> None:
    from datagen.simulation.motion import arkit_curves

    with np.load(DATA / "arkit_motion" / "motion.npz") as archive:
        recorded = (archive["frame_numbers"] - archive["frame_numbers"][0]) / 60.0
        jaw = archive["weights"][:, list(archive["names"]).index("JawOpen")]
    curves = arkit_curves(DATA, ("jawOpen", "mouthSmile_L", "unknown"), recorded, 0)
    np.testing.assert_allclose(curves[:, 0], np.clip(jaw, 0, 1), atol=1e-6)
    assert curves[:, 1].max() > 0.5
    assert not curves[:, 2].any()
    with pytest.raises(InputError, match=r"motion\.npz does not exist"):
        arkit_curves(DATA / "none", ("jawOpen",), recorded, 0)


@pytest.mark.realdata
@pytest.mark.skipif(not (DATA / "ict_facekit").is_dir(), reason="development data not present")
def test_recorded_motion_drives_the_ict_head(tmp_path: Path) -> None:
    config = SMALL.model_copy(
        update={"head": "ict", "motion": "arkit", "root": DATA, "frames": 1, "cameras": 2, "scan_vertices": 2000}
    )
    plan = plan_sequences(config, SEED)[1]
    simulate_sequence(plan, tmp_path / "captures", tmp_path / "truth")
    frame = FolderCaptures(tmp_path / "captures").frame(plan.key, 0)
    template = load_head("ict", DATA).template
    assert frame.registration is not None
    assert frame.registration.head == template.name
    truth = read_truth(tmp_path / "truth", plan.key, 0)
    known = np.isfinite(truth).all(axis=1)
    distance = cKDTree(template.vertices).query(template.space.metres(truth[known]))[0]
    assert np.quantile(distance, 0.99) < 6e-3
    assert str(DATA) not in (tmp_path / "captures/s001/performance/capture.json").read_text()
