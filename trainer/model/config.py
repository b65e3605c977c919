"""What a configuration says about the network: transformer, decoder, which maps it gives, and what it starts from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from datagen.common.settings import Section

SCALED_BLOCKS = 4  # the decoder reassembles the tokens of four blocks


class BackboneConfig(Section):
    """The vision transformer."""

    dim: int = Field(192, ge=8, description="width of the tokens")
    blocks: int = Field(8, ge=SCALED_BLOCKS, description="transformer blocks")
    heads: int = Field(4, ge=1, description="attention heads; dim / heads is a multiple of 4")
    mlp: Literal["gelu", "swiglu"] = Field("gelu", description="swiglu: gated, two thirds as wide, as in ViT-giant")
    mlp_ratio: int = Field(4, ge=1, description="hidden width of a block over its width")
    patch: int = Field(14, ge=2, description="pixels a side of a token")
    stages: int = Field(
        0,
        ge=0,
        description="channels of the first of four convolutional stages that make the tokens, and whose maps the "
        "decoder takes as well; 0: a linear map of each patch",
    )
    registers: int = Field(0, ge=0, description="register tokens of each frame")
    positions: Literal["learnt", "rotary"] = Field(
        "learnt", description="learnt: an embedding added to the patches, as in DINOv2; rotary: as in DINOv3"
    )
    position_grid: int | None = Field(
        None, ge=1, description="tokens a side of the learnt positions; empty: those of the training resolution"
    )
    alternate_from: int | None = Field(
        None,
        ge=0,
        description="from this block on every odd block attends across the clip; empty: half-way; blocks: never",
    )
    outputs: tuple[int, int, int, int] | None = Field(
        None, description="blocks (from 0) whose tokens the decoder takes; empty: evenly spread, the last included"
    )
    reference: Literal["balanced", "first", "middle"] = Field(
        "balanced", description="the frame others refer to, of three or more; balanced: the most typical one"
    )
    likeness_start: bool = Field(
        False,
        description="queries and keys of attention across the clip begin as one map: like tokens of different frames "
        "attend to each other from the first step",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the transformer; auto: bfloat16 on CUDA, float32 elsewhere. Decoders are float32"
    )
    checkpoint_every: int = Field(
        0, ge=0, description="recompute every n-th block in the backward pass instead of keeping it; 0: none"
    )

    @model_validator(mode="after")
    def _sizes_agree(self) -> BackboneConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.dim // self.heads % 4:
            raise ValueError(f"dim / heads = {self.dim // self.heads} is not a multiple of 4, as rotary positions need")
        if self.outputs is not None and (list(self.outputs) != sorted(set(self.outputs)) or not self.outputs[0] >= 0):
            raise ValueError(f"outputs {self.outputs} must increase and start at 0 or later")
        if self.taken[-1] >= self.blocks:
            raise ValueError(f"outputs names block {self.taken[-1]}, but blocks run from 0 to {self.blocks - 1}")
        return self

    @property
    def taken(self) -> tuple[int, int, int, int]:
        """The four blocks whose tokens the decoder takes."""
        a, b, c, d = (round((k + 1) * self.blocks / SCALED_BLOCKS) - 1 for k in range(SCALED_BLOCKS))
        return self.outputs or (a, b, c, d)

    @property
    def start(self) -> int:
        """The block from which attention alternates; the number of blocks if it never does."""
        return min(self.blocks // 2 if self.alternate_from is None else self.alternate_from, self.blocks)

    @property
    def width(self) -> int:
        """Channels of the tokens the decoder takes: twice the transformer's once attention alternates."""
        return self.dim * (2 if self.start < self.blocks else 1)


class DecoderConfig(Section):
    """The dense prediction decoder."""

    kind: Literal["dpt", "large_kernel"] = Field(
        "dpt", description="how the four maps are fused: dpt (3 × 3 residual units) or large_kernel (gated, 23 pixels)"
    )
    channels: int = Field(64, ge=4, description="channels of the fusion")
    reassemble: tuple[int, int, int, int] = Field(
        (64, 64, 96, 96), description="channels before the fusion, fine to coarse"
    )
    output_channels: int = Field(32, ge=4, description="channels of the last convolutions")
    output_stride: int = Field(
        2, ge=1, le=4, description="maps are computed at 1/stride of the image's size and enlarged bilinearly"
    )
    shared: bool = Field(
        True,
        description="one fusion for all maps; otherwise one each, and canonical coordinates a decoder of their own",
    )
    image_skip: bool = Field(
        True, description="add shallow image features before the last convolutions (not in DPT): sharper outlines"
    )
    norm: Literal["all", "geometry", "none"] = Field(
        "none", description="which decoders normalise the tokens first; geometry: that of depth and rays only"
    )
    positions: Literal["all", "geometry", "none"] = Field(
        "none", description="which decoders add sines and cosines of the position to their maps"
    )
    frames_at_once: int = Field(8, ge=1, description="frames decoded together when no gradient is kept: bounds memory")

    @model_validator(mode="after")
    def _channels_split(self) -> DecoderConfig:
        sizes = (*self.reassemble, self.channels // 2)
        if min(sizes) < 1:
            raise ValueError(f"reassemble needs channels of 1 or more, found {self.reassemble}")
        if self.positions != "none" and any(n % 4 for n in sizes):
            raise ValueError(f"positions need channels that are multiples of 4, found {sizes}")
        return self


class HeadsConfig(Section):
    """Which maps the model gives besides depth, canonical coordinates and surface."""

    ray: bool = Field(False, description="ray map: direction and origin of each pixel's ray, with confidence")
    camera: bool = Field(False, description="pose and field of view of each frame")


class WeightsConfig(Section):
    """What a new run starts from; a resumed run does not read it."""

    source: str | None = Field(
        None, description="file, folder, or hub id (owner/name) of pretrained weights; empty: random"
    )
    layout: Literal["auto", "dinov2", "dinov3", "depth_anything_3", "canonface"] = Field(
        "auto",
        description="their naming scheme; depth_anything_3 includes Face Anything; auto: recognised by the names",
    )
    strict: bool = Field(
        True, description="refuse weights that leave unfilled what they should fill, or that fit nowhere"
    )
