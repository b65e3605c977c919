"""From the colours of one camera to those of another: a 3 × 3 matrix of linear light, fitted in closed form."""

from __future__ import annotations

import torch

_ROUNDS = 3
_RIDGE = 1e-4
_LEAST = 1e-3


@torch.no_grad()
def fit_colour(source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the matrix C (3, 3) with target ≈ C · source, of colours (..., 3) that count as weights (...) say.

    Weighted least squares, a few times over: colours that are far off (a lid, a highlight) count less each time. A
    ridge keeps C near the multiple of the identity that suits brightness, where colours do not tell.
    """
    x, y, w = source.reshape(-1, 3).double(), target.reshape(-1, 3).double(), weights.reshape(-1).double()
    level = (w[:, None] * x).sum() / w.sum().clamp(min=1e-12)
    gain = (w[:, None] * y).sum() / (w[:, None] * x).sum().clamp(min=1e-12)
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    ridge = _RIDGE * w.sum() * level.square() * eye
    robust, C = w, gain * eye
    for _ in range(_ROUNDS):
        weighted = robust[:, None] * x
        C = torch.linalg.solve(weighted.T @ x + ridge, weighted.T @ y + ridge * gain).T
        distance = (y - x @ C.T).norm(dim=-1)
        scale = (w * distance).sum() / w.sum().clamp(min=1e-12)
        robust = w / (1 + (distance / scale.clamp(min=_LEAST * level)).square())
    return C.to(source.dtype)


def corrected(colours: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return colours (..., 3) as the other camera would show them."""
    return colours @ matrix.T


def colour_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far two matrices (3, 3) differ, of each one's size: brightness does not count (Frobenius)."""
    return float((one / one.norm() - other / other.norm()).norm())
