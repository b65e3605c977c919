"""A DINOv2 transformer whose deeper blocks alternate between attention within a frame and across the clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from datagen.shards import CheckpointError
from trainer.config import SCALED_BLOCKS, BackboneConfig


class ClipBackbone(nn.Module):
    """Turn the frames of clips into patch tokens at four depths.

    Attention across frames joins the tokens of all frames of a clip, (B·S, N, D) → (B, S·N, D), in the unchanged
    blocks of the transformer: no weights are added, so pretrained image weights load as they are, and with one
    frame both kinds of attention are the same. Frames carry no order: exchanging them exchanges the outputs. This is
    the alternating attention of VGGT (Wang et al., CVPR 2025) without its camera token, query-key norm and rotary
    positions; a camera token would be appended to each frame's tokens where alternation begins.

    Parameters
    ----------
    config : BackboneConfig
    image_size : int
        Pixels a side the position embedding is laid out for; other sizes interpolate it.
    stored : dict, optional
        The ``transformers`` configuration kept in a checkpoint; then ``config.pretrained`` is not read.

    Raises
    ------
    CheckpointError
        If ``config.pretrained`` holds no DINOv2 model, or the chosen blocks do not exist.
    """

    def __init__(self, config: BackboneConfig, image_size: int, stored: dict[str, Any] | None = None) -> None:
        super().__init__()
        from transformers import Dinov2Config, Dinov2Model

        if stored is not None:
            self.vit = Dinov2Model(Dinov2Config(**stored))
        elif config.pretrained is not None:
            self.vit = _load_pretrained(config.pretrained)
        else:
            self.vit = Dinov2Model(
                Dinov2Config(
                    hidden_size=config.dim,
                    num_hidden_layers=config.blocks,
                    num_attention_heads=config.heads,
                    mlp_ratio=config.mlp_ratio,
                    patch_size=config.patch,
                    image_size=image_size,
                    initializer_range=config.dim**-0.5 / 2,
                    use_mask_token=False,
                )
            )
            _lay_out_positions(self.vit.embeddings.position_embeddings, image_size // config.patch)
        sizes = self.vit.config
        # Neither is used here, and weights that never get a gradient confuse distributed training.
        self.vit.embeddings.mask_token = None
        self.vit.layernorm = nn.Identity()
        self.dim: int = sizes.hidden_size
        self.patch: int = sizes.patch_size
        blocks: int = sizes.num_hidden_layers
        self.outputs = config.outputs or tuple(
            round((k + 1) * blocks / SCALED_BLOCKS) - 1 for k in range(SCALED_BLOCKS)
        )
        if self.outputs[-1] >= blocks:
            raise CheckpointError(
                f"backbone.outputs names block {self.outputs[-1]}", f"blocks 0 to {blocks - 1}", "Choose others"
            )
        start = blocks // 2 if config.alternate_from is None else config.alternate_from
        self.across = tuple(k >= start and (k - start) % 2 == 1 for k in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(self.dim, eps=1e-6) for _ in self.outputs)

    def stored_config(self) -> dict[str, Any]:
        """Return what a checkpoint needs to build this transformer again without the pretrained folder."""
        keys = ["hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "patch_size", "image_size"]
        keys += ["use_swiglu_ffn", "layerscale_value", "qkv_bias", "hidden_act", "layer_norm_eps"]
        return {key: getattr(self.vit.config, key) for key in keys} | {"use_mask_token": False}

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the tokens.

        Parameters
        ----------
        images : (B, S, 3, H, W) float, ImageNet-normalised; H and W multiples of the patch

        Returns
        -------
        four (B·S, D, H / patch, W / patch)
        """
        clips, frames, _, height, width = images.shape
        tokens = self.vit.embeddings(images.flatten(0, 1))
        count = tokens.shape[1]
        maps: list[torch.Tensor] = []
        for number, block in enumerate(self.vit.encoder.layer):
            if self.across[number] and frames > 1:
                tokens = block(tokens.reshape(clips, frames * count, self.dim)).reshape(-1, count, self.dim)
            else:
                tokens = block(tokens)
            if number in self.outputs:
                patches = self.norms[len(maps)](tokens)[:, 1:]
                maps.append(patches.transpose(1, 2).reshape(-1, self.dim, height // self.patch, width // self.patch))
        return maps


def _lay_out_positions(embedding: torch.Tensor, side: int) -> None:
    """Start the position embedding (1, 1 + side², D) from two-dimensional sines and cosines, as MAE does.

    DINOv2's own start, noise of 0.02, says next to nothing about position beside the patches: fine over its long
    pretraining, but a short run from scratch has to learn where things are first.
    """
    quarter = embedding.shape[-1] // 4
    place = (torch.arange(side) + 0.5) / side
    frequencies = torch.pi * 2.0 ** torch.linspace(0, 4, quarter)
    waves = place[:, None] * frequencies
    axis = torch.cat([waves.sin(), waves.cos()], -1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    with torch.no_grad():
        embedding[0, 1:, : 4 * quarter] = torch.cat([rows, columns], -1).reshape(side * side, -1)


def _load_pretrained(folder: Path) -> Any:
    from transformers import Dinov2Model

    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"backbone.pretrained: {folder} holds no config.json",
            "a folder with DINOv2 weights as `transformers` saves them (config.json, model.safetensors)",
            "Give such a folder, or leave the key out to start from random weights",
        )
    try:
        model, report = Dinov2Model.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except Exception as error:  # transformers raises many kinds here: all mean that the folder is unusable
        raise CheckpointError(
            f"backbone.pretrained: {folder} cannot be loaded: {error}", "DINOv2 weights", "Download the folder again"
        ) from None
    if report["missing_keys"]:
        raise CheckpointError(
            f"backbone.pretrained: {folder} lacks {len(report['missing_keys'])} weights of a DINOv2 model",
            "a complete Dinov2Model",
            "Check that its config.json names the model type dinov2",
        )
    return model
