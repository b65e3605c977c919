"""The non-rigid registrations of trimesh on the benchmark's cases, measured like our own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.warp.cases import Case
from datagen.common.arrays import F64
from datagen.common.errors import DependencyError
from datagen.geometry.mesh import Mesh, face_cross, normalised
from datagen.heads.base import HeadModel
from datagen.warp.similarity import fit_similarity_robust
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate, prepare_template

METHODS = ("amberg", "sumner")


@dataclass(frozen=True)
class PeerResult:
    """What one method made of one case.

    Attributes
    ----------
    canonical : (N, 3) float64
        Normalised canonical coordinate of every scan vertex.
    seconds : float
    """

    canonical: F64
    seconds: float


def register_with_peer(method: str, case: Case, head: HeadModel, subdivisions: int | None = None) -> PeerResult:
    """Register the fine template's connected skin with ``nricp_amberg`` or ``nricp_sumner``, at their defaults.

    They start where our warp starts: from the registration if the case has one, else from the template, aligned to the
    landmarks by a similarity; and they are given the same landmarks. Eyeballs and tongue are left out, because both
    methods would need springs to hold separate parts.

    Parameters
    ----------
    method : ``amberg`` or ``sumner``
    case : Case
        With a registration or landmarks.
    head : HeadModel
    subdivisions : int, optional
        Of the template; by default as fine as our own warp's.

    Raises
    ------
    datagen.common.errors.DependencyError
        If trimesh lacks rtree, which its closest points need.
    """
    import trimesh

    check_rtree()
    template = prepare_template(head.template, subdivisions)
    fine = template.fine
    target = trimesh.Trimesh(case.scan.vertices.copy(), case.scan.faces.copy(), process=False)
    source = trimesh.Trimesh(_start(case, template), fine.faces.copy(), process=False)
    marks: dict[str, Any] = {}
    if case.landmarks is not None:
        at = Surface(fine.rest, fine.faces).closest(head.template.landmarks()[case.landmarks.indices])
        marks = {
            "source_landmarks": (at.face, at.barycentric),
            "target_positions": case.landmarks.points.copy(),
        }
    run: Callable[..., Any] = {
        "amberg": trimesh.registration.nricp_amberg,
        "sumner": trimesh.registration.nricp_sumner,
    }[method]
    started = time.perf_counter()
    registered = np.asarray(run(source, target, **marks), np.float64)
    seconds = time.perf_counter() - started
    canonical_m = carried_to_template(case.scan, registered, template)
    return PeerResult(template.head.space.normalise(canonical_m), seconds)


def carried_to_template(scan: Mesh, registered: F64, template: WarpTemplate) -> F64:
    """Carry every scan vertex to the template by its closest point on the registered skin, (N, 3) float64 metres.

    The height over the registered skin is kept along the template's normal, scaled by the local stretch, as in our own
    transport; nothing is rejected.

    Parameters
    ----------
    scan : Mesh
    registered : (m, 3) float64
        The fine template's connected skin, world metres.
    template : WarpTemplate
    """
    fine = template.fine
    foot = Surface(registered, fine.faces).closest(scan.vertices)
    corners = fine.faces[foot.face]
    base = np.einsum("nc,ncd->nd", foot.barycentric, fine.rest[corners])
    normal = normalised(np.einsum("nc,ncd->nd", foot.barycentric, fine.normals[corners]))
    height = np.einsum("nd,nd->n", scan.vertices - foot.position, foot.normal)
    rest, now = (np.linalg.norm(face_cross(v, corners), axis=1) for v in (fine.rest, registered))
    stretch = np.sqrt(rest / np.maximum(now, 1e-14))
    return np.asarray(base + (height * np.clip(stretch, 0.5, 2.0))[:, None] * normal)


def _start(case: Case, template: WarpTemplate) -> F64:
    if case.registration is not None:
        return np.asarray(template.subdivide @ case.registration.vertices)[template.skin]
    assert case.landmarks is not None
    fit = fit_similarity_robust(template.head.landmarks()[case.landmarks.indices], case.landmarks.points)
    return np.asarray(fit.apply(template.fine.rest))


def check_rtree() -> None:
    """Raise DependencyError if trimesh lacks rtree."""
    try:
        import rtree
    except (ImportError, OSError) as error:
        raise DependencyError(
            f"trimesh cannot find closest points without rtree ({error})",
            "rtree beside trimesh, for --against trimesh",
            "Install it: pip install -c requirements.lock rtree",
        ) from None
    del rtree
