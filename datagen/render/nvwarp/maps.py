"""NVIDIA Warp kernels that turn what is visible into maps: every pixel once, every map written in the same pass."""

from __future__ import annotations

import warp as wp

from datagen.render.contract import BESIDE_EDGE, GRAZING_COSINE, GRAZING_FLOOR, LEAST_CONFIDENCE, ON_EDGE
from datagen.render.nvwarp.mesh import row_of
from datagen.render.nvwarp.raster import EMPTY
from datagen.render.nvwarp.screen import HALF, UNIT, ZERO, Rig, edge_values, homogeneous, is_cut, whole_triangle

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

GRAZING = wp.constant(wp.float64(GRAZING_COSINE))
FLOOR = wp.constant(wp.float64(GRAZING_FLOOR))
ON = wp.constant(wp.float64(ON_EDGE))
BESIDE = wp.constant(wp.float64(BESIDE_EDGE))
LEAST = wp.constant(wp.float64(LEAST_CONFIDENCE))
THIRD = wp.constant(wp.float64(1.0 / 3.0))
NONE = wp.constant(wp.int64(0))
SHORTEST_NORMAL = wp.constant(wp.float64(1e-6))


@wp.struct
class Attributes:
    """What a surface carries beside its shape, and where the views of one chunk see it from."""

    normals: wp.array2d[wp.float64]
    canonical: wp.array2d[wp.float32]
    confidence: wp.array[wp.float32]
    region: wp.array[wp.uint8]
    rotation: wp.array[wp.mat33d]
    rays: wp.array[wp.mat33d]  # homogeneous pixels to directions in world axes
    hide_back_faces: wp.bool


@wp.struct
class Maps:
    """Maps of the views of one chunk; arrays of :class:`datagen.render.contract.ViewMaps` with a leading axis."""

    depth: wp.array3d[wp.float32]
    canonical: wp.array4d[wp.float32]
    normal: wp.array4d[wp.float32]
    region: wp.array3d[wp.uint8]
    confidence: wp.array3d[wp.float32]
    mask: wp.array3d[wp.bool]
    edge: wp.array3d[wp.bool]


@wp.struct
class Seen:
    """What one pixel sees; face is -1 where it sees nothing."""

    face: wp.int32
    weights: wp.vec3d
    z: wp.float64


@wp.func
def seen_of_cut(rig: Rig, view: wp.int32, row: wp.int32, column: wp.int32, face: wp.int32, key: wp.uint64) -> Seen:
    """Return the same for a triangle that was clipped, by cutting the pixel's ray with its plane.

    Corners at or behind the camera have no place on the screen, but homogeneous edge functions need none (Olano and
    Greer 1997). The exact ray may miss by the snap what the snapped triangle covers: weights are held to the triangle.
    """
    seen = Seen()
    seen.face = face
    # What the depth test used, short of a few bits, for planes seen so exactly edge-on that no weight is defined.
    seen.z = wp.cast((key >> rig.face_bits) << rig.face_bits, wp.float64)
    seen.weights = wp.vec3d(THIRD, THIRD, THIRD)
    a = homogeneous(rig, view, rig.faces[face, 0])
    b = homogeneous(rig, view, rig.faces[face, 1])
    c = homogeneous(rig, view, rig.faces[face, 2])
    ray = wp.vec3d(wp.float64(column) + HALF, wp.float64(row) + HALF, UNIT)
    e = wp.vec3d(wp.dot(wp.cross(b, c), ray), wp.dot(wp.cross(c, a), ray), wp.dot(wp.cross(a, b), ray))
    if e[0] + e[1] + e[2] < ZERO:
        e = -e
    e = wp.vec3d(wp.max(e[0], ZERO), wp.max(e[1], ZERO), wp.max(e[2], ZERO))
    total = e[0] + e[1] + e[2]
    if total > ZERO:
        weights = e / total
        z = weights[0] * a[2] + weights[1] * b[2] + weights[2] * c[2]
        if z >= rig.near:
            seen.weights = weights
            seen.z = z
    if seen.z < rig.near:
        seen.face = -1
        seen.z = ZERO
    return seen


@wp.func
def seen_at(rig: Rig, view: wp.int32, row: wp.int32, column: wp.int32) -> Seen:
    """Return the nearest triangle at a pixel centre, with perspective-correct weights and depth."""
    seen = Seen()
    seen.face = -1
    key = rig.keys[view, row, column]
    if key == EMPTY:
        return seen
    seen.face = wp.int32(key - ((key >> rig.face_bits) << rig.face_bits))
    if rig.cut[view] and is_cut(rig, view, seen.face):
        return seen_of_cut(rig, view, row, column, seen.face, key)
    t = whole_triangle(rig, view, seen.face)
    e = edge_values(t, column, row) + t.bias
    # Rasterisers on a coarser grid also hand over pixels just outside a triangle: weights are held to it.
    inside = wp.vec3d(wp.float64(wp.max(e[0], NONE)), wp.float64(wp.max(e[1], NONE)), wp.float64(wp.max(e[2], NONE)))
    q = wp.cw_mul(inside, t.inverse_z)
    total = q[0] + q[1] + q[2]
    if t.area == NONE or total == ZERO:
        seen.face = -1
        return seen
    seen.z = (inside[0] + inside[1] + inside[2]) / total
    seen.weights = q / total
    if t.flipped:
        seen.weights = wp.vec3d(seen.weights[0], seen.weights[2], seen.weights[1])
    return seen


