"""From registrations in one topology to the canonical template: correspondence found once, on the neutral face."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64, Bools
from datagen.common.errors import MeshError, WarpError
from datagen.geometry.mesh import Mesh, compact, vertex_normals
from datagen.geometry.space import MM_PER_M
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, mask_of
from datagen.manifest import WarpConfig
from datagen.sources.frame import Registration
from datagen.sources.topology import Topology
from datagen.warp.correspond import regions_compatible
from datagen.warp.engine import ALGORITHM_VERSION, warp_frame
from datagen.warp.extend import SmoothExtension, rides_with_skin
from datagen.warp.result import Verdict, Warp
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import Surface

# Part of every bridge's key, with the engine's own version: a change here makes stored bridges stale.
BRIDGE_VERSION = 2
# A bridge is made once, with the engine's defaults, whatever the settings of the build that uses it.
STORED_CONFIG = WarpConfig()
# Where the neutral faces are this far apart, or face differently, one has no counterpart of the other.
MAX_FOOT_DISTANCE_M = 0.003
MIN_COSINE = 0.5
# Near vertices tried where the closest triangle faces the other way, as at lips and lids.
CANDIDATES = 24
# Weights are float32's: this near to one, a point lies on its triangle's edge.
EDGE_TOLERANCE = 1e-4
# Share of the template's skin that must have a counterpart for a registration to place it.
MIN_VALID_SHARE = 0.1
# A scan whose vertices lie this close to the registration's is the registration.
SAME_SURFACE_M = 1e-5


@dataclass(frozen=True, eq=False)
class Bridge:
    """Where every vertex of a template lies on another topology.

    Attributes
    ----------
    template : HeadTemplate
        The target.
    source : str
        Name of the source topology.
    neutral : (V, 3) float64
        The template on the source's neutral face, metres.
    corners : (V, 3) int32
        Source vertices whose triangle carries each template vertex.
    barycentric : (V, 3) float64
    offset : (V, 3) float64
        From the point on the triangle to the vertex, in the triangle's frame (first edge, in plane, normal), in units
        of the square root of its area.
    valid : (V,) bool
        Whether the source topology has a counterpart; the rest is extended smoothly from what has one.
    canonical : (S, 3) float32
        Normalised canonical coordinate of each source vertex, NaN without a counterpart: the same for everyone whose
        face comes in the source topology.
    confidence : (S,) float32
    region : (S,) uint8
    verdict : Verdict
        Of the warp of the source's neutral face, with metrics of the bridge itself.
    """

    template: HeadTemplate
    source: str
    source_digest: str
    neutral: F64
    corners: npt.NDArray[np.int32]
    barycentric: F64
    offset: F64
    valid: Bools
    canonical: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    region: npt.NDArray[np.uint8]
    verdict: Verdict

    @property
    def source_size(self) -> int:
        """Number of vertices of the source topology."""
        return len(self.canonical)

    @cached_property
    def _extension(self) -> SmoothExtension:
        return SmoothExtension(self.neutral, self.template.faces, self.valid)

    def carry(self, source_vertices: npt.NDArray[np.floating]) -> F64:
        """Return the template's vertices (V, 3) float64 for a face in the source topology, in that face's frame.

        Vertices with a counterpart follow their triangle. The others follow the best similarity of those, plus the
        rest of their displacement extended as a thin plate that dies out with distance. Eyeballs and tongue move
        rigidly with the skin around them, whether or not the source has them: they must not bend.

        Parameters
        ----------
        source_vertices : (S, 3) float, metres

        Raises
        ------
        MeshError
            If the shape is wrong or a coordinate is not finite.
        """
        vertices = np.asarray(source_vertices, np.float64)
        if vertices.shape != (self.source_size, 3):
            raise MeshError(
                f"the registration has {len(vertices)} vertices",
                f"{self.source_size}, as the topology {self.source!r} has",
                "Check the topology's name, or whether the export merged or split vertices",
            )
        if not np.isfinite(vertices).all():
            raise MeshError(
                "the registration has NaN or infinite coordinates",
                "finite coordinates",
                "Leave the registration of this frame out; landmarks alone will do",
            )
        corners = vertices[self.corners]
        frame, size = _triangle_frames(corners)
        carried = np.einsum("vc,vcd->vd", self.barycentric, corners)
        carried += size[:, None] * np.einsum("vij,vj->vi", frame, self.offset)
        motion = fit_similarity(self.neutral[self.valid], carried[self.valid])
        base = motion.apply(self.neutral)
        displacement = np.where(self.valid[:, None], carried - base, 0.0)
        return rides_with_skin(self.template, self.neutral, base + self._extension(displacement))

    def register(self, registration: Registration) -> Registration:
        """Carry a registration over; vertices without a counterpart have trust 0, the others 1."""
        return Registration(self.template.name, self.carry(registration.vertices), self.valid.astype(np.float64))

    def keep_coordinates(self, warp: Warp, registration: Registration) -> Warp:
        """Give a scan that *is* its registration the topology's own coordinates; return other warps as they are.

        The same vertex of two people then has the same canonical coordinate by construction, whatever slid in the
        refinement. Vertices without a counterpart on the neutral face have none on any face; but eyes and the inside of
        the mouth, which a closed neutral face hides, keep what the warp found.

        Parameters
        ----------
        registration : Registration
            In the source topology.
        """
        if warp.scan_vertices.shape != registration.vertices.shape:
            return warp
        if not np.abs(warp.scan_vertices - registration.vertices).max() <= SAME_SURFACE_M:
            return warp
        known = np.asarray(np.all(np.isfinite(self.canonical), axis=1))
        kept = ~known & mask_of(warp.region, INTERIOR_REGIONS)
        return replace(
            warp,
            canonical=np.where(kept[:, None], warp.canonical, self.canonical),
            confidence=np.where(kept, warp.confidence, self.confidence),
            region=np.where(kept, warp.region, self.region),
        )


def build_bridge(topology: Topology, head: HeadModel, config: WarpConfig = STORED_CONFIG) -> Bridge:
    """Find where every vertex of a head's template lies on another topology.

    The template is warped onto the topology's neutral face as onto any scan, from its landmarks, and each vertex is
    tied to the nearest triangle of compatible orientation.

    Parameters
    ----------
    config : WarpConfig, optional
        Other than :data:`STORED_CONFIG` only for what is not stored.

    Raises
    ------
    WarpError
        If the neutral face cannot be warped, or its warp cannot be believed.
    """
    scan, kept = _skin_of(topology)
    try:
        warp = warp_frame(scan, head, config, landmarks=topology.landmarks)
    except WarpError as error:
        raise _not_bridged(topology, str(error)) from None
    if warp.verdict.status == "fail":
        raise _not_bridged(topology, "; ".join(warp.verdict.reasons))
    template = head.template
    controls, on_surface = _control_vertices(template, warp)
    surface = Surface(scan.vertices, scan.faces)
    normals = vertex_normals(on_surface, template.faces)
    face, barycentric = _feet(surface, on_surface, normals)
    foot = surface.at(face, barycentric)
    valid = (
        (np.linalg.norm(foot.position - on_surface, axis=1) < MAX_FOOT_DISTANCE_M)
        & (np.einsum("vd,vd->v", foot.normal, normals) > MIN_COSINE)
        & ~_at_border(surface, face, barycentric)
        & ~mask_of(template.regions, INTERIOR_REGIONS)
    )
    corners = kept[scan.faces[face]]
    if topology.regions is not None:
        heaviest = corners[np.arange(len(corners)), barycentric.argmax(axis=1)]
        valid &= regions_compatible(template.regions, topology.regions[heaviest])
    if valid.mean() < MIN_VALID_SHARE:
        raise _not_bridged(topology, f"only {valid.mean():.0%} of the template has a counterpart on it")
    frame, size = _triangle_frames(topology.vertices[corners])
    offset = np.einsum("vij,vi->vj", frame, controls - foot.position) / size[:, None]
    canonical = np.full((len(topology.vertices), 3), np.nan, np.float32)
    confidence, region = np.zeros(len(canonical), np.float32), np.zeros(len(canonical), np.uint8)
    canonical[kept], confidence[kept], region[kept] = warp.canonical, warp.confidence, warp.region
    return Bridge(
        template,
        topology.name,
        topology.digest,
        controls,
        corners.astype(np.int32),
        barycentric,
        offset,
        valid,
        canonical,
        confidence,
        region,
        replace(warp.verdict, metrics=warp.verdict.metrics | _metrics(topology, template, on_surface, valid)),
    )


def bridge_key(topology: Topology, template: HeadTemplate) -> dict[str, object]:
    """Everything that decides a bridge, as plain JSON data."""
    return {
        "algorithm": [BRIDGE_VERSION, ALGORITHM_VERSION],
        "config": STORED_CONFIG.model_dump(mode="json"),
        "head": template.name,
        "source": topology.digest,
        "template": template.digest,
    }


def _metrics(topology: Topology, template: HeadTemplate, on_surface: F64, valid: Bools) -> dict[str, float]:
    marks = topology.landmarks
    apart = np.linalg.norm(template.landmarks(on_surface)[marks.indices] - marks.points, axis=1) * MM_PER_M
    return {
        "bridge_face_share": float(valid[mask_of(template.regions, FACE_REGIONS)].mean()),
        "bridge_landmark_median_mm": float(np.median(apart)),
        "bridge_landmark_p95_mm": float(np.percentile(apart, 95)),
        "bridge_share": float(valid.mean()),
    }


def _not_bridged(topology: Topology, reason: str) -> WarpError:
    return WarpError(
        f"the neutral face of the topology {topology.name!r} cannot be carried to the canonical template: {reason}",
        "a closed-mouth, neutral face with landmarks on it",
        "Correct its mesh or landmarks, or set warp.use_registration to false",
    )


def _skin_of(topology: Topology) -> tuple[Mesh, npt.NDArray[np.int64]]:
    """Return what a scanner would see of a neutral face, and the topology's index of each of its vertices."""
    faces = topology.faces
    if topology.regions is not None:
        interior = mask_of(topology.regions, INTERIOR_REGIONS)[faces]
        faces = faces[~np.asarray(np.any(interior, axis=1))]
    return compact(topology.vertices, faces)


