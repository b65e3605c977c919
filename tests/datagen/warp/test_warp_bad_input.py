"""Broken, partial and wrong input: a clear refusal or an honest verdict, never a confident wrong answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import trimesh

from datagen.common.errors import CanonfaceError
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.simulation.capture import SimulatedCapture
from datagen.sources.frame import Registration
from datagen.sources.registry import SimulatedSource
from datagen.warp.engine import warp_frame
from datagen.warp.result import Warp
from datagen.warp.similarity import fit_similarity

CONFIG = WarpConfig(subdivisions=0)
# iBUG index of each landmark's mirror image.
MIRROR = np.concatenate(
    [
        np.arange(16, -1, -1),
        np.arange(26, 16, -1),
        [27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40],
        [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65],
    ]
)


@dataclass(frozen=True)
class Case:
    """An input, with the truth of each scan vertex (NaN where it belongs to no head)."""

    scan: Mesh
    truth: np.ndarray
    registration: Registration
    landmarks: Landmarks
    template_axes: Callable[[np.ndarray], np.ndarray]

    def with_scan(self, vertices: np.ndarray, faces: np.ndarray) -> Case:
        """Replace the scan; vertices beyond the old ones belong to no head."""
        extra = np.full((len(vertices) - len(self.truth), 3), np.nan, np.float32)
        return dataclasses.replace(self, scan=Mesh.of(vertices, faces), truth=np.concatenate([self.truth, extra]))

    def with_faces(self, faces: np.ndarray) -> Case:
        return self.with_scan(self.scan.vertices, faces)

    def cut(self, keep: Callable[[np.ndarray], np.ndarray]) -> Case:
        """Keep the faces whose vertices, in template axes, satisfy a condition."""
        kept = keep(self.template_axes(self.scan.vertices))
        return self.with_faces(self.scan.faces[kept[self.scan.faces].all(axis=1)])

    def joined(self, vertices: np.ndarray, faces: np.ndarray) -> Case:
        n = len(self.scan.vertices)
        return self.with_scan(
            np.concatenate([self.scan.vertices, vertices]), np.concatenate([self.scan.faces, faces + n])
        )


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def cases(head: HeadModel) -> dict[str, Case]:
    """Simulated faces: neutral, with the mouth wide open, with both eyes shut, and another person's."""
    config = SimulatedSource(kind="simulated", subjects=2, frames=1, cameras=6, image_size=32, scan_vertices=7000)
    made = {}
    for name, subject, pose in (
        ("plain", 0, {}),
        ("mouth", 0, {"jawOpen": 1.0}),
        ("blink", 0, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}),
        ("other", 1, {}),
    ):
        capture = SimulatedCapture(config, 5, subject, head)
        for expression, weight in pose.items():
            capture.expressions[0, head.expression_names.index(expression)] = weight
        frame = capture.frame(0)
        pose_fit = fit_similarity(head.template.landmarks(), frame.landmarks.points)
        made[name] = Case(
            frame.scan,
            frame.truth,
            Registration("anny", frame.registration),
            frame.landmarks,
            lambda v, p=pose_fit: (v - p.translation) @ p.rotation / p.scale,
        )
    return made


def from_template_axes(case: Case, points: np.ndarray) -> np.ndarray:
    axes = case.template_axes(np.concatenate([np.zeros((1, 3)), np.eye(3)]))
    linear = axes[1:] - axes[0]
    return (points - axes[0]) @ np.linalg.inv(linear)


def blob(case: Case, centre: list[float], radii: list[float]) -> tuple[np.ndarray, np.ndarray]:
    ball = trimesh.creation.icosphere(4)
    return from_template_axes(case, ball.vertices * radii + np.array(centre)), np.asarray(ball.faces)


def half(case: Case) -> Case:
    return case.cut(lambda local: local[:, 0] > 0)


def shoulders_and_hair(case: Case) -> Case:
    hair = blob(case, [0.0, 0.09, -0.05], [0.15, 0.14, 0.13])
    return case.joined(*blob(case, [0.0, -0.27, -0.06], [0.22, 0.14, 0.12])).joined(*hair)


