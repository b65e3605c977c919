"""Feet of points along a triangle surface's interpolated normals: compiled Newton steps and a walk over the mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.compiled import compiled

NEWTON_STEPS = 6
# A scan point's foot is at most a few triangles from its closest point; longer walks go in circles.
WALK_STEPS = 16
# Barycentric weights this little outside a triangle are still inside.
INSIDE = 1e-9


@dataclass(frozen=True)
class Feet:
    """Feet of points on a surface.

    Attributes
    ----------
    face : (Q,) int64
    barycentric : (Q, 3) float64
        In [0, 1].
    exact : (Q,) bool
        The point lies on the interpolated normal of its foot. If not, it is beyond a border or a centre of curvature,
        and the foot is the best one met.
    """

    face: npt.NDArray[np.int64]
    barycentric: npt.NDArray[np.float64]
    exact: npt.NDArray[np.bool_]


@compiled
def _newton(point, v, n, bary, height):  # type: ignore[no-untyped-def]
    """Solve ``Σ bᵢ (vᵢ + h nᵢ) = point`` in one triangle's extension; return (b₀, b₁, b₂, h, solved)."""
    u, w = bary[1], bary[2]
    for _ in range(NEWTON_STEPS):
        # Columns of the Jacobian, and the residual.
        ax, ay, az = (
            v[1, 0] - v[0, 0] + height * (n[1, 0] - n[0, 0]),
            v[1, 1] - v[0, 1] + height * (n[1, 1] - n[0, 1]),
            v[1, 2] - v[0, 2] + height * (n[1, 2] - n[0, 2]),
        )
        bx, by, bz = (
            v[2, 0] - v[0, 0] + height * (n[2, 0] - n[0, 0]),
            v[2, 1] - v[0, 1] + height * (n[2, 1] - n[0, 1]),
            v[2, 2] - v[0, 2] + height * (n[2, 2] - n[0, 2]),
        )
        t = 1 - u - w
        cx, cy, cz = (
            t * n[0, 0] + u * n[1, 0] + w * n[2, 0],
            t * n[0, 1] + u * n[1, 1] + w * n[2, 1],
            t * n[0, 2] + u * n[1, 2] + w * n[2, 2],
        )
        rx = point[0] - (v[0, 0] + height * n[0, 0]) - u * ax - w * bx
        ry = point[1] - (v[0, 1] + height * n[0, 1]) - u * ay - w * by
        rz = point[2] - (v[0, 2] + height * n[0, 2]) - u * az - w * bz
        px, py, pz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
        # Cramer's rule: three unknowns, solved by triple products of the columns.
        volume = ax * px + ay * py + az * pz
        qx, qy, qz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        area = qx * qx + qy * qy + qz * qz
        if volume * volume < 1e-12 * area * (cx * cx + cy * cy + cz * cz) or area == 0:
            # No area, or the normal lies in the triangle: no height leads to the point.
            return 1 - u - w, u, w, height, False
        du = (rx * px + ry * py + rz * pz) / volume
        sx, sy, sz = cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax
        dw = (rx * sx + ry * sy + rz * sz) / volume
        dh = (rx * qx + ry * qy + rz * qz) / volume
        u, w, height = u + du, w + dw, height + dh
        if abs(du) + abs(dw) < 1e-10 and abs(dh) < 1e-12:
            return 1 - u - w, u, w, height, True
        # Undamped, so that a step that diverges shows at once: the search continues from the best foot met.
        if abs(u) + abs(w) > 50:
            return 1 - u - w, u, w, height, False
    # Slow near a centre of curvature, but 1e-5 of a triangle some millimetres wide is less than a tenth of a micron.
    return 1 - u - w, u, w, height, abs(du) + abs(dw) < 1e-5


@compiled
def _height_and_miss(point, v, n, bary):  # type: ignore[no-untyped-def]
    """Return the coefficient of the interpolated normal at a foot, and the squared distance of the point from it."""
    dx, dy, dz = point[0], point[1], point[2]
    nx, ny, nz = 0.0, 0.0, 0.0
    for k in range(3):
        dx, dy, dz = dx - bary[k] * v[k, 0], dy - bary[k] * v[k, 1], dz - bary[k] * v[k, 2]
        nx, ny, nz = nx + bary[k] * n[k, 0], ny + bary[k] * n[k, 1], nz + bary[k] * n[k, 2]
    square = max(nx * nx + ny * ny + nz * nz, 1e-12)
    height = (dx * nx + dy * ny + dz * nz) / square
    ex, ey, ez = dx - height * nx, dy - height * ny, dz - height * nz
    return height, ex * ex + ey * ey + ez * ez


