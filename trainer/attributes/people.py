"""New people from the pictures of known ones: faces at rest are exchanged, and pictures warped so that they show it.

A few dozen training people are learnt by heart before their pictures have taught what a shape looks like. Here a face
gets other components, drawn as those of the training people are spread, and the picture's pixels move with the face's
seen vertices: what is true of the new picture is known exactly. Shades stay those of the old face.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

# Of the crop's side: pixels move as the vertices within this distance do, and less and less beyond.
_REACH = 0.03
_STILL = 0.01  # weight of what stays where it is, a vertex's own being 1
_MOST_POINTS = 200
_GRID = 40


def drawn_forms(forms: torch.Tensor, seeds: list[int], share: float) -> torch.Tensor:
    """Return components (B, C) of other people, for a share of the pictures; the same seed gives the same person."""
    drawn = []
    for own, seed in zip(forms, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed % 2**63)
        other = torch.rand((), generator=generator) < share
        form = torch.randn(len(own), generator=generator).to(own.device)
        drawn.append(form if other else own)
    return torch.stack(drawn)


def warped(images: torch.Tensor, before: torch.Tensor, after: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Return pictures (B, C, n, n) whose pixels have moved as points did.

    Parameters
    ----------
    before, after : (B, V, 2)
        Places of the points, in sides of the picture.
    seen : (B, V) bool
        Points that count.
    """
    every = -(-before.shape[1] // _MOST_POINTS)
    before, after, seen = before[:, ::every], after[:, ::every], seen[:, ::every]
    size = images.shape[-1]
    # A Gaussian of the distance is one of x times one of y.
    x, y = (torch.exp(-((_centres(_GRID, images) - after[..., k, None]) / _REACH).square() / 2) for k in (0, 1))
    summed = torch.cat([after - before, torch.ones_like(after[..., :1])], -1) * seen[..., None]
    total = torch.einsum("bvr,bvc,bvk->bkrc", y, x, summed)
    field = F.interpolate(total[:, :2] / (total[:, 2:] + _STILL), (size, size), mode="bilinear", align_corners=False)
    row, column = torch.meshgrid(_centres(size, images), _centres(size, images), indexing="ij")
    places = torch.stack([column, row], -1) - field.permute(0, 2, 3, 1)
    return F.grid_sample(images, 2 * places - 1, "bilinear", "border", align_corners=False)


def _centres(size: int, like: torch.Tensor) -> torch.Tensor:
    """Return the centres of pixels (size,) along a side, in sides of the picture."""
    return (torch.arange(size, device=like.device) + 0.5) / size