def tongue_and_teeth(case: Case) -> Case:
    # Behind the lips of the open mouth: an arc of teeth above, a tongue below.
    upper = case.template_axes(case.landmarks.points[[61, 62, 63]]).mean(axis=0)
    lower = case.template_axes(case.landmarks.points[[65, 66, 67]]).mean(axis=0)
    teeth = blob(case, list(upper + np.array([0, -0.004, -0.012])), [0.02, 0.005, 0.006])
    tongue = blob(case, list(lower + np.array([0, 0.004, -0.018])), [0.015, 0.006, 0.02])
    return case.joined(*teeth).joined(*tongue)


def strays(case: Case) -> Case:
    rng = np.random.default_rng(1)
    n = 10 * len(case.scan.vertices)
    middle = case.scan.vertices.mean(axis=0)
    points = middle + rng.uniform(-0.3, 0.3, (n // 3, 1, 3)) + rng.normal(size=(n // 3, 3, 3)) * 0.002
    return case.joined(points.reshape(-1, 3), np.arange(n // 3 * 3).reshape(-1, 3))


def soup(case: Case) -> Case:
    corners = case.scan.faces.ravel()
    faces = np.arange(len(corners)).reshape(-1, 3)
    return dataclasses.replace(case, scan=Mesh.of(case.scan.vertices[corners], faces), truth=case.truth[corners])


def fins(case: Case) -> Case:
    """Give every twentieth triangle a fin on one edge: three triangles share it."""
    base = case.scan.faces[::20]
    v, n = case.scan.vertices, len(case.scan.vertices)
    tips = v[base].mean(axis=1) + 0.003 * np.array([0.3, 0.5, 0.8])
    fin = np.stack([base[:, 0], base[:, 1], n + np.arange(len(base))], axis=1)
    return case.with_scan(np.concatenate([v, tips]), np.concatenate([case.scan.faces, fin]))


def inward(case: Case) -> Case:
    return case.with_faces(case.scan.faces[:, ::-1])


def mixed_winding(case: Case) -> Case:
    faces = case.scan.faces.copy()
    turned = np.random.default_rng(2).random(len(faces)) < 0.3
    faces[turned] = faces[turned][:, ::-1]
    return case.with_faces(faces)


def unused_vertices(case: Case) -> Case:
    points = case.scan.vertices.mean(axis=0) + np.random.default_rng(3).normal(size=(2000, 3)) * 0.08
    return case.with_scan(np.concatenate([case.scan.vertices, points]), case.scan.faces)


def flat_faces(case: Case) -> Case:
    i = np.arange(len(case.scan.vertices) - 2)
    flat = np.concatenate([np.stack([i, i, i + 1], axis=1), np.stack([i, i, i], axis=1)])
    return case.with_faces(np.concatenate([case.scan.faces, flat]))


def outcome(head: HeadModel, case: Case, start: str) -> Warp | CanonfaceError:
    try:
        return warp_frame(
            case.scan,
            head,
            CONFIG,
            registration=case.registration if start in {"registration", "both"} else None,
            landmarks=case.landmarks if start in {"landmarks", "both"} else None,
        )
    except CanonfaceError as error:
        return error


def confident_error_mm(warp: Warp, truth: np.ndarray) -> np.ndarray:
    """Errors of the face's vertices whose confidence is above one half; infinite for what belongs to no head."""
    sure = (warp.confidence > 0.5) & mask_of(warp.region, FACE_REGIONS)
    return np.nan_to_num(warp.space.distance_mm(warp.canonical[sure], truth[sure]), nan=np.inf)


def is_honest(result: Warp | CanonfaceError, case: Case, p95_mm: float) -> None:
    """Assert what holds of any input: reasons for what is not passed, and a pass only for what is right."""
    if isinstance(result, CanonfaceError):
        assert result.found
        assert result.expected
        assert result.fix
        return
    assert result.verdict.status in {"pass", "review", "fail"}
    if result.verdict.status != "pass":
        assert result.verdict.reasons
        return
    error = confident_error_mm(result, case.truth)
    assert np.isfinite(error).mean() > 0.99
    assert np.percentile(error[np.isfinite(error)], 95) < p95_mm


# Measured with landmarks: the undamaged face has 2.2 mm at the 95th percentile of its confident vertices; damage adds
# up to 0.8 mm (shoulders and hair).
@pytest.mark.parametrize(
    ("damage", "name", "status"),
    [
        (half, "plain", "review"),
        (shoulders_and_hair, "plain", "pass"),
        (tongue_and_teeth, "mouth", "pass"),
        (strays, "plain", "pass"),
        (fins, "plain", "review"),
        (mixed_winding, "plain", "review"),
        (unused_vertices, "plain", "pass"),
        (flat_faces, "plain", "pass"),
        (lambda case: case, "blink", "pass"),
    ],
    ids=["half", "shoulders", "tongue", "strays", "fins", "winding", "unused", "flat", "blink"],
)
def test_damaged_scans_are_warped_right_or_not_passed(
    head: HeadModel, cases: dict[str, Case], damage: Callable[[Case], Case], name: str, status: str
) -> None:
    case = damage(cases[name])
    result = outcome(head, case, "landmarks")
    is_honest(result, case, 4.0)
    assert isinstance(result, Warp)
    assert status in {"pass", result.verdict.status}, result.verdict.reasons
    # What is seen is right even where the frame is not passed.
    error = confident_error_mm(result, case.truth)
    assert len(error) > 500
    assert np.median(error) < 1.5


@pytest.fixture(scope="module")
def right(head: HeadModel, cases: dict[str, Case]) -> Warp:
    """Of the undamaged face, with landmarks."""
    result = outcome(head, cases["plain"], "landmarks")
    assert isinstance(result, Warp)
    return result


def test_inward_faces_are_turned_over_and_said_to_be(head: HeadModel, cases: dict[str, Case], right: Warp) -> None:
    plain, turned = cases["plain"], inward(cases["plain"])
    result = outcome(head, turned, "landmarks")
    assert isinstance(result, Warp)
    np.testing.assert_array_equal(result.scan_faces, plain.scan.faces)
    np.testing.assert_array_equal(result.canonical, right.canonical)
    assert result.verdict.status == right.verdict.status
    assert result.verdict.metrics["faces_turned"] == 1
    assert any("point inwards" in reason for reason in result.verdict.reasons)
    assert not any("point inwards" in reason for reason in right.verdict.reasons)


def test_a_vertex_list_written_corner_by_corner_changes_nothing(
    head: HeadModel, cases: dict[str, Case], right: Warp
) -> None:
    result, case = outcome(head, soup(cases["plain"]), "landmarks"), cases["plain"]
    assert isinstance(result, Warp)
    np.testing.assert_allclose(result.canonical, right.canonical[case.scan.faces.ravel()], atol=1e-5)


def mirrored(marks: Landmarks) -> Landmarks:
    return Landmarks(marks.indices, marks.points[MIRROR[marks.indices]])


@pytest.mark.parametrize(
    "disorder",
    [
        mirrored,
        lambda marks: Landmarks(marks.indices, np.roll(marks.points, 10, axis=0)),
        lambda marks: Landmarks(marks.indices, marks.points[::-1]),
        lambda marks: Landmarks(np.array([30, 36, 45]), marks.points[[30, 45, 36]]),
    ],
    ids=["left for right", "rolled", "reversed", "two of three swapped"],
)
def test_landmarks_in_a_wrong_order_never_pass(
    head: HeadModel, cases: dict[str, Case], disorder: Callable[[Landmarks], Landmarks]
) -> None:
    case = dataclasses.replace(cases["plain"], landmarks=disorder(cases["plain"].landmarks))
    result = outcome(head, case, "landmarks")
    is_honest(result, case, 4.0)
    if isinstance(result, Warp):
        assert result.verdict.status == "fail"
        assert result.verdict.reasons


def test_a_registration_turned_round_or_far_off_is_refused(head: HeadModel, cases: dict[str, Case]) -> None:
    case = cases["plain"]
    points = case.registration.vertices
    middle = points.mean(axis=0)
    for moved in ((points - middle) * [-1, 1, -1] + middle, points + 0.2):
        result = outcome(head, dataclasses.replace(case, registration=Registration("anny", moved)), "registration")
        assert isinstance(result, CanonfaceError)
        assert "from the scan" in str(result)


def in_axes(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Case], np.ndarray]:
    """Change a registration in template axes."""
    return lambda case: from_template_axes(case, change(case.template_axes(case.registration.vertices)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (in_axes(lambda v: v * [-1, 1, 1]), "mirror image"),
        (in_axes(lambda v: v * [1, 1, -1]), "mirror image"),
        (lambda case: np.random.default_rng(0).permutation(case.registration.vertices), "template's order"),
        (in_axes(lambda v: v * 0.6), "times the template's size"),
    ],
    ids=["left for right", "back for front", "disordered", "too small"],
)
def test_a_registration_that_is_no_head_is_refused(
    head: HeadModel, cases: dict[str, Case], wrong: Callable[[Case], np.ndarray], words: str
) -> None:
    case = cases["plain"]
    case = dataclasses.replace(case, registration=Registration("anny", wrong(case)))
    result = outcome(head, case, "registration")
    assert isinstance(result, CanonfaceError)
    assert words in str(result)


@pytest.mark.parametrize(
    "wrong",
    [
        in_axes(lambda v: (v - v.mean(axis=0)) * [-1, -1, 1] + v.mean(axis=0)),
        in_axes(lambda v: (v - v.mean(axis=0)) * 0.8 + v.mean(axis=0)),
        in_axes(lambda v: v + np.array([0, 0.02, 0])),
    ],
    ids=["upside down", "smaller", "2 cm higher"],
)
def test_a_registration_that_had_to_be_moved_far_is_not_passed(
    head: HeadModel, cases: dict[str, Case], wrong: Callable[[Case], np.ndarray]
) -> None:
    case = cases["plain"]
    case = dataclasses.replace(case, registration=Registration("anny", wrong(case)))
    result = outcome(head, case, "registration")
    assert isinstance(result, CanonfaceError) or result.verdict.status != "pass"


def test_another_persons_registration_in_a_wrong_pose_is_not_passed(head: HeadModel, cases: dict[str, Case]) -> None:
    plain, other = cases["plain"], cases["other"]
    moved = from_template_axes(plain, other.template_axes(other.registration.vertices) + np.array([0.01, 0.01, 0]))
    case = dataclasses.replace(plain, registration=Registration("anny", moved))
    result = outcome(head, case, "registration")
    assert isinstance(result, CanonfaceError) or result.verdict.status != "pass"


def test_landmarks_two_centimetres_off_are_not_passed(head: HeadModel, cases: dict[str, Case]) -> None:
    plain = cases["plain"]
    up = from_template_axes(plain, plain.template_axes(plain.landmarks.points) + np.array([0, 0.02, 0]))
    case = dataclasses.replace(plain, landmarks=Landmarks(plain.landmarks.indices, up))
    alone = outcome(head, case, "landmarks")
    assert isinstance(alone, CanonfaceError) or alone.verdict.status != "pass"
    beside = outcome(head, case, "both")
    assert isinstance(beside, CanonfaceError)
    assert "registration and landmarks lie" in str(beside)


def test_what_shows_no_face_is_refused_or_not_passed(head: HeadModel, cases: dict[str, Case]) -> None:
    plain, template = cases["plain"], head.template
    behind = (template.vertices[:, 2] < 0.02)[template.faces].all(axis=1)
    back = Mesh.of(from_template_axes(plain, template.vertices), template.faces[behind])
    ball = Mesh.of(*blob(plain, [0.0, 0.02, 0.02], [0.08, 0.12, 0.1]))
    few = Mesh.of(plain.scan.vertices[:: len(plain.scan.vertices) // 50])
    for scan in (back, ball, few):
        case = dataclasses.replace(plain, scan=scan, truth=np.full(scan.vertices.shape, np.nan, np.float32))
        assert isinstance(outcome(head, case, "alone"), CanonfaceError)
        result = outcome(head, case, "landmarks")
        is_honest(result, case, 4.0)
        assert isinstance(result, CanonfaceError) or result.verdict.status != "pass"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda v, f: (np.where(np.arange(len(v))[:, None] == 5, np.nan, v), f), "NaN"),
        (lambda v, f: (v[:0], f[:0]), "is empty"),
        (lambda v, f: (v * 1000, f), "factor of about 1000"),
        (lambda v, f: (v, f + len(v)), "face indices"),
        (lambda v, f: (v * 0 + v[0], f), "in one place"),
    ],
    ids=["nan", "empty", "millimetres", "indices", "collapsed"],
)
@pytest.mark.parametrize("start", ["alone", "landmarks", "registration"])
def test_meshes_that_are_none_are_refused(
    head: HeadModel,
    cases: dict[str, Case],
    damage: Callable[..., tuple[np.ndarray, np.ndarray]],
    words: str,
    start: str,
) -> None:
    case = cases["plain"]
    result = outcome(head, dataclasses.replace(case, scan=Mesh.of(*damage(case.scan.vertices, case.scan.faces))), start)
    assert isinstance(result, CanonfaceError)
    assert words in str(result)
