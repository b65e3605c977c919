"""Bad input to the renderer: correct maps, or an error that says what was found, what was expected and what to do."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from datagen.common.errors import CameraError, CanonfaceError, InputError, MeshError
from datagen.geometry.camera import Camera
from datagen.render.contract import SurfaceAttributes
from datagen.render.maps import render_views
from datagen.render.registry import RENDERERS, backend_notes, make_renderer
from tests.support.render_backends import CPU_BACKENDS, GPU_BACKENDS, REFERENCE, renderer
from tests.support.render_scenes import attributes, camera_at, head_like, sphere

EVERY = [*CPU_BACKENDS, pytest.param(REFERENCE), *GPU_BACKENDS]
every_backend = pytest.mark.parametrize("name", EVERY)
FIELDS = ("depth", "canonical", "normal", "region", "confidence", "mask", "edge")


def ball(scale: float = 1.0) -> SurfaceAttributes:
    vertices, faces = sphere(12)
    return replace(attributes(vertices, faces), vertices=vertices * scale)


def front(size: int = 32, **change) -> Camera:
    return replace(camera_at(0.0, size=size), **change)


def with_k(*entries) -> Camera:
    camera = front()
    K = camera.K.copy()
    for row, column, value in entries:
        K[row, column] = value
    return replace(camera, K=K)


def with_extrinsics(change) -> Camera:
    camera = front()
    E = camera.world_to_camera.copy()
    change(E)
    return replace(camera, world_to_camera=E)


def assert_explained(error: CanonfaceError, *words: str) -> None:
    assert error.found
    assert error.expected
    assert error.fix
    for word in words:
        assert word in str(error), f"{word!r} is not in: {error}"


def assert_nothing_seen(maps) -> None:
    for field in FIELDS:
        assert not getattr(maps, field).any(), field


# Cameras


def bad_cameras():
    yield "NaN focal length", with_k((0, 0, np.nan)), ()
    yield "infinite principal point", with_k((0, 2, np.inf)), ()
    yield "singular K", with_k((0, 0, 0.0)), ("pinhole",)
    yield "negative focal length", with_k((1, 1, -50.0)), ("pinhole",)
    yield "transposed K", replace(front(), K=front().K.T.copy()), ("transposed",)
    yield "K of another shape", replace(front(), K=np.eye(4)), ("(4, 4)",)
    yield "NaN extrinsics", with_extrinsics(lambda E: E.__setitem__((0, 3), np.nan)), ()
    yield "scaled extrinsics", with_extrinsics(lambda E: E.__setitem__(slice(3), E[:3] * 1.01)), ("rotation",)
    yield "sheared extrinsics", with_extrinsics(lambda E: E.__setitem__((0, 1), E[0, 1] + 0.1)), ("rotation",)
    yield "mirrored extrinsics", with_extrinsics(lambda E: E.__setitem__(0, -E[0])), ("determinant",)
    yield "transposed extrinsics", replace(front(), world_to_camera=front().world_to_camera.T.copy()), ()
    yield "at the end of the world", with_extrinsics(lambda E: E.__setitem__((1, 3), 1e9)), ("1e+09",)
    yield "no width", front(width=0), ("0×32",)
    yield "negative height", front(height=-3), ("-3",)
    yield "too large", front(width=10_000), ("8192",)


@every_backend
@pytest.mark.parametrize(("camera", "words"), [pytest.param(c, w, id=label) for label, c, w in bad_cameras()])
def test_bad_cameras_are_refused(name, camera, words):
    camera = replace(camera, name="left-7")
    with pytest.raises(CameraError) as caught:
        render_views(ball(), [front(), camera], renderer(name))
    # Whichever of many cameras it is.
    assert_explained(caught.value, "left-7", *words)


@every_backend
def test_no_camera_gives_no_view(name):
    assert render_views(ball(), [], renderer(name)) == []
    assert renderer(name).rasterise(ball().vertices, ball().faces, []) == []


@every_backend
def test_cameras_that_see_nothing(name):
    behind = with_extrinsics(lambda E: E.__setitem__((2, 3), -0.6))
    away = with_extrinsics(lambda E: E.__setitem__(slice(3), np.diag([-1.0, 1, -1]) @ E[:3]))
    aside = with_k((0, 2, -500.0))
    far_aside = with_k((0, 2, 1e7))
    for maps in render_views(ball(), [behind, away, aside, far_aside], renderer(name)):
        assert maps.depth.shape == (32, 32)
        assert_nothing_seen(maps)


@every_backend
def test_a_camera_inside_sees_the_inside_or_nothing(name):
    camera = replace(camera_at(0.3, distance=0.02, size=32, focal=14.0), name="inside")
    seen, hidden = (render_views(ball(), [camera], renderer(name), hide_back_faces=hide)[0] for hide in (False, True))
    assert seen.mask.all()
    lifted = np.linalg.norm(camera.unproject(seen.depth) / [0.08, 0.12, 0.1], axis=-1)
    assert lifted.max() < 1.0001
    assert lifted.min() > np.cos(np.pi / 12) ** 2 - 1e-4
    assert_nothing_seen(hidden)


@every_backend
def test_a_camera_on_a_vertex_and_in_the_plane_of_triangles(name):
    surface = ball()
    on_vertex = with_extrinsics(lambda E: E.__setitem__((slice(3), 3), -E[:3, :3] @ surface.vertices[40]))
    flat = np.array([[-0.2, 0, -0.2], [0.2, 0, -0.2], [0, 0, 0.3]])
    edge_on = Camera(
        "edge-on", front().K, np.array([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0.5], [0, 0, 0, 1]]), 32, 32
    )
    for one, camera in ((surface, on_vertex), (attributes(flat, np.array([[0, 1, 2]])), edge_on)):
        maps = render_views(one, [camera], renderer(name))[0]
        for field in FIELDS:
            assert np.isfinite(getattr(maps, field)).all(), field
        assert (maps.depth >= 0).all()


# Meshes


def bad_meshes():
    vertices, faces = sphere(8)
    nan, infinite = vertices.copy(), vertices.copy()
    nan[4, 1], infinite[7, 0] = np.nan, np.inf
    yield "NaN vertex", nan, faces, ("index 4",)
    yield "infinite vertex", infinite, faces, ("index 7",)
    yield "placeholder of a missing point", np.nan_to_num(nan, nan=-1e30), faces, ("1e+30", "placeholder")
    yield "index too large", vertices, np.array([[0, 1, len(vertices)]]), (str(len(vertices)),)
    yield "negative index", vertices, np.array([[0, 1, -1]]), ("-1",)
    yield "index that wraps in int32", vertices, np.array([[0, 1, 2**32 + 2]]), (str(2**32 + 2),)
    yield "unsigned index that wraps", vertices, np.array([[0, 1, 2**64 - 1]], np.uint64), (str(2**64 - 1),)
    yield "no faces", vertices, np.zeros((0, 3), np.int32), ("0 faces",)
    yield "nothing", np.zeros((0, 3)), np.zeros((0, 3), np.int32), ("0 vertices",)
    yield "quads", vertices, np.array([[0, 1, 2, 3]]), ("(1, 4)",)
    yield "float faces", vertices, faces.astype(float), ("float64",)
    yield "boolean faces", vertices, faces > 3, ("bool",)
    yield "vertices and faces swapped", faces, vertices, ("float",)
    yield "flat vertices", vertices[:, :2], faces, ("(114, 2)",)
    yield "one list of coordinates", vertices.ravel(), faces, ("(342,)",)
    yield "complex vertices", vertices.astype(complex), faces, ("complex128",)
    yield "text", np.full(vertices.shape, "0.1"), faces, ("<U3",)


@every_backend
@pytest.mark.parametrize(
    ("vertices", "faces", "words"), [pytest.param(v, f, w, id=label) for label, v, f, w in bad_meshes()]
)
def test_bad_meshes_are_refused(name, vertices, faces, words):
    n = len(vertices)
    surface = SurfaceAttributes(
        vertices, faces, np.zeros((n, 3), np.float32), np.ones(n, np.float32), np.ones(n, np.uint8)
    )
    for work in (
        lambda: render_views(surface, [front()], renderer(name)),
        lambda: renderer(name).rasterise(vertices, faces, [front()]),
    ):
        with pytest.raises(MeshError) as caught:
            work()
        assert_explained(caught.value, *words)


def bad_attributes():
    n = len(ball().vertices)
    yield "canonical too short", {"canonical": np.zeros((n - 1, 3), np.float32)}, ("canonical", f"({n}, 3)")
    yield "canonical of two columns", {"canonical": np.zeros((n, 2), np.float32)}, ("canonical", f"({n}, 3)")
    yield "confidence too long", {"confidence": np.ones(n + 5, np.float32)}, ("confidence", f"({n},)")
    yield "confidence in a column", {"confidence": np.ones((n, 1), np.float32)}, ("confidence", f"({n},)")
    yield "one region for all", {"region": np.uint8(3)}, ("region", f"({n},)")
    yield "region beyond 8 bits", {"region": np.full(n, 300)}, ("region", "300")
    yield "negative region", {"region": np.full(n, -1)}, ("region", "-1")
    yield "fractional region", {"region": np.full(n, 1.5)}, ("region", "float64")
    yield "infinite confidence", {"confidence": np.full(n, np.inf, np.float32)}, ("confidence", "inf")
    yield "confidence in percent", {"confidence": np.full(n, 80.0, np.float32)}, ("confidence", "80")
    yield "canonical as text", {"canonical": np.full((n, 3), "x")}, ("canonical",)


@every_backend
@pytest.mark.parametrize(("change", "words"), [pytest.param(c, w, id=label) for label, c, w in bad_attributes()])
def test_attributes_that_do_not_fit_are_refused(name, change, words):
    with pytest.raises(MeshError) as caught:
        render_views(replace(ball(), **change), [front()], renderer(name))
    assert_explained(caught.value, *words)


@every_backend
def test_triangles_without_area_show_nothing_and_disturb_nothing(name):
    surface = ball()
    n = len(surface.vertices)
    a, b = surface.vertices[10], surface.vertices[60]
    more = replace(
        surface,
        vertices=np.concatenate([surface.vertices, [a, (a + b) / 2, b]]),
        faces=np.concatenate([surface.faces, [[3, 3, 9], [5, 5, 5], [n, n + 1, n + 2]]]).astype(np.int32),
        **{
            f: np.concatenate([getattr(surface, f), getattr(surface, f)[:3]])
            for f in ("canonical", "confidence", "region")
        },
    )
    plain, padded = (render_views(s, [front()], renderer(name))[0] for s in (surface, more))
    for field in FIELDS:
        # Ray casting is relative to the mean of all vertices, which has moved.
        tolerance = 1e-5 if name == REFERENCE else 0
        np.testing.assert_allclose(getattr(padded, field), getattr(plain, field), atol=tolerance, err_msg=field)
    only = replace(more, faces=more.faces[-3:])
    maps = render_views(only, [front()], renderer(name))[0]
    assert not maps.depth.any()
    assert not maps.mask.any()


@every_backend
def test_unknown_canonical_leaves_depth_and_normals(name):
    surface = ball()
    unknown = surface.canonical.copy()
    unknown[surface.vertices[:, 0] > 0] = np.nan
    none = np.where(surface.vertices[:, 1] > 0.02, np.nan, surface.confidence).astype(np.float32)
    plain = render_views(surface, [front()], renderer(name))[0]
    maps = render_views(replace(surface, canonical=unknown, confidence=none), [front()], renderer(name))[0]
    np.testing.assert_array_equal(maps.depth, plain.depth)
    np.testing.assert_array_equal(maps.normal, plain.normal)
    assert 20 < maps.mask.sum() < plain.mask.sum() / 2
    for field in FIELDS:
        assert np.isfinite(getattr(maps, field)).all(), field
    np.testing.assert_array_equal(maps.mask, maps.confidence > 0)
    assert not maps.canonical[:, ~maps.mask].any()
    assert not maps.region[~maps.mask].any()


@every_backend
def test_any_memory_layout_and_dtype_gives_the_same_maps(name):
    surface, cameras = ball(), [front()]
    plain = render_views(surface, cameras, renderer(name))[0]
    other = SurfaceAttributes(
        np.asfortranarray(surface.vertices),
        surface.faces.astype(np.uint64)[::-1][::-1],
        surface.canonical.astype(np.float64),
        np.repeat(surface.confidence, 2)[::2],
        surface.region.astype(np.int64),
    )
    maps = render_views(other, cameras, renderer(name))[0]
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(maps, field), getattr(plain, field), err_msg=field)
        assert getattr(maps, field).dtype == getattr(plain, field).dtype


@every_backend
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1000.0], ids=["millimetres as metres", "a house", "metres as mm"])
def test_units_scale_the_depth_and_nothing_else(name, scale):
    """No size is refused here (the door of a scan does that); what is not too near is seen as any other."""
    if scale < 1:
        # At this scale the near plane, a millimetre, is two thirds of the distance.
        camera = with_extrinsics(lambda E: E.__setitem__((2, 3), E[2, 3] * 0.0015 / 0.6))
        maps = render_views(ball(scale), [camera], renderer(name))[0]
        assert maps.mask.sum() > 20
        assert 0.0013 < maps.depth[maps.mask].min() < maps.depth.max() < 0.0016
        return
    plain = render_views(ball(), [front()], renderer(name))[0]
    camera = with_extrinsics(lambda E: E.__setitem__((slice(3), 3), E[:3, 3] * scale))
    maps = render_views(ball(scale), [camera], renderer(name))[0]
    assert (maps.mask != plain.mask).sum() <= 1
    same = maps.mask & plain.mask
    np.testing.assert_allclose(maps.depth[same] / scale, plain.depth[same], rtol=1e-5)
    np.testing.assert_allclose(maps.canonical[:, same], plain.canonical[:, same], atol=1e-3)


# Sizes


@every_backend
def test_one_pixel_and_one_row(name):
    surface = ball()
    one = camera_at(0.0, size=1, focal=2.0)
    row = Camera("row", np.array([[40.0, 0, 20], [0, 40, 0.5], [0, 0, 1]]), one.world_to_camera, 40, 1)
    single, line = render_views(surface, [one, row], renderer(name))
    assert single.depth.shape == (1, 1)
    assert 0.4 < single.depth[0, 0] < 0.6
    assert single.canonical.shape == (3, 1, 1)
    assert line.depth.shape == (1, 40)
    assert 3 < line.mask.sum() < 40


def test_4096_pixels_square():
    surface = attributes(*head_like(np.random.default_rng(1), 24))
    large = camera_at(0.3, size=4096)
    small = replace(large, K=np.diag([1 / 64, 1 / 64, 1.0]) @ large.K, width=64, height=64)
    a, b = render_views(surface, [large, small], make_renderer("numba"))
    assert a.mask.shape == (4096, 4096)
    # Of every 64 pixels the middle's corner: half a pixel off the small image's centre.
    differ = a.mask[32::64, 32::64] != b.mask
    assert differ.sum() <= 0.01 * b.mask.sum() + 5
    same = a.mask[32::64, 32::64] & b.mask & ~(a.edge[32::64, 32::64] | b.edge)
    assert np.percentile(np.abs(a.depth[32::64, 32::64] - b.depth)[same], 90) < 2e-3


def test_two_million_triangles():
    """A grid over a bump: every pixel shows it, where it is known to be."""
    n = 1001
    x, y = np.meshgrid(np.linspace(-0.2, 0.2, n), np.linspace(-0.2, 0.2, n))
    z = 0.05 * np.cos(8 * x) * np.cos(6 * y)
    vertices = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    corner = np.arange(n * n).reshape(n, n)
    a, b, c, d = corner[:-1, :-1].ravel(), corner[:-1, 1:].ravel(), corner[1:, :-1].ravel(), corner[1:, 1:].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)]).astype(np.int32)
    assert len(faces) == 2_000_000
    surface = attributes(vertices, faces)
    camera = camera_at(0.0, size=96, focal=300.0)
    backend = make_renderer("numba")
    render_views(ball(), [camera], backend)  # compiled before the clock runs
    start = time.perf_counter()
    maps = render_views(surface, [camera], backend)[0]
    seconds = time.perf_counter() - start
    assert maps.mask.all()
    points = camera.unproject(maps.depth)
    expected = 0.05 * np.cos(8 * points[..., 0]) * np.cos(6 * points[..., 1])
    assert np.abs(points[..., 2] - expected).max() < 2e-5
    assert seconds < 3, f"{seconds:.1f} s"


# Names


def test_every_backend_makes_itself_or_explains_itself():
    """What ``datagen render --backends`` lists: none ends in a traceback of a library."""
    from datagen.cli import app

    listed = CliRunner().invoke(app, ["render", "--backends"])
    assert listed.exit_code == 0
    notes = backend_notes()
    assert list(notes) == ["auto", *RENDERERS]
    assert notes["numba"] == "ready, on cpu"
    for name, note in notes.items():
        assert name in listed.stdout
        assert note.startswith(("ready, on", "here it is")) or ("Expected" in note and "numba" in note)
    with pytest.raises(InputError) as caught:
        make_renderer("vulkan")
    assert_explained(caught.value, "vulkan", *RENDERERS)
