"""Configurations of the alignment network."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from datagen.common.settings import Section
from trainer.config import DataConfig, FitConfig, RunConfig


class SegformerSize(NamedTuple):
    """Blocks and widths of a SegFormer, table 6 of its paper."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    decoder: int


_WIDE, _HEADS = (64, 128, 320, 512), (1, 2, 5, 8)
SEGFORMERS = {
    "b0": SegformerSize((2, 2, 2, 2), (32, 64, 160, 256), _HEADS, 256),
    "b1": SegformerSize((2, 2, 2, 2), _WIDE, _HEADS, 256),
    "b2": SegformerSize((3, 4, 6, 3), _WIDE, _HEADS, 768),
    "b5": SegformerSize((3, 6, 40, 3), _WIDE, _HEADS, 768),
}


class AlignNetworkConfig(Section):
    """The network."""

    kind: Literal["flow", "regression"] = Field(
        "flow",
        description="flow: UV to image flow, refined; regression: positions of all vertices at once, to compare with",
    )
    encoder: Literal["convolutional", "segformer"] = Field("convolutional", description="what sees the picture")
    segformer: Literal["b0", "b1", "b2", "b5"] = Field("b5", description="its size, if it is a SegFormer")
    weights: str | None = Field(
        None, description="folder or hub id of SegFormer weights to start from (nvidia/mit-b5); empty: at random"
    )
    width: int = Field(16, ge=4, multiple_of=4, description="of the convolutional encoder's first stage")
    image_size: int = Field(96, ge=32, multiple_of=16, description="pixels a side of the crop that is seen")
    channels: int = Field(64, ge=8, description="of the features")
    features: int = Field(24, ge=4, description="pixels a side of their map")
    uv: int = Field(16, ge=8, description="texels a side of flow and uncertainty, D")
    levels: int = Field(3, ge=1, le=6, description="of the correlations' pyramid")
    radius: int = Field(2, ge=1, le=8, description="pixels of a level that are looked up to either side")
    hidden: int = Field(32, ge=8, description="channels of hidden state and context")
    iterations: int = Field(3, ge=1, le=32, description="of the update")
    start: Literal["regression", "mean"] = Field(
        "regression",
        description="the first flow: regression, from the deepest features; mean, of the training set",
    )
    seen: bool = Field(
        True, description="the update also sees the features where the flow points, not only their correlations"
    )
    whole: bool = Field(
        True, description="all texels together also change the flow, by a regression fitted after coarse_steps"
    )

    @property
    def segformer_size(self) -> SegformerSize:
        """Blocks and widths of the SegFormer."""
        return SEGFORMERS[self.segformer]

    @model_validator(mode="after")
    def _weights_have_a_place(self) -> AlignNetworkConfig:
        if self.weights is not None and self.encoder != "segformer":
            raise ValueError("weights are those of a SegFormer: set encoder to segformer, or leave weights empty")
        return self


class AlignLossConfig(Section):
    """What the network is asked for."""

    decay: float = Field(0.8, gt=0, le=1, description="weight of an iteration over that of the next, α of equation 7")
    dense: float = Field(0.01, ge=0, description="weight of the dense term, λ of equation 7")
    face: float = Field(1.0, gt=0, description="weight λ of the face's vertices")
    ears: float = Field(0.3, ge=0, description="of the ears'; 0 leaves them out of UV space")
    scalp: float = Field(0.3, ge=0, description="of the scalp's, alike")


class AlignAugmentConfig(Section):
    """Changes of training pictures; 0 turns one off."""

    photometric: float = Field(1.0, ge=0, le=2, description="strength of changes of colour, contrast, blur and noise")
    background: float = Field(0.5, ge=0, le=1, description="share of pictures that get another background")
    occlusion: float = Field(0.3, ge=0, le=1, description="share of pictures with an object in front of the head")
    rotation_deg: float = Field(15.0, ge=0, le=180, description="largest turn of the crop")
    scale: float = Field(0.12, ge=0, le=0.5, description="largest change of the crop's side, as a share of it")
    shift: float = Field(0.06, ge=0, le=0.5, description="largest shift of the crop either way, as a share of its side")
    mirror: bool = Field(True, description="mirror half of the pictures, where the template is symmetric")


class AlignDataConfig(DataConfig):
    """What a batch is made of: pictures, each by itself."""

    clip_lengths: tuple[Literal[1]] = Field((1,), description="pictures are aligned one by one")
    frames_per_batch: int = Field(8, ge=1, description="pictures of a batch, of all ranks together")


class AlignConfig(RunConfig):
    """One run of `trainer align fit`."""

    schema_command: ClassVar[str] = "trainer align schema"
    data: AlignDataConfig = AlignDataConfig()
    network: AlignNetworkConfig = AlignNetworkConfig()
    coarse_steps: int = Field(
        0, ge=0, description="first steps, in which only the coarse start is learnt: each is several times faster"
    )
    whole_samples: int = Field(
        2000, ge=64, description="training crops, drawn after coarse_steps, that the whole-flow regression is fitted to"
    )
    augment: AlignAugmentConfig = AlignAugmentConfig()
    loss: AlignLossConfig = AlignLossConfig()
    fit: FitConfig

    @model_validator(mode="after")
    def _steps_agree(self) -> AlignConfig:
        if self.coarse_steps and (self.network.kind, self.network.start) != ("flow", "regression"):
            raise ValueError("coarse_steps needs a flow network that starts from a regression")
        for section, keys in (
            (self.data, ("view_ratio", "stride", "jitter")),
            (self.fit, ("backbone_rate", "layer_decay")),
        ):
            idle = [key for key in keys if getattr(section, key) != type(section).model_fields[key].default]
            if idle:
                raise ValueError(f"{', '.join(idle)} change nothing here: pictures are single, and there are no blocks")
        if self.network.kind == "flow" and self.network.whole and not self.coarse_steps:
            raise ValueError("network.whole is fitted after coarse_steps: set these, or network.whole to false")
        return self