@wp.func
def blended(table: wp.array2d[wp.float64], corners: wp.vec3i, weights: wp.vec3d) -> wp.vec3d:
    return (
        weights[0] * row_of(table, corners[0])
        + weights[1] * row_of(table, corners[1])
        + weights[2] * row_of(table, corners[2])
    )


@wp.func
def is_known(attributes: Attributes, corners: wp.vec3i) -> wp.bool:
    """Return whether all corners have a canonical coordinate; NaN fails every comparison."""
    for c in range(3):
        vertex = corners[c]
        if not (attributes.confidence[vertex] > wp.float32(0.0)):
            return False
        for k in range(3):
            if not wp.isfinite(attributes.canonical[vertex, k]):
                return False
    return True


@wp.func
def edge_factor(edge: wp.array3d[wp.bool], view: wp.int32, row: wp.int32, column: wp.int32) -> wp.float64:
    if edge[view, row, column]:
        return ON
    # At the border the pixel stands for the neighbour it lacks: it is not an edge, as was just seen.
    beside = (
        edge[view, wp.max(row - 1, 0), column]
        or edge[view, wp.min(row + 1, edge.shape[1] - 1), column]
        or edge[view, row, wp.max(column - 1, 0)]
        or edge[view, row, wp.min(column + 1, edge.shape[2] - 1)]
    )
    if beside:
        return BESIDE
    return UNIT


@wp.kernel
def fragments(
    rig: Rig, face: wp.array3d[wp.int32], barycentric: wp.array4d[wp.float32], depth: wp.array3d[wp.float32]
) -> None:
    """Write what a rasteriser owes; launched over (V, H, W)."""
    view, row, column = wp.tid()
    seen = seen_at(rig, view, row, column)
    face[view, row, column] = seen.face
    depth[view, row, column] = wp.float32(seen.z)
    for k in range(3):
        barycentric[view, row, column, k] = wp.float32(seen.weights[k])


@wp.kernel
def resolve(rig: Rig, attributes: Attributes, maps: Maps) -> None:
    """Write every map of every pixel; launched over (V, H, W)."""
    view, row, column = wp.tid()
    seen = seen_at(rig, view, row, column)
    depth = wp.float32(seen.z)
    normal = wp.vec3d()
    canonical = wp.vec3d()
    region = wp.uint8(0)
    confidence = wp.float64(0.0)
    known = wp.bool(False)
    if seen.face >= 0:
        corners = wp.vec3i(rig.faces[seen.face, 0], rig.faces[seen.face, 1], rig.faces[seen.face, 2])
        front = rig.front[view, seen.face]
        if attributes.hide_back_faces and not front:
            depth = wp.float32(0.0)
        else:
            # The triangle's own normal, on the side that the camera sees.
            first = row_of(rig.vertices, corners[0])
            flat = wp.cross(row_of(rig.vertices, corners[1]) - first, row_of(rig.vertices, corners[2]) - first)
            flat = wp.normalize(flat)
            if not front:
                flat = -flat
            pixel = wp.vec3d(wp.float64(column) + HALF, wp.float64(row) + HALF, UNIT)
            ray = wp.normalize(attributes.rays[view] * pixel)
            smooth = blended(attributes.normals, corners, seen.weights)
            length = wp.length(smooth)
            if wp.dot(smooth, flat) < ZERO:
                smooth = -smooth
            cosine = -UNIT
            if length > SHORTEST_NORMAL:
                smooth = smooth / length
                cosine = -wp.dot(smooth, ray)
            if cosine <= ZERO:
                smooth = flat
                cosine = wp.max(ZERO, -wp.dot(flat, ray))
            normal = attributes.rotation[view] * smooth
            known = is_known(attributes, corners)
            if known:
                nearest = wp.int32(0)
                for c in range(3):
                    if seen.weights[c] > seen.weights[nearest]:
                        nearest = c
                    confidence += seen.weights[c] * wp.float64(attributes.confidence[corners[c]])
                    for k in range(3):
                        canonical[k] = canonical[k] + seen.weights[c] * wp.float64(attributes.canonical[corners[c], k])
                region = attributes.region[corners[nearest]]
                confidence *= wp.max(FLOOR, wp.min(UNIT, cosine / GRAZING)) * edge_factor(maps.edge, view, row, column)
                confidence = wp.max(LEAST, confidence)
    maps.depth[view, row, column] = depth
    maps.region[view, row, column] = region
    maps.confidence[view, row, column] = wp.float32(confidence)
    maps.mask[view, row, column] = known
    for k in range(3):
        maps.normal[view, k, row, column] = wp.float32(normal[k])
        maps.canonical[view, k, row, column] = wp.float32(canonical[k])
