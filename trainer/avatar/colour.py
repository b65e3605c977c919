"""From the colours of one camera to those of another: a 3 × 3 matrix of linear light, fitted in closed form."""

from __future__ import annotations

import torch

_ROUNDS = 5
_LEAST = 1e-3
# Standard deviation, before anything is seen, of what a channel takes from another; and how many of a face's texels err
# each by itself: light and misplaced skin are wrong over wide areas.
_PRIOR, _INDEPENDENT = 0.15, 50


@torch.no_grad()
def fit_colour(source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the matrix C (3, 3) with target ≈ C · source, of colours (..., 3) that count as weights (...) say.

    Weighted least squares, a few times over: colours that are far off (a lid, a highlight) count less each time. A
    ridge, the larger the worse colours fit, keeps C near one gain for each channel where they do not tell: those of a
    face nearly lie on a line.
    """
    x, y, w = source.reshape(-1, 3).double(), target.reshape(-1, 3).double(), weights.reshape(-1).double()
    level = (w[:, None] * x).sum() / w.sum().clamp(min=1e-12)
    gains = fit_gains(x, y, w)
    robust, C = w, gains
    for _ in range(_ROUNDS):
        distance = (y - x @ C.T).norm(dim=-1)
        scale = (w * distance).sum() / w.sum().clamp(min=1e-12)
        robust = w / (1 + (distance / scale.clamp(min=_LEAST * level)).square())
        ridge = (robust * distance.square()).sum() / 3 / (_INDEPENDENT * _PRIOR**2)
        weighted = robust[:, None] * x
        ridges = (ridge + 1e-9 * w.sum() * level.square()) * torch.eye(3, dtype=x.dtype, device=x.device)
        C = torch.linalg.solve(weighted.T @ x + ridges, weighted.T @ y + ridges @ gains).T
    return C.to(source.dtype)


@torch.no_grad()
def fit_gains(source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the diagonal matrix (3, 3), one gain a channel, that suits colours (..., 3) best (least squares)."""
    w = weights.reshape(-1, 1)
    x, y = source.reshape(-1, 3), target.reshape(-1, 3)
    return torch.diag((w * x * y).sum(0) / (w * x * x).sum(0).clamp(min=1e-12))


def corrected(colours: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return colours (..., 3) as the other camera would show them."""
    return colours @ matrix.T


def colour_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far two matrices (3, 3) differ, of each one's size: brightness does not count (Frobenius)."""
    return float((one / one.norm() - other / other.norm()).norm())
