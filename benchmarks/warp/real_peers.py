"""trimesh's registrations at their best, and a rigid motion, on scans with landmarks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.warp.families import FaceTemplate
from benchmarks.warp.hidden import HiddenScan
from benchmarks.warp.peers import PeerResult, check_rtree
from datagen.common.arrays import F64
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import Surface

# Chosen on the families themselves, which favours the peers: Amberg's schedule is that of the library's own example,
# Sumner's holds longer to the template.
SETTINGS: dict[str, dict[str, Any]] = {
    "sumner": {"steps": [[wc, 1, 1, 1000, 0] for wc in (0, 1, 10, 100, 1000)], "distance_threshold": 0.05},
    "amberg": {"steps": [[ws, 3, 0.5, 10] for ws in (0.02, 0.007, 0.002)], "distance_threshold": 0.05},
}


def canonical_by_peer(method: str, hidden: HiddenScan, template: FaceTemplate) -> PeerResult:
    """Carry a scan's vertices to the face template by a peer: ``rigid``, ``sumner`` or ``amberg``.

    Begun from the landmarks' similarity, given the landmarks; a vertex has the coordinate of the closest point on the
    registered template. ``canonical`` is in metres.

    Raises
    ------
    datagen.common.errors.DependencyError
        If trimesh lacks rtree, which its closest points need.
    """
    started = time.perf_counter()
    scan, marks = hidden.scan, hidden.landmarks
    placed = template.at(marks.indices.tolist())
    if method == "rigid":
        registered, points = template.vertices, fit_similarity(marks.points, placed).apply(scan.vertices)
        surface = template.surface
    else:
        registered, points = _registered(method, hidden, template), scan.vertices
        surface = Surface(registered, template.faces)
    foot = surface.closest(points)
    canonical_m = np.einsum("nc,ncd->nd", foot.barycentric, template.vertices[template.faces[foot.face]])
    return PeerResult(canonical_m, time.perf_counter() - started)


def _registered(method: str, hidden: HiddenScan, template: FaceTemplate) -> F64:
    import trimesh

    check_rtree()
    scan, marks = hidden.scan, hidden.landmarks
    start = fit_similarity(template.at(marks.indices.tolist()), marks.points).apply(template.vertices)
    source = trimesh.Trimesh(start, template.faces.copy(), process=False)
    target = trimesh.Trimesh(scan.vertices.copy(), scan.faces.copy(), process=False)
    register = {"amberg": trimesh.registration.nricp_amberg, "sumner": trimesh.registration.nricp_sumner}[method]
    found = register(
        source,
        target,
        source_landmarks=template.marks[marks.indices],
        target_positions=marks.points.copy(),
        **SETTINGS[method],
    )
    return np.asarray(found, np.float64)