@compiled
def _into_triangle(bary, clamped):  # type: ignore[no-untyped-def]
    """Write the weights moved into the triangle; return whether there are any."""
    for k in range(3):
        clamped[k] = min(max(bary[k], 0.0), 1.0)
    total = clamped.sum()
    if not (total > 0 and np.isfinite(total)):
        return False
    clamped /= total
    return True


@compiled
def _step_over(corners, next_corners, away, clamped, bary):  # type: ignore[no-untyped-def]
    """Write weights in the next triangle: the ends of the common edge keep theirs, the new corner starts with none."""
    first, second = (away + 1) % 3, (away + 2) % 3
    one, two = clamped[first], clamped[second]
    if one + two <= 0:
        one, two = 0.5, 0.5
    for k in range(3):
        bary[k] = 0.0
        if next_corners[k] == corners[first]:
            bary[k] = one / (one + two)
        elif next_corners[k] == corners[second]:
            bary[k] = two / (one + two)


@compiled
def _walk(points, start_face, start_bary, vertices, normals, faces, neighbours):  # type: ignore[no-untyped-def]
    count = len(points)
    face, bary, exact = start_face.copy(), start_bary.copy(), np.zeros(count, np.bool_)
    v, n, b, clamped = np.empty((3, 3)), np.empty((3, 3)), np.empty(3), np.empty(3)
    for i in range(count):
        f = start_face[i]
        b[:] = start_bary[i]
        least = np.inf
        for _ in range(WALK_STEPS):
            for k in range(3):
                v[k], n[k] = vertices[faces[f, k]], normals[faces[f, k]]
            height, miss = _height_and_miss(points[i], v, n, b)
            if miss < least:
                least, face[i] = miss, f
                bary[i] = b
            b[0], b[1], b[2], _, solved = _newton(points[i], v, n, b, height)
            # Outside, the foot lies beyond the edge opposite to the corner with the least weight.
            lowest = np.argmin(b)
            if not _into_triangle(b, clamped):
                break
            if solved and b[lowest] >= -INSIDE:
                face[i], exact[i] = f, True
                bary[i] = clamped
                break
            height, miss = _height_and_miss(points[i], v, n, clamped)
            if miss < least:
                least, face[i] = miss, f
                bary[i] = clamped
            following = neighbours[f, lowest]
            if following < 0:
                break
            _step_over(faces[f], faces[following], lowest, clamped, b)
            f = following
    return face, bary, exact


def phong_feet(
    points: npt.NDArray[np.float64],
    face: npt.NDArray[np.int64],
    barycentric: npt.NDArray[np.float64],
    vertices: npt.NDArray[np.float64],
    normals: npt.NDArray[np.float64],
    faces: npt.NDArray[np.integer],
    neighbours: npt.NDArray[np.int64],
) -> Feet:
    """Return the feet from which the surface's interpolated normals lead to the points.

    In a triangle, ``Σ bᵢ (vᵢ + h nᵢ) = p`` is solved by Newton's method; where the weights leave the triangle, the
    search continues across that edge. Positions and normals agree along edges, so the foot moves continuously with the
    point, and a point raised along the interpolated normal comes back exactly. Phong projection: L. Kobbelt, J. Vorsatz
    & H.-P. Seidel, "Multiresolution hierarchies on unstructured triangle meshes", 1999; D. Panozzo et al., "Weighted
    averages on surfaces", 2013.

    Parameters
    ----------
    points : (Q, 3) float64
    face, barycentric : (Q,) int64 and (Q, 3) float64
        Where to begin, such as the closest points.
    vertices, normals : (N, 3) float64
    faces : (F, 3) integer
    neighbours : (F, 3) int64
        From :func:`datagen.geometry.edges.face_neighbours`.
    """
    found = _walk(
        np.ascontiguousarray(points, np.float64),
        np.ascontiguousarray(face, np.int64),
        np.ascontiguousarray(barycentric, np.float64),
        np.ascontiguousarray(vertices, np.float64),
        np.ascontiguousarray(normals, np.float64),
        np.ascontiguousarray(faces, np.int64),
        neighbours,
    )
    return Feet(*found)
