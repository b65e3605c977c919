"""The transformer: DINOv2's blocks, whose deeper ones alternate between attention within a frame and across the clip.

After Su et al., "RoFormer" (2021), in two dimensions. Two forms are in use. *Index* (Depth Anything 3, CroCo): the
first half of a head's channels turns with the row, the second with the column, counted in patches from 1; tokens that
are not patches are at 0. *Relative* (DINOv3): rows and columns from −1 to 1 over the image; tokens that are not
patches do not turn.

Oquab et al., "DINOv2" (TMLR 2024). Modules carry the names of its published weights wherever they hold any.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from torch.utils.checkpoint import checkpoint

from trainer.model.config import BackboneConfig
from trainer.model.stages import ConvolutionalStages, resized

_BASE = 100.0


class Rotation(NamedTuple):
    """Cosines and sines (N, C) of the angles of N tokens, for heads of C channels.

    A head's channels fall into ``parts`` equal parts; in each, channel i of the first half turns with channel i of the
    second.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    parts: int

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Turn (B, heads, N, C)."""
        first, second = x.reshape(*x.shape[:-1], self.parts, 2, -1).unbind(-2)
        turned = torch.stack([-second, first], -2).flatten(-3)
        return x * self.cos.to(x.dtype) + turned * self.sin.to(x.dtype)

    def repeat(self, frames: int) -> Rotation:
        """The same for the tokens of several frames in a row."""
        return Rotation(self.cos.repeat(frames, 1), self.sin.repeat(frames, 1), self.parts)


def index_rotation(grid: tuple[int, int], others: int, channels: int, device: torch.device) -> Rotation:
    """Angles within a frame: ``others`` tokens at (0, 0), then patches at (1, 1), (1, 2), ... in rows."""
    rows = torch.arange(1, grid[0] + 1, device=device).repeat_interleave(grid[1])
    columns = torch.arange(1, grid[1] + 1, device=device).repeat(grid[0])
    return _index_angles(torch.stack([rows, columns], -1), others, channels)


def flat_rotation(grid: tuple[int, int], others: int, channels: int, device: torch.device) -> Rotation:
    """Angles across frames: every patch at (1, 1). They tell patches from other tokens and nothing else."""
    return _index_angles(torch.ones(grid[0] * grid[1], 2, device=device), others, channels)


def relative_rotation(grid: tuple[int, int], others: int, channels: int, device: torch.device) -> Rotation:
    """Angles within a frame as DINOv3 has them."""
    sides = [2 * (torch.arange(n, device=device) + 0.5) / n - 1 for n in grid]
    places = torch.cartesian_prod(*sides)
    frequencies = _BASE ** -torch.arange(0, 1, 4 / channels, device=device)
    angles = (2 * math.pi * places[:, :, None] * frequencies).flatten(1).repeat(1, 2)
    return _with_others(angles, others, 1)


def _index_angles(places: torch.Tensor, others: int, channels: int) -> Rotation:
    quarter = channels // 4
    frequencies = _BASE ** -(torch.arange(quarter, device=places.device) / quarter)
    angles = (places.float()[:, :, None] * frequencies).repeat(1, 1, 2).flatten(1)
    return _with_others(angles, others, 2)


def _with_others(angles: torch.Tensor, others: int, parts: int) -> Rotation:
    angles = torch.cat([angles.new_zeros(others, angles.shape[1]), angles])
    return Rotation(angles.cos(), angles.sin(), parts)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int, *, normalised: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if normalised else None
        self.k_norm = nn.LayerNorm(dim // heads) if normalised else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
        """Map (B, N, D) to (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotation.apply(q), rotation.apply(k)
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    """A gated map (Shazeer, "GLU variants improve transformer", 2020); ViT-giant has it."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        # Two thirds, up to a multiple of 8: as many weights as the two maps of an ordinary block.
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) to (B, N, D)."""
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """One learnt factor for each channel of a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (..., D)."""
        return x * self.gamma


class Block(nn.Module):
    """Attention and a two-layer map, each normalised first and added to its input.

    ``recomputed`` trades time for memory: what the block computes is not kept for the backward pass but computed again.
    """

    def __init__(self, config: BackboneConfig, *, normalised: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = Attention(config.dim, config.heads, normalised=normalised)
        self.ls1 = LayerScale(config.dim)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        hidden = config.dim * config.mlp_ratio
        self.mlp = SwiGlu(config.dim, hidden) if config.mlp == "swiglu" else Mlp(config.dim, hidden)
        self.ls2 = LayerScale(config.dim)
        self.recomputed = False

    def forward(self, x: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
        """Map the tokens (B, N, D) to (B, N, D)."""
        if self.recomputed and torch.is_grad_enabled():
            kept: torch.Tensor = checkpoint(self._compute, x, rotation, use_reentrant=False)
            return kept
        return self._compute(x, rotation)

    def _compute(self, x: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Embeddings(nn.Module):
    """Turn frames into tokens: class token, registers, patches in rows.

    Parameters
    ----------
    grid : int
        Tokens a side of the learnt positions; other sizes interpolate them.
    features : int
        Channels of maps that already have a pixel for each patch; 0: images.
    """

    def __init__(self, config: BackboneConfig, grid: int, features: int = 0) -> None:
        super().__init__()
        self.grid = grid
        self.others = 1 + config.registers
        self.patch = nn.Conv2d(features, config.dim, 1) if features else nn.Conv2d(3, config.dim, *(config.patch,) * 2)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.registers = nn.Parameter(torch.zeros(1, config.registers, config.dim)) if config.registers else None
        # Of the reference frame and of the others; they take the class tokens' place where attention alternates.
        alternates = config.start < config.blocks
        self.camera_tokens = nn.Parameter(torch.zeros(1, 2, config.dim)) if alternates else None
        learnt = config.positions == "learnt"
        self.positions = nn.Parameter(torch.zeros(1, 1 + grid**2, config.dim)) if learnt else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W), or features (B, C, H / patch, W / patch), to (B, 1 + registers + N, D), float32."""
        patches = self.patch(images).float()
        size = (patches.shape[-2], patches.shape[-1])
        patches = patches.flatten(2).transpose(1, 2)
        first = self.class_token.expand(images.shape[0], -1, -1)
        if self.positions is not None:
            place = self.positions_for(size)
            first, patches = first + place[:, :1], patches + place[:, 1:]
        if self.registers is not None:
            first = torch.cat([first, self.registers.expand(images.shape[0], -1, -1)], 1)
        return torch.cat([first, patches], 1)

    def positions_for(self, size: tuple[int, int]) -> torch.Tensor:
        """Return the learnt positions, class token's first, for a grid of other size: (1, 1 + h·w, D).

        Bicubic. DINOv2 has two ways and its weights want the one they were trained with: those with registers
        antialiased to the exact size; those without by a scale factor with 0.1 of a token added, which shifts samples
        a little.
        """
        assert self.positions is not None
        if size == (self.grid, self.grid):
            return self.positions
        return resize_positions(self.positions, self.grid, size, antialias=self.registers is not None)

    def lay_out(self, deviation: float) -> None:
        """Initialise all weights: noise, and positions from two-dimensional sines and cosines, as MAE does.

        DINOv2's own initial positions, noise of 0.02, say next to nothing beside the patches: fine over its long
        pretraining, but a short run from scratch has to learn where things are first.
        """
        for weight in (self.patch.weight, self.class_token, self.registers, self.positions):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=deviation)
        if self.camera_tokens is not None:
            # They enter half-way, beside tokens that have grown to about one, and start at that size.
            nn.init.normal_(self.camera_tokens)
        if self.patch.bias is not None:
            nn.init.zeros_(self.patch.bias)
        if self.positions is not None:
            _lay_out_positions(self.positions, self.grid)


def resize_positions(positions: torch.Tensor, grid: int, size: tuple[int, int], *, antialias: bool) -> torch.Tensor:
    """Interpolate positions (1, 1 + grid², D) to (1, 1 + h·w, D); see :meth:`Embeddings.positions_for`."""
    first, patches = positions[:, :1].float(), positions[:, 1:].float()
    square = patches.reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    if antialias:
        resized = F.interpolate(square, size, mode="bicubic", antialias=True)
    else:
        scale = ((size[0] + 0.1) / grid, (size[1] + 0.1) / grid)
        resized = F.interpolate(square, scale_factor=scale, mode="bicubic")
    return torch.cat([first, resized.flatten(2).transpose(1, 2)], 1)


def _lay_out_positions(positions: torch.Tensor, side: int) -> None:
    quarter = positions.shape[-1] // 4
    place = (torch.arange(side) + 0.5) / side
    frequencies = torch.pi * 2.0 ** torch.linspace(0, 4, quarter)
    waves = place[:, None] * frequencies
    axis = torch.cat([waves.sin(), waves.cos()], -1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    with torch.no_grad():
        positions[0, 1:, : 4 * quarter] = torch.cat([rows, columns], -1).reshape(side * side, -1)


FEWEST_FRAMES = 3  # of two frames, the first one is the reference


def choose_reference(class_tokens: torch.Tensor, how: Literal["balanced", "first", "middle"]) -> torch.Tensor:
    """Choose a frame of each clip.

    ``balanced`` (Depth Anything 3) takes the frame that lies nearest the middle of the clip's range in three respects:
    the mean cosine similarity of its class token to the others', that token's norm, and its variance over channels.
    The choice follows the frames when they are exchanged.

    Parameters
    ----------
    class_tokens : (B, S, D)

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


class Tokens(NamedTuple):
    """What the decoders take, C channels wide (:attr:`BackboneConfig.width`).

    Attributes
    ----------
    patches : four (B·S, N, C)
    camera : (B, S, C)
        The camera tokens (class tokens, if attention never alternates) of the last of the four blocks.
    reference : (B,) int64
        Number of each clip's reference frame.
    stages : four (B·S, C, h, w), or none
        Maps of the convolutional stages, fine to coarse.
    """

    patches: list[torch.Tensor]
    camera: torch.Tensor
    reference: torch.Tensor
    stages: list[torch.Tensor]


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
        self.stages = ConvolutionalStages(config.stages) if config.stages else None
        self.stage_widths = () if self.stages is None else self.stages.widths
        grid = config.position_grid or max(image_size // config.patch, 1)
        self.embeddings = Embeddings(config, grid, self.stage_widths[-1] if self.stage_widths else 0)
        self.blocks = nn.ModuleList(Block(config, normalised=k >= config.start) for k in range(config.blocks))
        self.norm = nn.LayerNorm(config.dim)
        # DINOv2's 0.02 for a width of 625; narrower transformers learn faster from larger weights.
        deviation = config.dim**-0.5 / 2
        self.embeddings.lay_out(deviation)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=deviation)
                nn.init.zeros_(module.bias)
        if config.likeness_start:
            self._begin_with_likeness()
        every = config.checkpoint_every
        self.recompute([every > 0 and k % every == 0 for k in range(config.blocks)])

    def recompute(self, flags: list[bool]) -> None:
        """Say for each block whether the backward pass computes it again (:class:`~trainer.model.backbone.Block`)."""
        for block, flag in zip(self.blocks, flags, strict=True):
            block.recomputed = flag  # type: ignore[assignment]

    def forward(self, images: torch.Tensor) -> Tokens:
        """Compute the tokens of images (B, S, 3, H, W), ImageNet-normalised, H and W multiples of the patch."""
        clips, frames, _, height, width = images.shape
        grid = (height // self.patch, width // self.patch)
        pictures, stages = images.flatten(0, 1), []
        if self.stages is not None:
            stages = self.stages.maps(pictures.contiguous(memory_format=torch.channels_last))
            pictures = resized(stages[-1], grid)
        tokens = self.embeddings(pictures).unflatten(0, (clips, frames))
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
        return Tokens(patches, camera, reference, stages)

    @torch.no_grad()
    def _begin_with_likeness(self) -> None:
        """Give keys the weights of queries where attention goes across the clip.

        Two random maps make attention nearly even over all frames, and an even mean says the same of one frame as of
        four: nothing tells the network early that other frames are of use. One map for both makes it a match.
        """
        for block, across in zip(self.blocks, self.across, strict=True):
            if across:
                attention = block.attn
                assert isinstance(attention, Attention)
                attention.qkv.weight[self.dim : 2 * self.dim] = attention.qkv.weight[: self.dim]

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
