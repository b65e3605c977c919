"""Four maps of a picture, fine to coarse, of any encoder there is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from datagen.common.errors import CheckpointError
from trainer.align.encoder import load_segformer
from trainer.attributes.config import AttributesConfig
from trainer.model.backbone import ClipBackbone
from trainer.model.config import DecoderConfig
from trainer.model.decoder import Geometry, Reassembly
from trainer.model.stages import ConvolutionalStages
from trainer.run.checkpoint import read_checkpoint

_PREFIX = "backbone."


class Scales(nn.Module, ABC):
    """An encoder, and what brings its four maps to the fusion's channels."""

    def load(self, source: str) -> None:
        """Take weights that were learnt elsewhere.

        Raises
        ------
        CheckpointError
            If they do not fit, or there are none of such an encoder.
        """
        raise CheckpointError(
            f"network.weights={source} is of no {type(self).__name__}",
            "an encoder of which there are weights: segformer or transformer",
            "Set network.encoder, or leave network.weights empty",
        )

    @abstractmethod
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return four maps (B, channels, h, w), fine to coarse, of (B, 3, H, W) normalised pictures."""


class StagedScales(Scales):
    """The stages of an encoder that halves the picture time and again; :meth:`stage_maps` is the encoder's own."""

    def __init__(self, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)

    @abstractmethod
    def stage_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the encoder's maps, each with its own channels."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Bring each stage to the fusion's channels."""
        return [lateral(x) for lateral, x in zip(self.laterals, self.stage_maps(images), strict=True)]


class ConvolutionalScales(StagedScales):
    """A few convolutions, for one CPU core."""

    def __init__(self, config: AttributesConfig) -> None:
        encoder = ConvolutionalStages(config.network.width)
        super().__init__(encoder.widths, config.network.channels)
        self.encoder = encoder

    def stage_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the four stages."""
        return self.encoder.maps(images)


class SegformerScales(StagedScales):
    """SegFormer (Xie et al., NeurIPS 2021)."""

    def __init__(self, config: AttributesConfig) -> None:
        from transformers import SegformerConfig, SegformerModel

        size = config.network.segformer_size
        super().__init__(size.widths, config.network.channels)
        self.encoder = SegformerModel(
            SegformerConfig(
                depths=list(size.depths), hidden_sizes=list(size.widths), num_attention_heads=list(size.heads)
            )
        )

    def load(self, source: str) -> None:
        """Take published weights: a folder, or a name on the hub such as ``nvidia/mit-b2``."""
        load_segformer(self.encoder, source)

    def stage_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the four stages."""
        return list(self.encoder(images, output_hidden_states=True).hidden_states)


class TransformerScales(Scales):
    """The transformer of the joint model, one picture at a time, reassembled as for its dense maps."""

    def __init__(self, config: AttributesConfig) -> None:
        super().__init__()
        channels = config.network.channels
        self.encoder = ClipBackbone(config.backbone, config.network.image_size)
        reassemble = DecoderConfig(channels=channels, reassemble=(channels,) * 4)
        self.reassembly = Reassembly(
            config.backbone.width, reassemble, norm=True, positions=False, stages=self.encoder.stage_widths
        )

    def load(self, source: str) -> None:
        """Take the transformer of a run of ``trainer fit``.

        Raises
        ------
        CheckpointError
            If it is no such run, or of another size than ``backbone``.
        """
        held = read_checkpoint(Path(source)).get("model", {})
        part = {name.removeprefix(_PREFIX): value for name, value in held.items() if name.startswith(_PREFIX)}
        try:
            self.encoder.load_state_dict(part)
        except RuntimeError as error:
            raise CheckpointError(
                f"network.weights={source} does not fit backbone ({str(error).splitlines()[-1].strip()[:160]})",
                "a run of `trainer fit` whose keys of backbone are those of this configuration",
                "Give backbone as in that run's config.json, or leave network.weights empty",
            ) from None

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Reassemble the tokens of four blocks."""
        side, patch = (images.shape[-2], images.shape[-1]), self.encoder.patch
        tokens = self.encoder(images[:, None])
        geometry = Geometry(side, (side[0] // patch, side[1] // patch), side)
        patches, stages = ([x.float() for x in maps] for maps in (tokens.patches, tokens.stages))
        maps: list[torch.Tensor] = self.reassembly(patches, geometry, stages)
        return maps


ENCODERS: dict[str, type[ConvolutionalScales | SegformerScales | TransformerScales]] = {
    "convolutional": ConvolutionalScales,
    "segformer": SegformerScales,
    "transformer": TransformerScales,
}


def no_larger(maps: list[torch.Tensor], side: int) -> list[torch.Tensor]:
    """Return maps of at most ``side`` pixels, means of what was larger: fusing fine maps costs most of the time."""
    return [F.adaptive_avg_pool2d(x, side) if x.shape[-1] > side else x for x in maps]
