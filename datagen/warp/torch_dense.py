"""The dense stages of many frames at once in torch: the same solves as on the CPU, for a graphics card.

Everything that decides a position is float64: at the longest wavelength the thin plate's system has a condition number
near 10⁹, beyond float32. Only the bounds that narrow down the search for closest points are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.common.errors import DependencyError
from datagen.geometry.landmarks import Landmarks
from datagen.heads.regions import INTERIOR_REGIONS, REGIONS, mask_of
from datagen.warp.correspond import MAX_REST_DISTANCE_M
from datagen.warp.deform import CG_ITERATIONS, CG_TOLERANCE, Stage, Start
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate, stiffness_of
from datagen.warp.torch_closest import TorchSurface, nearest_points
from datagen.warp.torch_level import TorchLevel, spread, to_device

if TYPE_CHECKING:
    import torch


def deform_batch(
    template: WarpTemplate,
    surfaces: Sequence[Surface],
    starts: Sequence[Start],
    landmarks: Sequence[Landmarks | None],
    device: str = "cuda",
) -> list[tuple[F64, F64]]:
    """Do for each of many frames what :func:`datagen.warp.deform.deform` does for one, all at once.

    Frames do not influence one another. Systems are preconditioned with the same operator as on the CPU, so the
    iterations are the same too, and results differ by rounding only, also where the iterations end at their cap.

    Parameters
    ----------
    surfaces : sequence of Surface
        The scans; they may differ in size.
    starts : sequence of Start
        Frames of equal schedules go together, the others one group after the other.
    landmarks : sequence of Landmarks or None
        In the scans' frames.
    device : str
        As torch names it.

    Returns
    -------
    list of (registered, anchored)
        As of :func:`datagen.warp.deform.deform`, in the order of the frames.

    Raises
    ------
    DependencyError
        If torch sees no such device.
    """
    import torch

    if not len(surfaces) == len(starts) == len(landmarks):
        raise ValueError(f"{len(surfaces)} surfaces, {len(starts)} starts and {len(landmarks)} landmarks")
    stage = prepare_stage(template, check_device(device))
    groups: dict[tuple[tuple[Stage, ...], bool], list[int]] = {}
    for frame, start in enumerate(starts):
        groups.setdefault((start.schedule, start.rotate), []).append(frame)
    results: dict[int, tuple[F64, F64]] = {}
    with torch.no_grad():
        for (schedule, rotate), frames in groups.items():
            registered, anchored = stage.deform(
                [surfaces[k] for k in frames],
                np.stack([starts[k].vertices for k in frames]),
                [landmarks[k] for k in frames],
                schedule,
                rotate,
            )
            results.update(zip(frames, zip(registered, anchored, strict=True), strict=True))
    return [results[frame] for frame in range(len(starts))]


def check_device(device: str) -> str:
    """Return ``device`` if torch can compute on it.

    Raises
    ------
    DependencyError
        If it cannot.
    """
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        # A build of torch without CUDA asserts; a machine without a driver raises RuntimeError.
        raise DependencyError(
            f"the dense stage was asked to run on {device!r}, but torch {torch.__version__} cannot compute there",
            "an NVIDIA GPU with its driver and a CUDA build of torch",
            "Check nvidia-smi and torch.cuda.is_available(), or warp on the CPU, which needs neither",
        ) from error
    return device


@lru_cache(maxsize=4)
def prepare_stage(template: WarpTemplate, device: str) -> DenseStage:
    """Bring a template to a device, once per process."""
    import torch

    return DenseStage(template, torch.device(device))


class DenseStage:
    """The dense stages of one template on one device.

    State is kept as (n, B, 3): one sparse product then serves all frames.

    Parameters
    ----------
    exact_inverse : bool, optional
        See :class:`datagen.warp.torch_level.TorchLevel`.
    """

    def __init__(self, template: WarpTemplate, device: torch.device, *, exact_inverse: bool | None = None) -> None:
        self._template, self._device = template, device
        self._coarse = TorchLevel(template.coarse, device, dense=exact_inverse)
        self._fine = TorchLevel(template.fine, device, dense=exact_inverse)
        self._subdivide = to_device(template.subdivide, device)
        self._coarse_to_fine = to_device(template.coarse_to_fine, device)
        self._skin, self._coarse_skin = to_device(template.skin, device), to_device(template.coarse_skin, device)
        self._rest = to_device(template.canonical_m, device)
        self._part = to_device(_parts(template.regions), device)
        self._satellites = [
            (to_device(satellite.vertices, device), to_device(satellite.neighbours, device))
            for satellite in template.satellites
        ]

    def deform(
        self,
        surfaces: Sequence[Surface],
        starts: F64,
        landmarks: Sequence[Landmarks | None],
        schedule: tuple[Stage, ...],
        rotate: bool,
    ) -> tuple[F64, F64]:
        """Bend the template onto B scans, from long wavelengths to short ones.

        Parameters
        ----------
        starts : (B, V, 3) float64, metres
        schedule, rotate
            See :class:`datagen.warp.deform.Start`.

        Returns
        -------
        registered : (B, M, 3) float64
        anchored : (B, M) float64
        """
        import torch

        scans = [TorchSurface(surface, self._device) for surface in surfaces]
        points = LandmarkTargets(self._template, landmarks, self._device)
        reference = spread(self._subdivide, to_device(np.ascontiguousarray(starts.transpose(1, 0, 2)), self._device))
        current = reference.clone()
        anchored = torch.zeros(reference.shape[:2], dtype=torch.float64, device=self._device)
        for stage in schedule:
            level = self._fine if stage.fine else self._coarse
            skin = self._skin if stage.fine else self._coarse_skin
            for _ in range(stage.rounds):
                target, normal, weight = self._targets(scans, current, skin, level, stage)
                moved = _refine(
                    level, reference[skin], current[skin], target, normal, weight, stage, points, rotate=rotate
                )
                if stage.fine:
                    anchored[skin] = weight
                else:
                    carried = spread(self._coarse_to_fine, moved - reference[skin])
                    current[self._skin] = reference[self._skin] + carried
                current[skin] = moved
                self._carry_satellites(reference, current)
        return current.permute(1, 0, 2).cpu().numpy(), anchored.T.contiguous().cpu().numpy()

    def _targets(
        self, scans: Sequence[TorchSurface], current: torch.Tensor, skin: torch.Tensor, level: TorchLevel, stage: Stage
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return positions and normals (n, B, 3) and weights (n, B), as :func:`datagen.warp.correspond.find_targets`.

        Scans differ in size, and one frame's search fills the device already: they are asked one by one.
        """
        import torch

        gate = stage.gate
        vertices = current[skin]
        normals = level.vertex_normals(vertices)
        found = []
        for frame, scan in enumerate(scans):
            hit = scan.closest(vertices[:, frame], gate.max_distance_m)
            nearest = nearest_points(hit.position, current[:, frame])
            same_part = _compatible(self._part[skin], self._part[nearest])
            near_at_rest = torch.linalg.norm(self._rest[nearest] - level.rest, dim=1) < MAX_REST_DISTANCE_M
            found.append((hit.position, hit.normal, ~hit.on_border & same_part & near_at_rest))
        position, normal, believable = (torch.stack(parts, 1) for parts in zip(*found, strict=True))
        offset = position - vertices
        cosine = (normals * normal).sum(2)
        believable &= level.attract[:, None] & (torch.linalg.norm(offset, dim=2) < gate.max_distance_m)
        believable &= cosine > gate.min_cosine
        residual = (offset * normal).sum(2)
        robust = (1 + (residual / gate.sigma_m) ** 2) ** -2.0
        return position, normal, torch.where(believable, robust * cosine.clamp(0, 1) ** 2, torch.zeros_like(robust))

    def _carry_satellites(self, reference: torch.Tensor, current: torch.Tensor) -> None:
        for vertices, neighbours in self._satellites:
            current[vertices] = _move_rigidly(reference[neighbours], current[neighbours], reference[vertices])


