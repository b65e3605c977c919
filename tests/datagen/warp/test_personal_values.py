"""What a sequence knows of its person beyond the neutral: motion, places of landmarks, and when it is not heeded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datagen.geometry.landmarks import Landmarks
from datagen.heads.base import LinearHead
from datagen.heads.regions import REGIONS
from datagen.warp import sequence, start
from datagen.warp.deform import FROM_LANDMARKS, FROM_PERSON, FROM_REGISTRATION
from datagen.warp.expression_process import MOVING_M, STILL_M, UNKNOWN_M, expression_modes, motion_amplitude_m
from datagen.warp.personal import SequencePrior
from datagen.warp.personal_fit import disagreement_m, score
from datagen.warp.personal_marks import PersonalMarks, learn_places
from datagen.warp.posterior import ShapeFit, landmark_evidence
from datagen.warp.result import PERSON_FILE
from datagen.warp.similarity import Similarity, fit_similarity
from datagen.warp.storage import prior_bytes, read_prior
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate
from tests.support.round_head import prepared

F64 = np.ndarray


@pytest.fixture(scope="module")
def template() -> WarpTemplate:
    return prepared(3)


def moving_head(template: WarpTemplate) -> LinearHead:
    """A head whose one expression moves the chin alone."""
    shape = np.zeros((1, len(template.head.vertices), 3), np.float32)
    shape[0, template.head.regions == REGIONS["chin"]] = [0, -0.01, 0]
    return LinearHead(template.head, shape[:0], shape, ("open",))


def bare(template: WarpTemplate) -> LinearHead:
    nothing = np.zeros((0, len(template.head.vertices), 3), np.float32)
    return LinearHead(template.head, nothing, nothing, ())


def test_a_face_moves_beyond_its_model_most_where_the_model_moves(template: WarpTemplate) -> None:
    head = moving_head(template)
    amplitude = motion_amplitude_m(head, template)
    chin = template.head.regions == REGIONS["chin"]
    np.testing.assert_allclose(amplitude[chin], MOVING_M, rtol=1e-6)
    np.testing.assert_allclose(amplitude[~chin], STILL_M, rtol=1e-6)
    assert (motion_amplitude_m(bare(template), template) == UNKNOWN_M).all()
    modes = expression_modes(head, template)
    skin = template.coarse_skin
    # Three lengths of 0.7 each.
    wanted = amplitude[skin] ** 2 * 3 * 0.7**2
    share = (modes[skin] ** 2).sum(axis=1) / wanted
    assert np.median(share[chin[skin]]) > 0.95
    assert share.max() < 1.02
    a, b = np.flatnonzero(chin)[[0, -1]]
    apart = np.linalg.norm(template.canonical_m[a] - template.canonical_m[b])
    kernel = sum(0.49 * np.exp(-0.5 * (apart / length) ** 2) for length in (0.05, 0.025, 0.012))
    assert modes[a] @ modes[b] == pytest.approx(MOVING_M**2 * kernel, rel=0.05)
    # As one draws a motion on any machine.
    assert (modes == expression_modes(head, template)).all()


def sightings(
    template: WarpTemplate, noise_m: float, count: int = 12, seed: int = 0
) -> tuple[list[tuple[F64, Landmarks]], F64]:
    """Frames of an unchanging person, and where landmarks truly lie: 4 mm beside the marks, along the skin."""
    rng = np.random.default_rng(seed)
    marks = template.head.landmarks()
    hit = Surface(template.canonical_m, template.faces).closest(marks)
    along = np.cross(hit.normal, [0.3, 1.0, 0.2])
    aim = marks + 4e-3 * along / np.linalg.norm(along, axis=1, keepdims=True)
    skin = template.faces[np.isin(template.faces, template.skin).all(axis=1)]
    truth = Surface(template.canonical_m, skin).closest(aim).position
    frames = []
    for _ in range(count):
        turn, shift = Rotation.from_rotvec(rng.normal(0, 0.3, 3)).as_matrix(), rng.normal(0, 0.2, 3)
        points = truth + rng.normal(0, noise_m, truth.shape)
        given = Landmarks(np.arange(68), points @ turn.T + shift)
        frames.append((template.canonical_m @ turn.T + shift, given))
    return frames, truth


def test_landmarks_have_their_place_on_a_person(template: WarpTemplate) -> None:
    frames, truth = sightings(template, 0.5e-3)
    few = [(v, Landmarks(p.indices[1:], p.points[1:])) for v, p in frames[2:]]
    found = learn_places(template, [*frames[:2], *few])
    assert found is not None
    # The first was seen in two frames only.
    assert found.indices.tolist() == list(range(1, 68))
    places = found.operator(template) @ template.head.vertices
    error = np.linalg.norm(places - truth[1:], axis=1)
    before = np.linalg.norm(template.head.landmarks()[1:] - truth[1:], axis=1)
    assert np.median(error) < 0.1 * np.median(before)
    assert found.sigma_m == pytest.approx(0.5e-3, rel=0.15)
    assert learn_places(template, frames[:2]) is None
    assert learn_places(template, []) is None


def test_a_frame_is_told_the_places_and_where_none_is_known_the_marks(template: WarpTemplate) -> None:
    marks = PersonalMarks(np.array([3, 9]), np.array([5, 6]), np.full((2, 3), 1 / 3), np.full((2, 3), 1e-3), 0.4e-3)
    rng = np.random.default_rng(1)
    given = Landmarks(np.array([2, 9]), rng.normal(size=(2, 3)))
    turn = Rotation.from_rotvec([0.2, 0.5, -0.1]).as_matrix()
    evidence = marks.evidence(template, given, turn, 1.2)
    x = template.head.vertices
    np.testing.assert_allclose(evidence.operator[0] @ x, landmark_evidence(template, given).operator[0] @ x)
    middle = template.canonical_m[template.faces[6]].mean(axis=0)
    np.testing.assert_allclose((evidence.operator @ x)[1], middle, atol=1e-12)
    np.testing.assert_allclose(evidence.position[0], given.points[0])
    np.testing.assert_allclose(evidence.position[1], given.points[1] - 1.2 * turn @ np.full(3, 1e-3))
    assert evidence.sigma_m == (0.4e-3, 4e-3)

    posed = 1.2 * template.canonical_m @ turn.T + 0.3
    mark = 1.2 * turn @ template.head.landmarks()[2] + 0.3
    place = turn @ (1.2 * middle + 1e-3) + 0.3
    seen = Landmarks(np.array([2, 9]), np.array([mark, place + np.array([0, 0, 5e-3])]))
    np.testing.assert_allclose(marks.distance_m(template, posed, seen), [0, 5e-3], atol=1e-9)


def test_what_stays_between_place_and_landmark_is_an_offset_and_what_varies_is_noise(template: WarpTemplate) -> None:
    frames, _ = sightings(template, 0.0)
    marks = learn_places(template, frames)
    assert marks is not None
    rng = np.random.default_rng(4)
    places = marks.operator(template) @ template.head.vertices
    again = []
    for _ in range(15):
        pose = Similarity(1.0, Rotation.from_rotvec(rng.normal(0, 0.5, 3)).as_matrix(), rng.normal(size=3))
        points = pose.apply(places + np.array([0, 0, 2e-3]) + rng.normal(0, 0.3e-3, places.shape))
        spread = np.full(len(template.canonical_m), np.sqrt(3) * 0.4e-3)
        fit = ShapeFit(pose, np.zeros(0), np.zeros((0, 3)), pose.apply(template.head.vertices), spread)
        again.append((Landmarks(np.arange(68), points), fit))
    found = marks.seen_again(template, again)
    np.testing.assert_allclose(np.median(found.offset_m, axis=0), [0, 0, 2e-3], atol=0.05e-3)
    assert found.sigma_m == pytest.approx(0.5e-3, rel=0.1)


def test_disagreement_is_along_the_normals_and_at_the_places(template: WarpTemplate) -> None:
    surface = Surface(template.canonical_m + 1e-3 * template.canonical_normals, template.faces)
    prior = SequencePrior("round", template.head.vertices, (0,))
    given = Landmarks(np.arange(68), template.head.landmarks() + np.array([0, 2e-3, 0]))
    found = disagreement_m(template, prior, template.head.vertices, surface, given)
    np.testing.assert_allclose(found, [1e-3, 2e-3], rtol=0.05)
    alone = disagreement_m(template, prior, template.head.vertices, surface, None)
    assert np.isnan(alone).tolist() == [False, True]
    assert score(np.array([2.0, 3.0]), np.array([1.0, 1.0])) == pytest.approx(6.5)
    assert score(np.array([2.0, np.nan]), np.array([1.0, 1.0])) == pytest.approx(4.0)
    assert score(np.array([2.0, 2.0]), np.full(2, np.nan)) == 0.0


@pytest.mark.parametrize("right", [True, False])
def test_a_frame_that_disagrees_with_its_person_is_warped_alone(template: WarpTemplate, right: bool) -> None:
    head = bare(template)
    surface = Surface(template.canonical_m, template.faces)
    given = Landmarks(np.arange(68), template.head.landmarks())
    # Somebody else: half a head narrower.
    neutral = template.head.vertices * ([1, 1, 1] if right else [0.6, 1.15, 1])
    prior = SequencePrior("round", neutral, (0,), 0.2, None, np.array([0.1e-3, 0.1e-3]))
    begun = start._known(head, template, surface, start.Given(None, given, prior), None)
    assert begun.notes["person_used"] == float(right)
    assert begun.schedule == (FROM_PERSON if right else FROM_LANDMARKS)
    assert [s.landmark_weight for s in FROM_PERSON] == [0.0] * len(FROM_REGISTRATION)


def test_a_person_is_stored_whole(template: WarpTemplate, tmp_path: Path) -> None:
    frames, _ = sightings(template, 0.5e-3)
    marks = learn_places(template, frames)
    assert marks is not None
    marks = replace(marks, offset_m=marks.offset_m + 1e-3)
    prior = SequencePrior("round", template.head.vertices, (3, 5), 0.7, marks, np.array([0.1e-3, np.nan]))
    (tmp_path / PERSON_FILE).write_bytes(prior_bytes(prior))
    found = read_prior(tmp_path, template.head)
    assert (found.head, found.frames, found.amplitude) == ("round", (3, 5), 0.7)
    np.testing.assert_array_equal(found.usual_m, prior.usual_m)
    assert found.marks is not None
    assert found.marks.sigma_m == marks.sigma_m
    for name in ("indices", "faces", "barycentric", "offset_m"):
        np.testing.assert_array_equal(getattr(found.marks, name), getattr(marks, name))
    (tmp_path / PERSON_FILE).write_bytes(prior_bytes(replace(prior, marks=None)))
    assert read_prior(tmp_path).marks is None


@pytest.mark.parametrize(("person_mm", "alone_mm", "helps"), [(0.1, 0.5, True), (0.5, 0.1, False)])
def test_no_person_is_kept_that_keyframes_agree_with_less_than_alone(
    template: WarpTemplate, person_mm: float, alone_mm: float, helps: bool
) -> None:
    frames, _ = sightings(template, 0.2e-3)
    marks = learn_places(template, frames)
    prior = SequencePrior("round", template.head.vertices, (0,), 1.0, marks, np.full(2, 0.3e-3))
    rng = np.random.default_rng(2)
    seen, fits = [], []
    for vertices, landmarks in frames:
        pose = fit_similarity(template.canonical_m, vertices, with_scale=False)
        spread = np.full(len(vertices), 1e-3)

        exact = vertices[: len(template.head.vertices)]
        by_itself, fitted = (exact + rng.normal(0, mm / 1000, exact.shape) for mm in (alone_mm, person_mm))
        alone = SimpleNamespace(
            surface=Surface(vertices, template.faces), start=SimpleNamespace(vertices=by_itself, spread_m=spread)
        )
        seen.append(sequence._Seen(SimpleNamespace(landmarks=landmarks), alone))  # type: ignore[arg-type]
        fits.append(ShapeFit(pose, np.zeros(0), np.zeros((0, 3)), fitted, spread))
    assert sequence._helps(template, prior, seen, fits) is helps


def test_a_median_ignores_what_is_not_known() -> None:
    apart = np.array([[1.0, np.nan], [2.0, np.nan], [9.0, np.nan]])
    assert np.isnan(sequence._typical(apart)).tolist() == [False, True]
    assert sequence._typical(apart)[0] == 2.0
