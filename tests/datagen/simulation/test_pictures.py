"""Pictures of simulated captures: they show what the scan holds, where it holds it, and skin keeps its colours."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

from datagen.geometry.camera import look_at
from datagen.heads.regions import mask_of
from datagen.heads.registry import load_head
from datagen.simulation.capture import SimulatedCapture
from datagen.simulation.photo.light import light_from
from datagen.simulation.photo.shading import Subject3D, light_scene, shade_image
from datagen.sources.registry import SimulatedSource

SMALL = SimulatedSource(
    kind="simulated", subjects=2, frames=2, fps=4, cameras=3, image_size=64, scan_vertices=4000, scan_noise_mm=0.1
)
SEED = 11


@lru_cache(maxsize=1)
def small_capture() -> SimulatedCapture:
    return SimulatedCapture(SMALL, SEED, 0, load_head("anny"))


def test_scans_are_the_same_with_and_without_pictures() -> None:
    bare = SimulatedCapture(SMALL, SEED, 0, load_head("anny"), images=False).frame(0)
    made = small_capture().frame(0)
    assert not bare.images
    np.testing.assert_array_equal(bare.scan.vertices, made.scan.vertices)
    np.testing.assert_array_equal(bare.landmarks.points, made.landmarks.points)


def test_what_teeth_hide_is_not_scanned(monkeypatch) -> None:
    """Teeth are in pictures only; a scan point that a picture shows as a tooth would make its maps wrong."""
    fine = SMALL.model_copy(update={"scan_vertices": 10_000, "image_size": 160, "cameras": 5})
    capture = SimulatedCapture(fine, SEED, 0, load_head("anny"), images=False)
    wide = np.zeros(capture.expressions.shape[1])
    names = list(capture.subject.head.expression_names)
    for name, weight in (("jawOpen", 1.0), ("mouthSmileLeft", 0.3), ("mouthSmileRight", 0.3)):
        wide[names.index(name)] = weight
    surface = capture.subject.pose(wide, capture.poses[0])
    teeth = capture.teeth(surface)
    assert teeth is not None
    # A scanner that picks up all of the mouth, so that there is something to hide.
    monkeypatch.setattr(capture, "_scannable", np.ones(len(surface.vertices), bool))

    frame = capture.frame(0, expression=wide, scan_noise_mm=0.0)
    scanned = frame.scan.vertices[mask_of(frame.region, ("mouth_interior",))]
    inside = surface.vertices[mask_of(capture.subject.dense.regions, ("mouth_interior",))]
    assert len(scanned) > 20
    hidden = {"all": 0, "scanned": 0}
    for camera in capture.cameras:
        skin, tooth = (
            capture._rasteriser.rasterise(part, faces, [camera])[0].depth
            for part, faces in ((surface.vertices, capture.subject.faces), (teeth.vertices, teeth.faces))
        )
        for name, points in (("all", inside), ("scanned", scanned)):
            pixels, z = camera.project(points)
            column, row = pixels.astype(int).T
            seen = np.abs(skin[row, column] - z) < 3e-3
            hidden[name] += int((seen & (tooth[row, column] > 0) & (tooth[row, column] < z - 3e-3)).sum())
    assert hidden["all"] > 100
    # The border of a tooth and a point may share a pixel of so small a picture.
    assert hidden["scanned"] <= 0.02 * len(scanned) * len(capture.cameras)


def test_appearance_moves_with_the_skin() -> None:
    """The same canonical point shows the same colour in two frames with other expressions and poses."""
    capture = small_capture()
    studio = capture.studio
    assert studio is not None
    look = studio.look._replace(melanin=0.35, freckles=1.0, moles=1.0, beard=0.0, oil=0.0)
    light = light_from([[0, 0, 1]], [[0, 0, 0]], [0.8] * 3)
    smile = np.zeros(capture.expressions.shape[1])
    for name in ("mouthSmileLeft", "mouthSmileRight", "browInnerUp", "cheekPuff"):
        smile[list(capture.subject.head.expression_names).index(name)] = 0.6
    camera = look_at("front", np.array([0, 0, 1.0]), np.zeros(3), 700.0, 320, 320)
    sampled = []
    for expression, pose in ((0 * smile, capture.poses[0]), (smile, capture.poses[1])):
        surface = capture.subject.pose(expression, pose)
        posed = Subject3D(surface.vertices, surface.normals, surface.smooth_normals, capture.subject.faces)
        scene = light_scene(posed, studio.fields, light, capture._rasteriser)
        image, _ = shade_image(scene, camera, capture._rasteriser, light, look, np.zeros((320, 320, 3), np.float32))
        pixels, z = camera.project(surface.vertices)
        depth = capture._rasteriser.rasterise(surface.vertices, capture.subject.faces, [camera])[0].depth
        column, row = pixels.astype(int).T
        seen = (
            (np.abs(depth[row, column] - z) < 1e-3)
            & (surface.normals[:, 2] > 0.75)
            & (scene.moving[scene.rank[: len(z)], 15] > 0.9)
        )
        colour = ndimage.map_coordinates(image[..., 1], [pixels[:, 1] - 0.5, pixels[:, 0] - 0.5], order=1)
        sampled.append(np.where(seen, colour, np.nan))
    first, second = sampled
    both = np.isfinite(first) & np.isfinite(second) & (studio.fields.material == 0)
    assert both.sum() > 2000
    detail = [np.log(values[both]) for values in (first, second)]
    assert np.corrcoef(detail)[0, 1] > 0.9
    assert np.abs(detail[0] - detail[1]).mean() < 0.06


def test_pictures_lie_where_the_maps_do() -> None:
    """A pupil's dark disc is centred on the projection of the eyeball's front, to a fraction of a pixel."""
    capture = small_capture()
    studio = capture.studio
    assert studio is not None
    surface = capture.subject.pose(np.zeros(capture.expressions.shape[1]), capture.poses[0])
    fields = studio.fields
    eye = np.flatnonzero(fields.material == 1)
    off = np.hypot(*(fields.points_mm[eye, :2] - fields.eyes[0, :2]).T)
    front = surface.vertices[eye[np.argsort(off)[:3]]].mean(axis=0)
    centre = fields.points_mm[eye[np.argsort(off)[:3]]].mean(axis=0)
    camera = look_at("eye", front + np.array([0, 0, 0.6]), front, 3000.0, 120, 120)
    light = light_from([[0, 0, 1]], [[0, 0, 0]], [0.8] * 3)
    posed = Subject3D(surface.vertices, surface.normals, surface.smooth_normals, capture.subject.faces)
    scene = light_scene(posed, fields, light, capture._rasteriser)
    look = studio.look._replace(pupil_mm=1.5, iris=(0.3, 0.3, 0.3), iris_inner=(0.3, 0.3, 0.3))
    image, _ = shade_image(scene, camera, capture._rasteriser, light, look, np.ones((120, 120, 3), np.float32))
    dark = image[48:72, 48:72, 1] < 0.06
    row, column = np.nonzero(dark)
    pixel_mm = 1000 * 0.6 / 3000
    expected = np.array([60.0, 60.0]) + (fields.eyes[0, :2] - centre[:2]) * [1, -1] / pixel_mm
    assert dark.sum() > 50
    assert np.hypot(column.mean() + 48.5 - expected[0], row.mean() + 48.5 - expected[1]) < 0.75
