"""One surface out of the depth maps of a frame, for the warp to register: samples show the maps' own pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datagen.common.errors import MeshError
from datagen.common.open3d_library import load_open3d
from datagen.geometry.mesh import Mesh
from datagen.sources.depth_maps import DepthMap

# Side of a voxel, as a multiple of what a pixel covers: below, noise is not averaged; above, lids and lips are lost.
VOXEL_PIXELS = 1.5
VOXEL_RANGE_M = (0.6e-3, 3e-3)
# What lies further behind the surface than so many voxels is not touched.
TRUNCATION_VOXELS = 4.0
BLOCK = 16
BLOCKS = 4000
# Around landmarks or a registration: a head with its hair.
HEAD_RADIUS_M = 0.3
# Voxels that more maps than this saw: also those of one alone.
LEAST_WEIGHT = 0.5


def fuse_depths(maps: Sequence[DepthMap], centre: npt.NDArray[np.float64] | None = None) -> Mesh:
    """Fuse depth maps into a mesh by averaging their truncated signed distances (Curless and Levoy, 1996).

    Open3D's voxel blocks do it. Its threads leave vertices and faces in an order of chance; they are sorted, so that
    the same maps always give the same bytes.

    Parameters
    ----------
    maps : sequence of DepthMap
    centre : (3,) float64, optional
        Of the head, world metres: what lies further from it than :data:`HEAD_RADIUS_M` is left out.

    Raises
    ------
    MeshError
        If they hold no surface.
    """
    near = [_near(each, centre) for each in maps]
    footprints = [_footprint(each) for each in near if (each.depth > 0).any()]
    if not footprints:
        raise MeshError(
            "the depth maps hold nothing" + (" near the landmarks or the registration" if centre is not None else ""),
            "depth of the head in at least one camera",
            "Check unit, `metres_per_step` and `offset_steps` of `depth`, the masks, and the cameras",
        )
    try:
        return _fused(near, float(np.clip(VOXEL_PIXELS * np.median(footprints), *VOXEL_RANGE_M)))
    except RuntimeError:  # what Open3D makes of maps without a single triangle
        raise MeshError(
            "the depth maps do not fuse into a surface", "several pixels side by side", "Look at the depth maps"
        ) from None


def _fused(near: Sequence[DepthMap], voxel: float) -> Mesh:
    """Return the mesh of maps; raises RuntimeError if there is none."""
    o3d = load_open3d()
    core, float32 = o3d.core, o3d.core.float32
    grid = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight"), (float32, float32), ((1), (1)), voxel, BLOCK, BLOCKS, core.Device("CPU:0")
    )
    for each in near:
        if not (each.depth > 0).any():
            continue
        image = o3d.t.geometry.Image(core.Tensor(np.ascontiguousarray(each.depth[..., None])))
        pose = core.Tensor(np.ascontiguousarray(each.camera.world_to_camera))
        # A voxel asks the pixel that its projection lies in: with pixel centres at +0.5, as K has them here.
        intrinsics = core.Tensor(np.ascontiguousarray(each.camera.K))
        farthest = float(each.depth.max()) + voxel
        blocks = grid.compute_unique_block_coordinates(image, intrinsics, pose, 1.0, farthest, TRUNCATION_VOXELS)
        grid.integrate(blocks, image, intrinsics, pose, 1.0, farthest, TRUNCATION_VOXELS)
    found = grid.extract_triangle_mesh(LEAST_WEIGHT)
    if not found.vertex or not len(found.triangle.indices):
        raise RuntimeError
    return _sorted(found.vertex.positions.numpy().astype(np.float64), found.triangle.indices.numpy().astype(np.int64))


def _near(each: DepthMap, centre: npt.NDArray[np.float64] | None) -> DepthMap:
    if centre is None:
        return each
    away = np.linalg.norm(each.camera.unproject(each.depth) - centre, axis=-1)
    return each.within(away < HEAD_RADIUS_M)


def _footprint(each: DepthMap) -> float:
    return float(np.median(each.depth[each.depth > 0])) / float(each.camera.K[0, 0])


def _sorted(vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.int64]) -> Mesh:
    """Return the mesh with vertices by their coordinates, and faces by their vertices, the least of them first."""
    order = np.lexsort(vertices.T[::-1])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    faces = rank[faces]
    first = faces.argmin(axis=1)[:, None]
    faces = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)
    return Mesh.of(vertices[order], faces[np.lexsort(faces.T[::-1])])
