"""Closest points on scans, and nearest vertices, in torch: for the dense stage on a graphics card."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from datagen.warp.surface import Surface

# Triangles are looked at in packets that are neighbours in space; only a few packets can hold the closest point.
PACKET_FACES = 32
NEAR_PACKETS = 8
NEAR_FACES = 16
# A search that could not prove its answer is repeated this much wider, until it can.
WIDER = 4
# Pairs of query and candidate held at once, which bounds the memory.
PAIRS_AT_ONCE = 1 << 25


@dataclass(frozen=True)
class TorchPoints:
    """Points on a surface.

    Attributes
    ----------
    position, normal : (Q, 3) float64
        Metres and unit.
    on_border : (Q,) bool
        The triangle touches the surface's boundary.
    """

    position: torch.Tensor
    normal: torch.Tensor
    on_border: torch.Tensor


class TorchSurface:
    """A scan on a device that answers closest-point queries like :class:`datagen.warp.surface.Surface`.

    Triangles come in compact packets with bounding spheres. A query bounds its distance to
    every packet from below, then to every triangle of the nearest packets, and computes the distance to the nearest
    triangles exactly. If nothing left out could have been nearer, the answer is the closest point; where that is not
    proven within ``reach_m``, the search is repeated wider. A point cloud answers with tangent discs.
    """

    def __init__(self, surface: Surface, device: torch.device) -> None:
        import torch

        def on_device(array: npt.NDArray[np.generic]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        # Bounds are float32: centring keeps them exact to 0.1 µm even where the world's origin is metres away.
        self._origin = on_device(surface.vertices.mean(axis=0))
        self._vertices = on_device(surface.vertices) - self._origin
        self._normals, self._border = on_device(surface.normals), on_device(surface.border)
        self._is_cloud = not len(surface.faces)
        if self._is_cloud:
            return
        faces = on_device(surface.faces)
        centre, radius = _bounding_spheres(self._vertices[faces])
        packets = _packets(centre)
        self._faces, self._packet_faces = faces[packets.flatten()], packets.shape[1]
        sphere = torch.cat([centre, radius[:, None]], 1)[packets]
        self._face_sphere = sphere.float()
        centre, radius = _bounding_spheres(sphere[..., :3])
        self._packet_centre, self._packet_radius = centre.float(), (radius + sphere[..., 3].amax(1)).float()

    def closest(self, points: torch.Tensor, reach_m: float) -> TorchPoints:
        """Return the closest surface points to ``points`` (Q, 3) float64 metres.

        Parameters
        ----------
        points : (Q, 3) float64
        reach_m : float
            Further away, the answer is a near point of the surface but perhaps not the nearest.
        """
        import torch

        query = points - self._origin
        if self._is_cloud:
            return self._on_discs(query)
        packets, faces = NEAR_PACKETS, NEAR_FACES
        face, weights, distance, beyond = self._search(query, packets, faces)
        # It ends: of all triangles, none is left that could be nearer.
        while len(open_ := torch.nonzero(beyond < distance.clamp_max(reach_m)).squeeze(1)):
            packets, faces = packets * WIDER, faces * WIDER
            face[open_], weights[open_], distance[open_], beyond[open_] = self._search(query[open_], packets, faces)
        corners = self._faces[face]
        position = (weights[:, :, None] * self._vertices[corners]).sum(1) + self._origin
        normal = (weights[:, :, None] * self._normals[corners]).sum(1)
        length = torch.linalg.norm(normal, dim=1, keepdim=True).clamp_min(1e-12)
        return TorchPoints(position, normal / length, self._border[corners].any(dim=1))

    def _search(self, query: torch.Tensor, packets: int, faces: int) -> tuple[torch.Tensor, ...]:
        """Return face, barycentric weights, distance, and what bounds the distance of all others from below."""
        import torch

        packets = min(packets, len(self._packet_radius))
        faces = min(faces, packets * self._packet_faces)
        chunk = max(1, PAIRS_AT_ONCE // max(len(self._packet_radius), packets * self._packet_faces * 4))
        found = [self._search_chunk(part, packets, faces) for part in torch.split(query, chunk)]
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    def _search_chunk(self, query: torch.Tensor, packets: int, faces: int) -> tuple[torch.Tensor, ...]:
        import torch

        q = query.float()
        bound = _distances(q, self._packet_centre) - self._packet_radius
        least, packet = bound.topk(min(packets + 1, bound.shape[1]), dim=1, largest=False)
        beyond = least[:, packets] if least.shape[1] > packets else torch.full_like(least[:, 0], torch.inf)
        packet = packet[:, :packets]
        sphere = self._face_sphere[packet].flatten(1, 2)
        bound = torch.linalg.norm(sphere[..., :3] - q[:, None], dim=2) - sphere[..., 3]
        least, nearest = bound.topk(min(faces + 1, bound.shape[1]), dim=1, largest=False)
        if least.shape[1] > faces:
            beyond = torch.minimum(beyond, least[:, faces])
        nearest = nearest[:, :faces]
        size = self._packet_faces
        face = packet.gather(1, nearest // size) * size + nearest % size
        weights, distance = closest_on_triangles(query[:, None], self._vertices[self._faces[face]])
        distance, best = distance.min(dim=1)
        rows = torch.arange(len(query), device=query.device)
        return face[rows, best], weights[rows, best], distance, beyond

    def _on_discs(self, query: torch.Tensor) -> TorchPoints:
        index = nearest_points(query, self._vertices)
        normal = self._normals[index]
        height = ((query - self._vertices[index]) * normal).sum(1, keepdim=True)
        return TorchPoints(query - height * normal + self._origin, normal, self._border[index])


def closest_on_triangles(points: torch.Tensor, triangles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return barycentric weights (..., 3) of the closest points on triangles, and the distances (...).

    The Voronoi regions of C. Ericson, "Real-Time Collision Detection", 2005, section 5.1.5: the foot in the plane where
    it lies inside, and else the nearest of the three closest points on the edges.

    Parameters
    ----------
    points : (..., 3) float
    triangles : (..., 3, 3) float
        Corners, metres. One without area counts as its edges.
    """
    import torch

    a, b, c = triangles.unbind(-2)
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    determinant = d00 * d11 - d01 * d01
    flat = determinant <= 1e-14 * d00 * d11
    safe = torch.where(flat, torch.ones_like(determinant), determinant)
    v, w = (d11 * d20 - d01 * d21) / safe, (d00 * d21 - d01 * d20) / safe
    plane = torch.stack([1 - v - w, v, w], -1)
    outside = flat | (plane < 0).any(-1)

    zero = torch.zeros_like(v)
    choices = [plane]
    for start, edge, place in ((a, ab, (0, 1)), (b, c - b, (1, 2)), (a, ac, (0, 2))):
        squared = (edge * edge).sum(-1).clamp_min(1e-30)
        t = (((points - start) * edge).sum(-1) / squared).clamp(0, 1)
        parts = [zero, zero, zero]
        parts[place[0]], parts[place[1]] = 1 - t, t
        choices.append(torch.stack(parts, -1))
    weights = torch.stack(choices, -2)
    foot = torch.einsum("...kc,...cd->...kd", weights, triangles)
    distance = torch.linalg.norm(foot - points[..., None, :], dim=-1)
    # A plane foot outside its triangle is not a candidate.
    distance = torch.cat([torch.where(outside, torch.inf, distance[..., 0])[..., None], distance[..., 1:]], -1)
    least, best = distance.min(-1)
    chosen = weights.gather(-2, best[..., None, None].expand(*best.shape, 1, 3)).squeeze(-2)
    return chosen, least


