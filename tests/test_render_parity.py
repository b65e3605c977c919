"""The z-buffer against ray casting: two implementations that share no code must see the same."""

from __future__ import annotations

import numpy as np
import pytest
from render_scenes import attributes, camera_at, head_like, soup, sphere
from scipy.ndimage import binary_dilation, binary_erosion

from datagen.render.backends import make_renderer
from datagen.render.maps import render_views

CANONICAL_HALF_EXTENT_MM = 150.0


def scenes():
    rng = np.random.default_rng(7)
    v, f = sphere(40)
    degenerate = np.concatenate([f, [[3, 3, 9], [5, 5, 5]]]).astype(np.int32)
    yield "head", *head_like(rng), [camera_at(a, size=192) for a in (-0.9, 0.0, 0.7, 2.5)]
    yield "head, skewed pixels", *head_like(rng), [camera_at(0.3, size=160, skew=4.0, height=120)]
    yield "head cut by the image border", *head_like(rng), [camera_at(0.2, size=128, focal=900.0)]
    yield "far from the world's origin", head_like(rng)[0], f_of_head(rng), [camera_at(0.1)]
    yield "triangle soup", *soup(rng), [camera_at(a) for a in (0.0, 1.0)]
    yield "camera in the soup, near plane cuts", *soup(rng, 800), [camera_at(0.4, distance=0.02, focal=60.0)]
    yield "camera inside the head", v, f, [camera_at(0.4, distance=0.03, focal=50.0)]
    yield "head behind the camera", v + np.array([0, 0, 2.0]), f, [camera_at(0.0)]
    yield "degenerate triangles", v, degenerate, [camera_at(0.5)]


def f_of_head(rng):
    return head_like(rng)[1]


@pytest.mark.parametrize("scene", list(scenes()), ids=lambda scene: scene[0])
def test_numba_and_open3d_agree(scene):
    name, vertices, faces, cameras = scene
    if "far" in name:
        offset = np.array([30.0, -12.0, 55.0])
        vertices = vertices + offset
        cameras = [moved(camera, offset) for camera in cameras]
    surface = attributes(vertices - vertices.mean(axis=0), faces)
    surface = type(surface)(vertices, faces, surface.canonical, surface.confidence, surface.region)
    backends = make_renderer("numba"), make_renderer("open3d")
    fragments = [backend.rasterise(vertices, faces, cameras) for backend in backends]
    maps = [render_views(surface, cameras, backend) for backend in backends]
    foreground = sum(int((seen.face >= 0).sum()) for seen in fragments[1])
    if "behind" in name:
        assert foreground == 0
        assert all((seen.face == -1).all() and (seen.depth == 0).all() for seen in fragments[0])
        return
    assert foreground > 1000
    missed, other, dz, dc, dn = 0, 0, [], [], []
    for a, b, ma, mb in zip(*fragments, *maps, strict=True):
        hit_a, hit_b = a.face >= 0, b.face >= 0
        differ = hit_a != hit_b
        silhouette = binary_dilation(hit_b, np.ones((3, 3))) & ~binary_erosion(hit_b, np.ones((3, 3)))
        assert not (differ & ~silhouette).any()
        same = hit_a & (a.face == b.face)
        missed += int(differ.sum())
        other += int((hit_a & hit_b & ~same).sum())
        dz.append(np.abs(a.depth - b.depth)[same] * 1000)
        dc.append(np.linalg.norm(ma.canonical - mb.canonical, axis=0)[same] * CANONICAL_HALF_EXTENT_MM)
        cosine = (ma.normal.astype(np.float64) * mb.normal).sum(axis=0)[same]
        dn.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        np.testing.assert_array_equal(ma.mask, hit_a)
    assert missed <= 0.001 * foreground
    assert other <= 0.002 * foreground
    assert np.percentile(np.concatenate(dz), 99) <= 0.02
    assert np.percentile(np.concatenate(dc), 99) <= 0.02
    assert np.percentile(np.concatenate(dn), 99) <= 0.1


def moved(camera, offset):
    E = camera.world_to_camera.copy()
    E[:3, 3] -= E[:3, :3] @ offset
    return type(camera)(camera.name, camera.K, E, camera.width, camera.height)
