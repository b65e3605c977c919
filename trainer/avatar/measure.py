"""How far meshes over time are from the true ones, and how much they tremble."""

from __future__ import annotations

import torch

from trainer.attributes.face_model import lay_on

_MM = 1000.0


def motion_metrics(told: torch.Tensor, true: torch.Tensor, intrinsics: torch.Tensor) -> dict[str, float]:
    """Compare meshes (T, n, 3) of following frames, metres before the camera.

    Parameters
    ----------
    intrinsics : (T, 3, 3)

    Returns
    -------
    dict
        ``vertices_mm``, mean distance; ``laid_mm``, that after the rigid motion that lays each mesh on the true one;
        ``pixels``, that of projections; ``jitter_mm``, mean length of the second difference of the error over time,
        so that true motion is none; ``laid_jitter_mm``, of the error after laying; ``motion``, the told mesh's
        deformation over time beside the true one's, 1 where as much moves and 0 where nothing does.
    """
    counted = torch.ones(true.shape[1], dtype=torch.bool, device=true.device)
    laid, _ = lay_on(told, true, counted)
    error, shape = told - true, laid - true
    pixels = _project(told, intrinsics) - _project(true, intrinsics)
    return {
        "vertices_mm": _MM * float(error.norm(dim=-1).mean()),
        "laid_mm": _MM * float(shape.norm(dim=-1).mean()),
        "pixels": float(pixels.norm(dim=-1).mean()),
        "jitter_mm": _MM * _second_difference(error),
        "laid_jitter_mm": _MM * _second_difference(shape),
        "motion": _deformation(told) / max(_deformation(true), 1e-9),
    }


def _second_difference(values: torch.Tensor) -> float:
    if len(values) < 3:
        return float("nan")
    return float((values[2:] - 2 * values[1:-1] + values[:-2]).norm(dim=-1).mean())


def _deformation(meshes: torch.Tensor) -> float:
    """Return the RMS distance of meshes (T, n, 3) from their mean one, after laying them on it."""
    counted = torch.ones(meshes.shape[1], dtype=torch.bool, device=meshes.device)
    mean = meshes[0]
    for _ in range(2):
        laid, _ = lay_on(meshes, mean, counted)
        mean = laid.mean(0)
    return float((laid - mean).square().sum(-1).mean().sqrt())


def _project(points: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    image = (points / points[..., 2:].clamp(min=1e-3)) @ intrinsics.transpose(1, 2)
    return image[..., :2]