def nearest_points(query: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return the index (Q,) int64 of the nearest of ``points`` (N, 3) to each of ``query`` (Q, 3).

    Through PyTorch3D's nearest neighbours on a graphics card where that package is installed, else by comparing all.
    """
    import torch

    centre = points.mean(0)
    q, p = (query - centre).float(), (points - centre).float()
    if q.is_cuda and find_spec("pytorch3d") is not None:
        from pytorch3d.ops import knn_points

        index: torch.Tensor = knn_points(q[None], p[None], K=1).idx[0, :, 0]
        return index
    chunk = max(1, PAIRS_AT_ONCE // len(p))
    return torch.cat([_distances(part, p).argmin(dim=1) for part in torch.split(q, chunk)])


def _distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    import torch

    # The matrix product's shortcut cancels digits: 0.06 mm at zero distance in float32.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _bounding_spheres(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (G, 3) and radii (G,) of spheres around point groups (G, k, 3)."""
    import torch

    centre = (groups.amin(1) + groups.amax(1)) / 2
    radius = torch.linalg.norm(groups - centre[:, None], dim=2).amax(1)
    # Rounding to float32 must not turn the bound into more than the distance.
    return centre, radius + 1e-6


def _packets(points: torch.Tensor) -> torch.Tensor:
    """Split points (N, 3) into compact packets (P, k) of indices, by halving along each part's longest axis.

    A few of the last indices may appear twice, so that all packets are of one size, at most :data:`PACKET_FACES`.
    """
    import torch

    halvings = max(0, math.ceil(math.log2(len(points) / PACKET_FACES)))
    size = math.ceil(len(points) / 2**halvings)
    parts = torch.arange(size * 2**halvings, device=points.device).clamp_max(len(points) - 1)[None]
    for left in range(halvings, 0, -1):
        placed = points[parts]
        axis = (placed.amax(1) - placed.amin(1)).argmax(1)
        along = placed.gather(2, axis[:, None, None].expand(*parts.shape, 1)).squeeze(2)
        parts = parts.gather(1, along.argsort(dim=1, stable=True)).reshape(-1, size * 2 ** (left - 1))
    return parts
