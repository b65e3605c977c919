"""A DINOv2 transformer whose deeper blocks alternate between attention within a frame and across the clip."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from trainer.model.config import BackboneConfig
from trainer.model.embeddings import Embeddings
from trainer.model.reference import FEWEST_FRAMES, choose_reference, reference_first, reordered
from trainer.model.rotary import Rotation, flat_rotation, index_rotation, relative_rotation
from trainer.model.vit import Block


class Tokens(NamedTuple):
    """What the decoders take, C channels wide (:attr:`BackboneConfig.width`).

    Attributes
    ----------
    patches : four (B·S, N, C)
    camera : (B, S, C)
        The camera tokens (class tokens, if attention never alternates) of the last of the four blocks.
    reference : (B,) int64
        Number of each clip's reference frame.
    """

    patches: list[torch.Tensor]
    camera: torch.Tensor
    reference: torch.Tensor


class ClipBackbone(nn.Module):
    """Turn the frames of clips into tokens at four depths.

    The transformer of Depth Anything 3 (Lin et al., 2025). Up to block ``start`` it is DINOv2 on each frame. From
    there on, a camera token takes the class token's place, one for the reference frame and one for all others;
    queries and keys are normalised and turned by rotary positions; and odd blocks attend across all frames of the
    clip, (B, S·N, D), even ones within each, (B·S, N, D). What goes to the decoders is the last even block's result
    beside the block's own. With three or more frames the reference is chosen by content, so that frames carry no
    order: exchanging them exchanges the outputs. Of two, the first one is the reference.

    Parameters
    ----------
    config : BackboneConfig
    image_size : int
        Pixels a side the learnt positions are laid out for, unless ``config.position_grid`` says it.
    """

    def __init__(self, config: BackboneConfig, image_size: int) -> None:
        super().__init__()
        self.config = config
        self.patch = config.patch
        self.dim = config.dim
        self.outputs = config.taken
        self.across = tuple(k >= config.start and k % 2 == 1 for k in range(config.blocks))
        self.embeddings = Embeddings(config, config.position_grid or max(image_size // config.patch, 1))
        self.blocks = nn.ModuleList(Block(config, normalised=k >= config.start) for k in range(config.blocks))
        self.norm = nn.LayerNorm(config.dim)
        # DINOv2's 0.02 for a width of 625; narrower transformers learn faster from larger weights.
        deviation = config.dim**-0.5 / 2
        self.embeddings.lay_out(deviation)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=deviation)
                nn.init.zeros_(module.bias)
        every = config.checkpoint_every
        self.recompute([every > 0 and k % every == 0 for k in range(config.blocks)])

    def recompute(self, flags: list[bool]) -> None:
        """Say for each block whether the backward pass computes it again (:class:`~trainer.model.vit.Block`)."""
        for block, flag in zip(self.blocks, flags, strict=True):
            block.recomputed = flag  # type: ignore[assignment]

    def forward(self, images: torch.Tensor) -> Tokens:
        """Compute the tokens of images (B, S, 3, H, W), ImageNet-normalised, H and W multiples of the patch."""
        clips, frames, _, height, width = images.shape
        grid = (height // self.patch, width // self.patch)
        tokens = self.embeddings(images.flatten(0, 1)).unflatten(0, (clips, frames))
        within, across = self._rotations(grid, frames, images.device)
        local, undo = tokens, None
        reference = torch.zeros(clips, dtype=torch.int64, device=images.device)
        patches: list[torch.Tensor] = []
        camera = tokens[:, :, 0]
        for number, block in enumerate(self.blocks):
            if number == self.config.start - 1 and frames >= FEWEST_FRAMES:
                reference = choose_reference(tokens[:, :, 0], self.config.reference)
                order, undo = reference_first(reference, frames)
                tokens, local = reordered(tokens, order), reordered(local, order)
            if number == self.config.start:
                tokens = self._with_camera_tokens(tokens)
            if self.across[number]:
                tokens = block(tokens.flatten(1, 2), across).unflatten(1, (frames, -1))
            else:
                turned = number >= self.config.start or self.config.positions == "rotary"
                tokens = block(tokens.flatten(0, 1), within if turned else None).unflatten(0, (clips, frames))
                local = tokens
            if number in self.outputs:
                camera, taken = self._taken(local, tokens, undo)
                patches.append(taken.flatten(0, 1))
        return Tokens(patches, camera, reference)

    @property
    def _alternates(self) -> bool:
        return self.config.start < self.config.blocks

    def _with_camera_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Put camera tokens in the class tokens' place; the reference is the first frame."""
        clips, frames = tokens.shape[:2]
        of_kind = self.embeddings.camera_tokens
        assert of_kind is not None
        camera = torch.cat([of_kind[:, :1], of_kind[:, 1:].expand(-1, frames - 1, -1)], 1)
        return torch.cat([camera.expand(clips, -1, -1)[:, :, None], tokens[:, :, 1:]], 2)

    def _taken(
        self, local: torch.Tensor, tokens: torch.Tensor, undo: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The camera tokens (B, S, C) and the patches' (B, S, N, C), frames in the order they came in."""
        if undo is not None:
            local, tokens = reordered(local, undo), reordered(tokens, undo)
        patches = self.norm(tokens[:, :, self.embeddings.others :])
        if not self._alternates:
            return tokens[:, :, 0], patches
        camera = torch.cat([local[:, :, 0], tokens[:, :, 0]], -1)
        return camera, torch.cat([local[:, :, self.embeddings.others :], patches], -1)

    def _rotations(self, grid: tuple[int, int], frames: int, device: torch.device) -> tuple[Rotation, Rotation]:
        """The rotary positions for attention within a frame and across all frames."""
        others, channels = self.embeddings.others, self.dim // self.config.heads
        angles = relative_rotation if self.config.positions == "rotary" else index_rotation
        within = angles(grid, others, channels, device)
        return within, flat_rotation(grid, others, channels, device).repeat(frames)
