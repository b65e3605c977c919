"""A change of the whole flow from all texels together, begun in closed form: a stage of a cascade of regressors.

Most of what a first guess has wrong is common to the face: where it is, how it is turned, whose it is. The picture's
features where the flow points tell of it, and linearly so (Cao et al., CVPR 2012; Xiong and De la Torre, CVPR 2013).
Gradient descent takes thousands of steps to find what a ridge regression finds at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.align.loss import Truth
from trainer.align.network import WHOLE_MODES, FlowNetwork, WholeHead, sample_uv
from trainer.align.uv_space import UVSpace

_FOLDS = 4
# Of the ridge, over the number of samples times features of unit variance each.
_RIDGES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
_LEAST_STD = 1e-3


@dataclass(frozen=True)
class Stage:
    """Training crops, seen once more.

    Attributes
    ----------
    images : tensor (B, 3, n, n)
    truth : Truth
    people : tensor (B,) int64
        Whose they are.
    """

    images: torch.Tensor
    truth: Truth
    people: torch.Tensor


@torch.no_grad()
def begin_whole(model: FlowNetwork, stages: Sequence[Stage], space: UVSpace) -> float:
    """Set each iteration's head to the ridge regression of what the start, or the head before, leaves.

    The ridge is the one whose errors on other people's pictures are least. What a head leaves of somebody is told by
    one that was fitted without them: of its own people each leaves too little for the next to learn from.

    Returns
    -------
    float
        Share of the start's squared error that is left after all, each step on people whose pictures were not used.
    """
    to_flow = _to_flow(space, model.config.uv)
    people = torch.cat([stage.people for stage in stages])
    now = [model.start(stage.images) for stage in stages]
    left = 1.0
    for head in model.whole:
        assert isinstance(head, WholeHead)
        seen = [model.seen(features, flow) for features, flow in now]
        wanted = []
        for stage, (_, flow) in zip(stages, now, strict=True):
            residual = stage.truth.positions - space.uv - sample_uv(flow, space.uv)
            wanted.append(torch.einsum("tv,bvc->bct", to_flow, residual).flatten(1))
        y = torch.cat(wanted)
        without = _solve(head, torch.cat(seen).flatten(1), y, people)
        left *= float((y - without).square().sum()) / max(float(y.square().sum()), 1e-12)
        parts = torch.split(without, [len(flow) for _, flow in now])
        now = [(features, flow + part.reshape(flow.shape)) for (features, flow), part in zip(now, parts, strict=True)]
    return left


def _solve(head: WholeHead, x: torch.Tensor, y: torch.Tensor, people: torch.Tensor) -> torch.Tensor:
    """Fit y (N, Q) linearly to x (N, P), by way of its main modes; return what is told of rows without their people."""
    mean, std = x.mean(0), x.std(0) + _LEAST_STD
    x = (x - mean) / std
    centre = y.mean(0)
    modes = _main_modes(y - centre, min(WHOLE_MODES, *y.shape))
    target = (y - centre) @ modes
    gram = x @ x.T
    scale = float(gram.diagonal().sum())
    several = int(people.min()) + _FOLDS <= int(people.max()) + 1
    fold = people % _FOLDS if several else torch.arange(len(x), device=x.device) % _FOLDS
    tried = {ridge: _without(gram, target, fold, ridge * scale) for ridge in _RIDGES}
    best = min(tried, key=lambda ridge: float((target - tried[ridge]).square().sum()))
    dual = _dual(gram, target, best * scale)
    weights = (x.T @ dual).T / std
    inner, outer = head.inner, head.outer
    for linear in (inner, outer):
        linear.weight.zero_()
    inner.bias.zero_()
    inner.weight[: len(weights)] = weights
    inner.bias[: len(weights)] = -weights @ mean
    outer.weight[:, : len(weights)] = modes
    outer.bias.copy_(centre)
    return centre + tried[best] @ modes.T


def _without(gram: torch.Tensor, target: torch.Tensor, fold: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return the predictions of each row by a ridge regression fitted to the other folds."""
    found = torch.zeros_like(target)
    for k in range(_FOLDS):
        kept, out = fold != k, fold == k
        if kept.any() and out.any():
            found[out] = gram[out][:, kept] @ _dual(gram[kept][:, kept], target[kept], ridge)
    return found


def _dual(gram: torch.Tensor, target: torch.Tensor, ridge: float) -> torch.Tensor:
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), device=gram.device), target)


def _main_modes(y: torch.Tensor, count: int) -> torch.Tensor:
    """Return the main directions (Q, count) of rows (N, Q), orthonormal."""
    _, vectors = torch.linalg.eigh(y.T @ y)
    return vectors[:, -count:]


def _to_flow(space: UVSpace, size: int) -> torch.Tensor:
    """Return what turns changes of vertices into one of the flow, (D * D, V): weighted least squares, and smooth."""
    D = size
    basis = torch.eye(D * D, device=space.uv.device).reshape(D * D, 1, D, D)
    sampled = sample_uv(basis, space.uv)[..., 0].T  # (V, D * D)
    weighted = sampled.T * space.weights
    normal = weighted @ sampled
    smooth = 1e-3 * normal.diagonal().mean() * (torch.eye(D * D, device=normal.device) + _roughness(D, normal.device))
    return torch.linalg.solve(normal + smooth, weighted)


def _roughness(size: int, device: torch.device) -> torch.Tensor:
    """Return the matrix (D * D, D * D) of the sum of squared differences of neighbouring texels."""
    index = torch.arange(size * size, device=device).reshape(size, size)
    pairs = torch.cat(
        [
            torch.stack([index[:, 1:].flatten(), index[:, :-1].flatten()]),
            torch.stack([index[1:].flatten(), index[:-1].flatten()]),
        ],
        1,
    )
    rows = torch.zeros(pairs.shape[1], size * size, device=device)
    each = torch.arange(pairs.shape[1], device=device)
    rows[each, pairs[0]], rows[each, pairs[1]] = 1.0, -1.0
    return rows.T @ rows
