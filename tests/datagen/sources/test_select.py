"""Choosing frames that differ: what is covered, how fast, and that a choice stays what it was."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import InputError
from datagen.flows.history import History, keep_selection, read_history
from datagen.flows.planning import plan_build, plan_grown
from datagen.geometry.camera import look_at
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.layout import BuildLayout
from datagen.manifest import parse_manifest
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import SequenceKey
from datagen.sources.select import covering_radius, expression_and_pose, farthest_points, features_of


def even(n: int, count: int) -> np.ndarray:
    return np.linspace(0, n - 1, count).round().astype(int)


def motion(n: int, rng: np.random.Generator) -> np.ndarray:
    """Frames (n, 12) of a recording: rest for most of the time, and a few short performances."""
    x = rng.normal(0, 0.02, (n, 12))
    for _ in range(14):
        start, length = rng.integers(0, n - 60), rng.integers(20, 60)
        x[start : start + length] += np.sin(np.linspace(0, np.pi, length))[:, None] * rng.normal(0, 1, 12)
    return x


@pytest.mark.parametrize("seed", range(4))
def test_rare_frames_are_covered_that_even_steps_miss(seed: int) -> None:
    x = motion(5000, np.random.default_rng(seed))
    started = time.process_time()
    chosen = farthest_points(x, 48)
    assert time.process_time() - started < 1
    assert len(set(chosen.tolist())) == 48
    assert covering_radius(x, chosen) <= 0.7 * covering_radius(x, even(5000, 48))


def test_the_choice_is_within_twice_the_best_and_the_same_each_time() -> None:
    from itertools import combinations

    x = np.random.default_rng(5).normal(size=(11, 2))
    best = min(covering_radius(x, chosen) for chosen in combinations(range(11), 3))
    chosen = farthest_points(x, 3)
    assert covering_radius(x, chosen) <= 2 * best + 1e-12
    assert chosen.tolist() == farthest_points(x.copy(), 11)[:3].tolist()
    assert sorted(farthest_points(np.zeros((4, 2)), 9)) == [0, 1, 2, 3]
    assert len(farthest_points(np.zeros((0, 2)), 3)) == 0


def posed(face: np.ndarray, angle: float, shift: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.asarray(face @ turn.T + [shift, 0, 0])


def test_a_turn_is_pose_and_an_open_mouth_is_expression() -> None:
    face = np.random.default_rng(0).normal(0, 0.04, (20, 3))
    smile = face.copy()
    smile[:3] += (0, 0.01, 0)
    points = np.array([posed(face, 0.02 * k, 0.001 * k) for k in range(20)] + [posed(smile, 0.2, 0.0)])
    expression, pose = expression_and_pose(points)
    apart = np.linalg.norm(expression - expression[0], axis=1)
    assert apart[:20].max() < 0.02 * apart[20]
    assert np.linalg.norm(pose[19] - pose[0]) == pytest.approx(np.hypot(0.1 * 0.38, 0.019), rel=0.1)
    assert 20 in farthest_points(features_of(points, ["expression"]), 2)
    assert 20 not in farthest_points(features_of(points, ["pose"]), 2)


def recipe(root: Path, **select: object) -> dict[str, object]:
    source = {"kind": "folder", "root": str(root), "select": {"count": 3, **select}}
    return {"name": "x", "source": source, "splits": {"val": 0, "test": 0}}


def write_frames(root: Path, key: SequenceKey, count: int, seed: int, *, landmarks: bool = True) -> None:
    """A sequence of which two frames differ from all others."""
    rng = np.random.default_rng(seed)
    face = rng.normal(0, 0.04, (8, 3))
    camera = look_at("cam0", [0.0, 0.0, 1.0], [0, 0, 0], 60.0, 32, 24)
    ball = Mesh.of(rng.normal(0, 0.06, (40, 3)), rng.integers(0, 40, (20, 3)))
    with SequenceWriter(root, key, (camera,), 25.0, generator={"key": f"{count}-{seed}"}) as writer:
        for frame in range(count):
            moved = face + rng.normal(0, 1e-5, face.shape)
            if frame in (2, 5):
                moved[frame] += (0.02, 0, 0)
            marks = Landmarks(np.arange(30, 38), moved) if landmarks else None
            writer.add(frame, ball, landmarks=marks)


def test_a_recipe_takes_frames_that_differ_and_keeps_its_choice(tmp_path: Path) -> None:
    captures, layout = tmp_path / "captures", BuildLayout(tmp_path / "run")
    anna = SequenceKey("anna", "speech")
    write_frames(captures, anna, 9, 0)
    manifest = parse_manifest(recipe(captures, by=["expression"]))
    plan = plan_build(manifest)
    (info,) = plan.sequences
    assert len(info.frames) == 3
    assert {2, 5} <= set(info.frames)
    assert (plan.frames, plan.of_frames) == (3, 9)
    layout.root.mkdir()
    keep_selection(layout, plan.selected, manifest.source.selection)
    assert History.from_json(json.loads(layout.history.read_text())) == read_history(layout)
    # Another subject, more frames and other landmarks: what was chosen stays, what is new is chosen by itself.
    write_frames(captures, SequenceKey("ben", "speech"), 4, 1)
    write_frames(captures, anna, 12, 7)
    grown = plan_grown(manifest, read_history(layout))
    assert grown.sequences[0].frames == info.frames
    assert len(grown.sequences[1].frames) == 3
    # Another recipe chooses anew.
    other = parse_manifest(recipe(captures, by=["expression"], count=4))
    assert len(plan_grown(other, read_history(layout)).sequences[0].frames) == 4


def test_what_nothing_tells_apart_is_refused_by_name(tmp_path: Path) -> None:
    write_frames(tmp_path, SequenceKey("anna", "speech"), 5, 0, landmarks=False)
    with pytest.raises(InputError, match=r"anna/speech cannot be told apart: .* neither registrations nor landmarks"):
        plan_build(parse_manifest(recipe(tmp_path)))
