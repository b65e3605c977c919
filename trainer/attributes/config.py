"""Configurations of the parameter head."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from datagen.common.settings import Section
from trainer.align.config import SEGFORMERS, AlignAugmentConfig, SegformerSize
from trainer.config import DataConfig, FitConfig, RunConfig
from trainer.model.config import BackboneConfig


class AttributesNetworkConfig(Section):
    """The network."""

    encoder: Literal["convolutional", "segformer", "transformer"] = Field(
        "convolutional", description="what sees the picture; transformer: that of the joint model, as in backbone"
    )
    width: int = Field(16, ge=4, multiple_of=4, description="of the convolutional encoder's first stage")
    segformer: Literal["b0", "b1", "b2", "b5"] = Field("b2", description="its size, if it is a SegFormer")
    weights: str | None = Field(
        None,
        description="what the encoder starts from: SegFormer weights (folder, hub id), or a run of `trainer fit` of a "
        "transformer; empty: at random",
    )
    image_size: int = Field(112, ge=32, description="pixels a side of the crop that is seen")
    fusion: Literal["large_kernel", "dpt"] = Field(
        "large_kernel", description="of the four scales: large_kernel (gated, 23 pixels) or dpt (3 × 3 residual units)"
    )
    channels: int = Field(32, ge=8, multiple_of=4, description="of the fusion")
    finest: int = Field(14, ge=4, description="pixels a side of the finest map that is fused, at most")
    grid: int = Field(7, ge=2, description="places a side that tokens look at")
    hidden: int = Field(192, ge=16, description="of the heads")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what the heads see, while learning")
    form: int = Field(
        16, ge=1, description="components of how faces at rest differ, learnt from the training people: fewer than them"
    )
    albedo: int = Field(
        8, ge=0, description="components of the skin's colour, learnt from the training people; 0: none"
    )

    @property
    def segformer_size(self) -> SegformerSize:
        """Blocks and widths of the SegFormer."""
        return SEGFORMERS[self.segformer]

    @model_validator(mode="after")
    def _weights_have_a_place(self) -> AttributesNetworkConfig:
        if self.weights is not None and self.encoder == "convolutional":
            raise ValueError("weights are those of a SegFormer or a transformer: set encoder, or leave weights empty")
        return self


class AttributesLossConfig(Section):
    """Weights of the loss terms; one of weight 0 is not computed."""

    vertices: float = Field(1.0, ge=0, description="of the face's vertices in its own axes")
    parameters: float = Field(0.1, ge=0, description="of the likelihood of form, expression, rotation, translation")
    landmarks: float = Field(1.0, ge=0, description="of the projection of the 68 landmarks")
    points: float = Field(1.0, ge=0, description="of the face's vertices in the picture, told by themselves")
    light: float = Field(0.05, ge=0, description="of the likelihood of light and albedo, which are told from pictures")
    colours: float = Field(0.1, ge=0, description="of the projection of colours at visible vertices")
    visibility: float = Field(0.1, ge=0, description="of which vertices are seen")
    prior: float = Field(0.003, ge=0, description="of form and expression keeping near the training people's mean")
    agreement: float = Field(0.03, ge=0, description="of one form and albedo in all pictures of a clip")
    anchor: float = Field(
        0.0,
        ge=0,
        description="of shapes staying as the network that the run starts from had them, where it starts from one",
    )


class AttributesAugmentConfig(AlignAugmentConfig):
    """Changes of training pictures; 0 turns one off."""

    people: float = Field(1.0, ge=0, le=1, description="share of clips in which the face is made another person's")
    camera: float = Field(0.1, ge=0, le=1, description="share of pictures of which the network is told no focal length")


class AttributesDataConfig(DataConfig):
    """What a batch is made of: several pictures of each person."""

    clip_lengths: tuple[int, ...] = Field((2,), description="pictures of a person that should agree")
    frames_per_batch: int = Field(16, ge=1, description="pictures of a batch, of all ranks together")
    view_ratio: float = Field(1.0, ge=0, le=1, description="share of clips of several cameras at one instant")


class AttributesConfig(RunConfig):
    """One run of `trainer attributes fit`."""

    schema_command: ClassVar[str] = "trainer attributes schema"
    data: AttributesDataConfig = AttributesDataConfig()
    network: AttributesNetworkConfig = AttributesNetworkConfig()
    backbone: BackboneConfig = BackboneConfig()
    start: str | None = Field(
        None,
        description="a run of `trainer attributes fit` or its checkpoint, to go on from with other data or terms: its "
        "network, face model and all",
    )
    points_steps: int = Field(
        0, ge=0, description="first steps, in which only the points are learnt: each takes half of the time"
    )
    augment: AttributesAugmentConfig = AttributesAugmentConfig()
    loss: AttributesLossConfig = AttributesLossConfig()
    fit: FitConfig

    @model_validator(mode="after")
    def _something_is_asked(self) -> AttributesConfig:
        if not any(self.loss.model_dump().values()):
            raise ValueError("all weights of the loss are 0: set one at least")
        if self.points_steps and not self.loss.points:
            raise ValueError("points_steps learns by loss.points alone: set that, or points_steps to 0")
        if self.points_steps >= self.fit.steps:
            raise ValueError(
                f"points_steps {self.points_steps} leaves none of the {self.fit.steps} steps for the heads"
            )
        if self.loss.anchor and self.start is None:
            raise ValueError("loss.anchor keeps to the network that the run starts from: set start, or anchor to 0")
        return self

    @model_validator(mode="after")
    def _all_is_used(self) -> AttributesConfig:
        idle = [key for key in ("backbone_rate", "layer_decay") if getattr(self.fit, key) != 1]
        if idle:
            raise ValueError(f"fit.{', fit.'.join(idle)} change nothing here: one rate is for all of the network")
        if self.network.encoder != "transformer" and self.backbone != BackboneConfig():
            raise ValueError("backbone is that of a transformer: set network.encoder to transformer, or leave it out")
        patch, side = self.backbone.patch, self.network.image_size
        if self.network.encoder == "transformer" and side % patch:
            raise ValueError(f"network.image_size {side} is not a multiple of backbone.patch {patch}")
        return self
