"""Configurations of an avatar: its network, what it is asked for, and its adaptation to a clip."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from datagen.common.settings import Section
from trainer.align.config import AlignAugmentConfig
from trainer.config import DataConfig, FitConfig, RunConfig


class AvatarNetworkConfig(Section):
    """The appearance model, and the network that drives it."""

    state: int = Field(32, ge=2, description="numbers of the latent state")
    texture: int = Field(64, ge=16, description="texels a side of the texture")
    components: int = Field(48, ge=1, description="principal shapes that a mesh is made of, at most")
    image_size: int = Field(112, ge=32, multiple_of=16, description="pixels a side of the crop that is seen")
    width: int = Field(16, ge=4, multiple_of=4, description="of the first of four convolutional stages")
    hidden: int = Field(192, ge=16, description="numbers of hidden layers")


class AvatarLossConfig(Section):
    """Weights of the loss terms; one of weight 0 is not computed."""

    mesh: float = Field(1.0, ge=0, description="of the mesh that the appearance model gives back")
    texture: float = Field(0.3, ge=0, description="of the texture that it gives back")
    divergence: float = Field(0.003, ge=0, description="of its states from a standard normal distribution")
    state: float = Field(0.3, ge=0, description="of the state that a picture tells, from that of its mesh and texture")
    vertices: float = Field(1.0, ge=0, description="of the mesh that a picture tells, in the face's axes")
    appearance: float = Field(0.1, ge=0, description="of the texture that a picture tells")
    positions: float = Field(1.0, ge=0, description="of the vertices' places in the picture")
    pose: float = Field(0.3, ge=0, description="of rotation and distance")
    agreement: float = Field(0.03, ge=0, description="of one state in all cameras of an instant")


class AvatarAugmentConfig(AlignAugmentConfig):
    """Changes of training pictures; 0 turns one off."""

    mirror: Literal[False] = Field(False, description="a mirrored person is another one")
    relight: float = Field(0.7, ge=0, le=1, description="share of pictures that get the shading of another lamp")


class AvatarDataConfig(DataConfig):
    """What a batch is made of: pictures of several cameras at an instant."""

    clip_lengths: tuple[int, ...] = Field((2,), description="cameras of an instant that should agree")
    frames_per_batch: int = Field(16, ge=1, description="pictures of a batch, of all ranks together")
    view_ratio: float = Field(1.0, ge=0, le=1, description="share of clips of several cameras at one instant")


class AvatarConfig(RunConfig):
    """One run of `trainer avatar fit`."""

    schema_command: ClassVar[str] = "trainer avatar schema"
    data: AvatarDataConfig = AvatarDataConfig()
    network: AvatarNetworkConfig = AvatarNetworkConfig()
    augment: AvatarAugmentConfig = AvatarAugmentConfig()
    loss: AvatarLossConfig = AvatarLossConfig()
    fit: FitConfig

    @model_validator(mode="after")
    def _all_is_used(self) -> AvatarConfig:
        keys = ("backbone_rate", "layer_decay", "compile", "sharding", "val_every", "val_samples")
        idle = [key for key in keys if getattr(self.fit, key) != FitConfig.model_fields[key].default]
        if idle:
            raise ValueError(
                f"fit.{', fit.'.join(idle)} change nothing here: one rate is for all, and nobody is held out"
            )
        learnt = ("vertices", "positions")
        if not (self.loss.mesh and self.loss.texture and all(getattr(self.loss, name) for name in learnt)):
            raise ValueError("mesh, texture, vertices and positions of the loss are what an avatar is: none may be 0")
        return self


class AdaptConfig(Section):
    """One adaptation of an avatar to a clip without labels."""

    schema_command: ClassVar[str] = "trainer avatar schema --adapt"
    steps: int = Field(150, ge=1, description="optimiser steps")
    learning_rate: float = Field(7e-4, gt=0, description="of Adam; a cosine takes it to a twentieth")
    coarsest: int = Field(
        8, ge=1, description="pixels of the crop's side that are averaged at first; halved until 1 at half of the steps"
    )
    pairs: int = Field(8, ge=1, description="pairs of frames of a step")
    gap: int = Field(3, ge=1, description="frames between the two of a pair, at most")
    consistency: float = Field(3.0, ge=0, description="weight of: textures of two near frames agree")
    appearance: float = Field(0.5, ge=0, description="weight of: textures agree with what the state stands for")
    detail: float = Field(
        0.5, ge=0, description="weight of: so does their fine detail, whatever changes slowly over the skin"
    )
    studio: float = Field(1.0, ge=0, description="weight of a batch of the studio, with its labels, in each step")
    studio_pictures: int = Field(8, ge=2, description="pictures of that batch")
    anchor: float = Field(1e-3, ge=0, description="weight of how far the network's weights have moved")
    studio_rise: float = Field(
        3.0,
        gt=1,
        description="where the studio error is more than this many times what it was, the last weights with which it "
        "was not are taken again at half the rate; the fourth time is the end",
    )
    check_every: int = Field(25, ge=1, description="steps between two looks at the studio error, and colour fits")
    check_pictures: int = Field(64, ge=2, description="studio pictures that are looked at, evenly spread")
    threads: int = Field(0, ge=0, description="of the processor; 0: as many as torch takes")
    seed: int = Field(0, ge=0, lt=2**63, description="of which frames make pairs")

    @model_validator(mode="after")
    def _something_is_asked(self) -> AdaptConfig:
        if not (self.consistency or self.appearance or self.detail):
            raise ValueError("consistency, appearance and detail are all 0: nothing is learnt from the clip")
        return self
