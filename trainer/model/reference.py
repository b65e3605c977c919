"""The reference frame of a clip: the one whose camera the others refer to."""

from __future__ import annotations

from typing import Literal

import torch

FEWEST_FRAMES = 3  # of two frames, the first one is the reference


def choose_reference(class_tokens: torch.Tensor, how: Literal["balanced", "first", "middle"]) -> torch.Tensor:
    """Choose a frame of each clip.

    ``balanced`` (Depth Anything 3) takes the frame that lies nearest the middle of the clip's range in three respects:
    the mean cosine similarity of its class token to the others', that token's norm, and its variance over channels.
    The choice follows the frames when they are exchanged.

    Parameters
    ----------
    class_tokens : (B, S, D)
    how : str

    Returns
    -------
    (B,) int64
    """
    clips, frames, _ = class_tokens.shape
    if how != "balanced" or frames < FEWEST_FRAMES:
        number = frames // 2 if how == "middle" and frames >= FEWEST_FRAMES else 0
        return torch.full((clips,), number, device=class_tokens.device)
    tokens = class_tokens.float()
    norm = torch.linalg.vector_norm(tokens, dim=-1)
    unit = tokens / norm[..., None]
    similarity = ((unit @ unit.transpose(1, 2)).sum(-1) - 1) / (frames - 1)
    measures = torch.stack([_to_unit_range(x) for x in (similarity, norm, unit.var(-1))])
    return (measures - 0.5).abs().sum(0).argmin(1)


def reference_first(reference: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the order that puts the reference first and keeps the others', and the order that undoes it.

    Parameters
    ----------
    reference : (B,) int64
    frames : int

    Returns
    -------
    order, undo : (B, S) int64
        For :func:`reordered`.
    """
    number = torch.arange(frames, device=reference.device).expand(len(reference), frames)
    chosen = reference[:, None]
    order = torch.where(number == 0, chosen, number - (number <= chosen).long())
    undo = torch.where(number == chosen, 0, number + (number < chosen).long())
    return order, undo


def reordered(tokens: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Take the frames of (B, S, N, D) in the order (B, S)."""
    return tokens.gather(1, order[:, :, None, None].expand_as(tokens))


def _to_unit_range(x: torch.Tensor) -> torch.Tensor:
    low, high = x.aminmax(dim=1, keepdim=True)
    return (x - low) / (high - low + 1e-8)
