"""Fits of simulated people to what cameras see of them: right where the truth is known, firm against what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.fit.people import Person, blurred_neutral, displaced, looked_at, simulated_person
from datagen.common.errors import InputError
from datagen.fit.problem import Fit, FitFrame, FitSettings
from datagen.fit.solver import fit_frames
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.warp.similarity import fit_similarity
from datagen.warp.template import WarpTemplate, prepare_template

# Enough for what is asked here.
QUICK = FitSettings(rounds=6, amplitudes=False)

Scene = tuple[HeadModel, WarpTemplate, Person]


@pytest.fixture(scope="module")
def scene() -> Scene:
    head = load_head("anny", None)
    return head, prepare_template(head.template, 0), simulated_person(head, 11, 0, 2, 1.0)


def seen_by(scene: Scene, cameras: Sequence[int], sigma_px: float = 1.0, frames: int = 1) -> list[FitFrame]:
    _, template, person = scene
    chosen = [person.cameras[k] for k in cameras]
    return looked_at(template, person, chosen, sigma_px, np.random.default_rng(0))[:frames]


def error_mm(scene: Scene, fit: Fit, *, aligned: bool = False) -> float:
    head, _, person = scene
    face = mask_of(head.template.regions, FACE_REGIONS)
    errors = []
    for frame in fit.frames:
        found, true = frame.vertices[face], person.vertices[frame.index][face]
        moved = fit_similarity(found, true, with_scale=False).apply(found) if aligned else found
        errors.append(np.linalg.norm(moved - true, axis=1))
    return 1000 * float(np.median(np.concatenate(errors)))


def test_pictures_of_four_cameras_register_two_frames(scene: Scene) -> None:
    head, template, person = scene
    fit = fit_frames(head, template, seen_by(scene, (0, 2, 3, 5), frames=2), QUICK)
    assert error_mm(scene, fit) < 0.6
    one = fit.frames[1]
    assert one.spread_m.shape == (len(head.template.vertices),)
    face = mask_of(head.template.regions, FACE_REGIONS)
    error = np.linalg.norm(one.vertices - person.vertices[1], axis=1)[face]
    # Of a sum of three squares of normal errors about 0.6 lie within one standard deviation.
    assert 0.4 < (error < one.spread_m[face]).mean() < 0.95
    assert ((one.expression >= 0) & (one.expression <= 1)).all()
    assert one.head_to_world[:3, :3] @ one.head_to_world[:3, :3].T == pytest.approx(np.eye(3))


def test_a_known_face_at_rest_tells_one_camera_the_depth(scene: Scene) -> None:
    head, template, person = scene
    frames = seen_by(scene, (2,))
    alone = fit_frames(head, template, frames, QUICK)
    known = fit_frames(head, template, frames, QUICK, neutral=blurred_neutral(head, person, np.random.default_rng(1)))
    assert error_mm(scene, known, aligned=True) < 0.85
    assert error_mm(scene, known) < 5
    assert error_mm(scene, known) < error_mm(scene, alone)
    # What is not known is said to be.
    assert np.median(alone.frames[0].spread_m) > 0.03


def test_a_picture_that_is_wrong_changes_little_and_is_told(scene: Scene) -> None:
    head, template, _ = scene
    frames = seen_by(scene, (0, 2, 5))
    clean = error_mm(scene, fit_frames(head, template, frames, QUICK))
    rng = np.random.default_rng(2)
    picture = fit_frames(head, template, displaced(frames, 1 / 3, 30.0, rng, views=True), QUICK)
    assert error_mm(scene, picture) < 1.25 * clean
    scales = picture.frames[0].view_scale
    assert sorted(scales.values())[-1] > 5 * sorted(scales.values())[-2]


def test_points_that_are_wrong_change_little(scene: Scene) -> None:
    head, template, _ = scene
    frames = displaced(seen_by(scene, (0, 2, 5)), 1 / 3, 30.0, np.random.default_rng(2), views=False)
    assert error_mm(scene, fit_frames(head, template, frames, QUICK)) < 0.8


def test_a_focal_length_that_is_not_known_is_found(scene: Scene) -> None:
    head, template, person = scene
    frames = seen_by(scene, (0, 2, 5))
    true = {camera.name: camera.K[0, 0] for camera in person.cameras}
    blind = [
        replace(
            frame,
            evidence=[
                PixelEvidence(
                    # Seen as by a camera whose principal point is the middle of its picture.
                    replace(one.points, pixels=one.points.pixels - one.camera.K[:2, 2] + 48.0),
                    replace(one.camera, K=np.array([[150.0, 0, 48], [0, 150.0, 48], [0, 0, 1]])),
                )
                for one in frame.evidence
            ],
        )
        for frame in frames
    ]
    fit = fit_frames(head, template, blind, FitSettings(focal=True, rounds=8, amplitudes=False))
    assert set(fit.focal_px) == {"cam00", "cam02", "cam05"}
    for name, focal in fit.focal_px.items():
        assert focal == pytest.approx(true[name], rel=0.03)


def test_steps_lower_the_energy_and_end_where_it_is_least(scene: Scene) -> None:
    head, template, _ = scene
    frames = seen_by(scene, (0, 5))
    settings = FitSettings(rounds=1, robust=False, amplitudes=False)
    first = fit_frames(head, template, frames, settings)
    last = fit_frames(head, template, frames, replace(settings, rounds=12))
    assert last.energy < first.energy
    # It ended by itself.
    assert last.rounds < 12


def test_how_far_a_person_departs_is_found(scene: Scene) -> None:
    head, template, _ = scene
    fit = fit_frames(head, template, seen_by(scene, (0, 2, 5)), FitSettings(rounds=6))
    identity, _, beyond = fit.amplitudes
    # Drawn from the model, with a millimetre on top; real people are expected to lie nearer to it, with more on top.
    assert identity > 1.1
    assert beyond < 0.9


def test_what_cannot_be_fitted_is_said(scene: Scene) -> None:
    head, template, _ = scene
    (frame,) = seen_by(scene, (2,))
    (one,) = frame.evidence
    few = replace(frame, evidence=[PixelEvidence(one.points.take([0, 1, 2]), one.camera)])
    other = replace(frame, evidence=[PixelEvidence(replace(one.points, template="abc"), one.camera)])
    none = replace(frame, evidence=[])
    bad = (([], "no frames"), ([few], "at most 3 points"), ([other], "another template"), ([none], "0 points"))
    for frames, words in bad:
        with pytest.raises(InputError, match=words):
            fit_frames(head, template, frames)