def _control_vertices(template: HeadTemplate, warp: Warp) -> tuple[F64, F64]:
    """Return template vertices (V, 3) that subdivide to the registered surface, and where they lie on it (V, 3).

    The warp gives the fine template; a registration gives the coarse one, from which the fine one is subdivided.
    """
    from scipy.sparse.linalg import spsolve

    n, levels = len(template.vertices), 0
    while len(template.faces) * 4**levels < len(warp.registered_faces):
        levels += 1
    fine = loop_subdivision(template.faces, n, levels).matrix
    registered = warp.registered_vertices
    controls = spsolve((fine.T @ fine).tocsc(), fine.T @ registered)
    return np.asarray(controls, np.float64), registered[:n]


def _feet(surface: Surface, points: F64, normals: F64) -> tuple[npt.NDArray[np.int64], F64]:
    """Return triangle (V,) and weights (V, 3) of the closest surface point that faces the same way, if one is near."""
    from scipy.spatial import cKDTree

    foot = surface.closest(points)
    face, barycentric = foot.face.copy(), foot.barycentric.copy()
    wrong = np.flatnonzero(np.einsum("vd,vd->v", foot.normal, normals) < MIN_COSINE)
    if not len(wrong):
        return face, barycentric
    count = min(CANDIDATES, len(surface.vertices))
    near = np.asarray(cKDTree(surface.vertices).query(points[wrong], count)[1]).reshape(len(wrong), -1)
    agrees = np.einsum("vd,vkd->vk", normals[wrong], surface.normals[near]) >= MIN_COSINE
    found = agrees.any(axis=1)
    vertex = near[np.arange(len(wrong)), agrees.argmax(axis=1)][found]
    carrier, corner = np.zeros(len(surface.vertices), np.int64), np.zeros(len(surface.vertices), np.int64)
    for k in range(3):
        carrier[surface.faces[:, k]] = np.arange(len(surface.faces))
        corner[surface.faces[:, k]] = k
    face[wrong[found]], barycentric[wrong[found]] = carrier[vertex], np.eye(3)[corner[vertex]]
    return face, barycentric


def _at_border(surface: Surface, face: npt.NDArray[np.int64], barycentric: F64) -> Bools:
    """Whether points (V,) lie on the surface's very edge: nearest for want of surface, not because it is there."""
    on_edge = np.einsum("vc,vc->v", barycentric, surface.border[surface.faces[face]].astype(np.float64))
    return np.asarray(on_edge > 1 - EDGE_TOLERANCE)


def _triangle_frames(corners: F64) -> tuple[F64, F64]:
    """Return orthonormal frames (V, 3, 3), axes in columns, and the square root of the area (V,) of triangles."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = np.cross(first, second)
    area = np.linalg.norm(normal, axis=1)
    x = first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    z = normal / np.maximum(area, 1e-18)[:, None]
    return np.stack([x, np.cross(z, x), z], axis=2), np.sqrt(np.maximum(area / 2, 1e-12))
