"""Features of a picture: FlowFace's equation 2, with SegFormer, or with a few convolutions for one CPU core."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from datagen.common.errors import DependencyError
from trainer.align.config import AlignNetworkConfig, SegformerSize
from trainer.model.stages import ConvolutionalStages


@dataclass(frozen=True)
class Features:
    """What an encoder says of pictures.

    Attributes
    ----------
    map : tensor (B, C, n, n)
        Of every place.
    deep : tensor (B, C', m, m)
        Of the last stage: the whole picture is in each.
    """

    map: torch.Tensor
    deep: torch.Tensor


class ConvolutionalEncoder(nn.Module):
    """Four stages that halve the picture, brought to one size and added."""

    def __init__(self, config: AlignNetworkConfig) -> None:
        super().__init__()
        self.stages = ConvolutionalStages(config.width)
        widths = self.stages.widths
        self.laterals = nn.ModuleList(nn.Conv2d(width, config.channels, 1) for width in widths[1:])
        self.last = nn.Sequential(
            nn.SiLU(), nn.Conv2d(config.channels, config.channels, 1), nn.GroupNorm(1, config.channels)
        )
        self.deep_channels, self.image_size, self._features = widths[-1], config.image_size, config.features

    def load(self, source: str) -> None:
        """Refuse: nobody publishes weights of it."""
        raise DependencyError(f"network.weights={source} of a convolutional encoder", "a SegFormer", "Leave it empty")

    def forward(self, images: torch.Tensor) -> Features:
        """Return the features of (B, 3, H, W) normalised pictures."""
        maps = self.stages.maps(images)
        total = torch.zeros((), device=images.device)
        for lateral, level in zip(self.laterals, maps[1:], strict=True):
            total = total + _resized(lateral(level), self._features)
        return Features(self.last(total), maps[-1])


class SegformerEncoder(nn.Module):
    """SegFormer (Xie et al., NeurIPS 2021) whose classifier is a linear layer to the features, then pooled."""

    def __init__(self, config: AlignNetworkConfig) -> None:
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        size: SegformerSize = config.segformer_size
        self.body = SegformerForSemanticSegmentation(
            SegformerConfig(
                depths=list(size.depths),
                hidden_sizes=list(size.widths),
                num_attention_heads=list(size.heads),
                decoder_hidden_size=size.decoder,
                num_labels=config.channels,
                output_hidden_states=True,
            )
        )
        self.deep_channels, self.image_size, self._features = size.widths[-1], config.image_size, config.features

    def load(self, source: str) -> None:
        """Take the transformer's published weights; the decoder keeps its random start.

        Parameters
        ----------
        source : str
            A folder, or a name on the hub such as ``nvidia/mit-b5``.

        Raises
        ------
        DependencyError
            If there are none, or they are of another size.
        """
        load_segformer(self.body.segformer, source)

    def forward(self, images: torch.Tensor) -> Features:
        """Return the features of (B, 3, H, W) normalised pictures."""
        out = self.body(images)
        return Features(_resized(out.logits, self._features), out.hidden_states[-1])


def load_segformer(model: nn.Module, source: str) -> None:
    """Fill a ``transformers.SegformerModel`` with published weights: a folder, or a name on the hub.

    Raises
    ------
    DependencyError
        If there are none, or they are of another size.
    """
    from transformers import SegformerModel

    try:
        published = SegformerModel.from_pretrained(source, local_files_only=Path(source).exists())
        model.load_state_dict(published.state_dict())
    except Exception as error:  # the hub, the disk and torch each have their own kinds
        raise DependencyError(
            f"network.weights={source} cannot be used ({str(error).splitlines()[0][:200]})",
            "a folder or hub id of SegFormer weights of the size of network.segformer",
            "Give their folder, or leave network.weights empty: the encoder then starts at random",
        ) from None


def make_encoder(config: AlignNetworkConfig) -> ConvolutionalEncoder | SegformerEncoder:
    """Return the encoder that is asked for, with random weights."""
    return SegformerEncoder(config) if config.encoder == "segformer" else ConvolutionalEncoder(config)


def _resized(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Return maps (B, C, side, side): means of what is larger, bilinear between what is smaller."""
    if maps.shape[-1] > side:
        return F.adaptive_avg_pool2d(maps, side)
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