class LandmarkTargets:
    """Landmarks of B frames as weighted sums of coarse skin vertices; a frame may have none."""

    def __init__(self, template: WarpTemplate, landmarks: Sequence[Landmarks | None], device: torch.device) -> None:
        import torch

        place = np.full(len(template.head.vertices), -1)
        place[template.coarse_skin] = np.arange(len(template.coarse_skin))
        rows: list[list[F64]] = [[], [], [], []]
        for frame, given in enumerate(landmarks):
            if given is None:
                continue
            corners = place[template.head.faces[template.head.landmark_faces[given.indices]]]
            rows[0].append(np.where(corners < 0, 0, corners).astype(np.float64))
            rows[1].append(np.where(corners < 0, 0.0, template.head.landmark_barycentric[given.indices]))
            rows[2].append(np.full(len(given.indices), float(frame)))
            rows[3].append(np.asarray(given.points, np.float64))
        self.any = bool(rows[0])
        if not self.any:
            return
        corners_, weights, frames, position = (torch.from_numpy(np.concatenate(r)).to(device) for r in rows)
        self._corners, self._frames = corners_.long(), frames.long()[:, None].expand(-1, 3)
        self._weights, self._position = weights, position

    def pull(self, like: torch.Tensor) -> torch.Tensor:
        """Return ``Bᵀ y`` of the landmark operators B and positions y, (n, B, 3) float64."""
        return self._back(self._position, like)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``Bᵀ B x`` for (n, B, 3)."""
        return self._back((self._weights[..., None] * x[self._corners, self._frames]).sum(1), x)

    def _back(self, values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        import torch

        out = torch.zeros_like(like)
        spread_ = self._weights[..., None] * values[:, None]
        return out.index_put_((self._corners, self._frames), spread_, accumulate=True)


def _refine(
    level: TorchLevel,
    reference: torch.Tensor,
    start: torch.Tensor,
    target: torch.Tensor,
    normal: torch.Tensor,
    weight: torch.Tensor,
    stage: Stage,
    points: LandmarkTargets,
    *,
    rotate: bool,
) -> torch.Tensor:
    """Return vertices (n, B, 3): the solve of :func:`datagen.warp.deform.solve_thin_plate` for all frames at once."""
    import torch

    stiffness, hold, w = stiffness_of(stage.wavelength_m), stage.hold, weight[:, :, None]
    detail = spread(level.laplacian, reference)
    if rotate:
        detail = torch.einsum("nbij,nbj->nbi", level.vertex_rotations(reference, start), detail)
    right = stiffness * spread(level.laplacian_t, level.inverse_mass[:, None, None] * detail)

    def along(x: torch.Tensor) -> torch.Tensor:
        return (x * normal).sum(2, keepdim=True) * normal

    with_points = points.any and stage.landmark_weight > 0

    def system(x: torch.Tensor) -> torch.Tensor:
        y = stiffness * spread(level.bending, x) + w * ((1 - hold) * along(x) + hold * x)
        return y + stage.landmark_weight * points.apply(x) if with_points else y

    right = right + w * (along(target) + hold * (reference - along(reference)))
    if with_points:
        right = right + stage.landmark_weight * points.pull(right)
    return start + conjugate_gradients(system, right - system(start), level.preconditioner(stiffness))


def conjugate_gradients(apply, right: torch.Tensor, precondition) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Preconditioned conjugate gradients for B independent systems with (n, B, 3) unknowns, from zero.

    Each system stops by itself, as if it were alone.
    """
    import torch

    def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        # Frame by frame over contiguous numbers, so that a frame's sum does not depend on the size of the batch.
        return (a * b).permute(1, 0, 2).flatten(1).contiguous().sum(1)

    x = torch.zeros_like(right)
    residual = right.clone()
    z = precondition(residual)
    direction = z.clone()
    rho = dot(residual, z)
    limit = CG_TOLERANCE**2 * rho
    for _ in range(CG_ITERATIONS):
        going = (rho > limit) & (rho > 0)
        if not bool(going.any()):
            break
        q = apply(direction)
        alpha = torch.where(going, rho / dot(direction, q), 0.0)[:, None]
        x += alpha * direction
        residual -= alpha * q
        z = precondition(residual)
        before = rho
        rho = torch.where(going, dot(residual, z), rho)
        direction = z + torch.where(going, rho / before, 0.0)[:, None] * direction
    return x


def _move_rigidly(source: torch.Tensor, target: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Move points (S, B, 3) by the rigid motions that carry source to target (k, B, 3) best; Umeyama 1991."""
    import torch

    mean_source, mean_target = source.mean(0), target.mean(0)
    covariance = torch.einsum("kbi,kbj->bij", target - mean_target, source - mean_source)
    U, _, Vt = torch.linalg.svd(covariance)
    U = U.clone()
    U[:, :, 2] *= torch.sign(torch.linalg.det(U @ Vt))[:, None]
    return torch.einsum("bij,sbj->sbi", U @ Vt, points - mean_source) + mean_target


def _parts(regions: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Code regions (n,): bit 0 upper lip, bit 1 lower lip, bit 2 interior."""
    upper, lower = regions == REGIONS["upper_lip"], regions == REGIONS["lower_lip"]
    code: npt.NDArray[np.int64] = upper * 1 + lower * 2 + mask_of(regions, INTERIOR_REGIONS) * 4
    return code


def _compatible(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return what :func:`datagen.warp.correspond.regions_compatible` does, of codes."""
    return (((a | b) & 3) != 3) & ((a & 4) == (b & 4))
