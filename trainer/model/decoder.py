"""From the tokens of four blocks to dense maps: reassemble at four scales, fuse, convolve."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.model.config import DecoderConfig
from trainer.model.fusion import Fusion, enlarge
from trainer.model.positions import add_positions

CHANNELS = {"depth": 2, "canonical": 4, "ray": 7}  # of each map, its confidence last


@dataclass(frozen=True)
class Geometry:
    """Sizes of the images decoded: (height, width) in pixels, in patches, and that of the maps before enlargement."""

    image: tuple[int, int]
    grid: tuple[int, int]
    maps: tuple[int, int]

    @property
    def aspect(self) -> float:
        """Width / height."""
        return self.image[1] / self.image[0]


class Reassembly(nn.Module):
    """Turn the tokens (B, N, C) of four blocks into maps of 4, 2, 1 and ½ times the grid."""

    def __init__(self, width: int, config: DecoderConfig, *, norm: bool, positions: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else None
        self.positions = positions
        a, b, c, d = config.reassemble
        self.project = nn.ModuleList(nn.Conv2d(width, n, 1) for n in config.reassemble)
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(a, a, 4, stride=4),
                nn.ConvTranspose2d(b, b, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(d, d, 3, stride=2, padding=1),
            ]
        )
        self.narrow = nn.ModuleList(nn.Conv2d(n, config.channels, 3, padding=1, bias=False) for n in (a, b, c, d))

    def forward(self, tokens: list[torch.Tensor], geometry: Geometry) -> list[torch.Tensor]:
        """Return four maps (B, channels, h, w), fine to coarse."""
        maps = []
        for x, project, resize, narrow in zip(tokens, self.project, self.resize, self.narrow, strict=True):
            normed = x if self.norm is None else self.norm(x)
            # A map whose channels lie together in memory is what tokens are already, and convolves fastest.
            placed = project(normed.unflatten(1, geometry.grid).permute(0, 3, 1, 2))
            maps.append(narrow(resize(add_positions(placed, geometry.aspect) if self.positions else placed)))
        return maps


class DenseHead(nn.Module):
    """The last convolutions of depth or canonical coordinates; ``surface`` adds a channel of its own weights."""

    def __init__(self, config: DecoderConfig, outputs: int, *, positions: bool, surface: bool) -> None:
        super().__init__()
        half, hidden = config.channels // 2, config.output_channels
        self.positions = positions
        self.before = nn.Conv2d(config.channels, half, 3, padding=1)
        self.skip = nn.Conv2d(hidden, half, 1) if config.image_skip else None
        self.hidden = nn.Conv2d(half, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, outputs, 1)
        self.surface = nn.Conv2d(hidden, 1, 1) if surface else None
        _start_at_zero(self.out)

    def forward(self, x: torch.Tensor, geometry: Geometry, detail: torch.Tensor | None) -> torch.Tensor:
        """Map (B, C, h, w) to (B, K, *geometry.maps)."""
        x = enlarge(self.before(x), geometry.maps)
        if self.skip is not None and detail is not None:
            x = x + self.skip(detail)
        x = F.relu(self.hidden(add_positions(x, geometry.aspect) if self.positions else x))
        return self.out(x) if self.surface is None else torch.cat([self.out(x), self.surface(x)], 1)


class RayHead(nn.Module):
    """The last convolutions of the ray map, which is smooth and stays at the size of the fusion."""

    def __init__(self, config: DecoderConfig, outputs: int, *, positions: bool) -> None:
        super().__init__()
        full, half, hidden = config.channels, config.channels // 2, config.output_channels
        self.positions = positions
        self.before = nn.Sequential(
            *(nn.Conv2d(*((full, half) if k % 2 == 0 else (half, full)), 3, padding=1) for k in range(5))
        )
        self.hidden = nn.Conv2d(half, hidden, 3, padding=1)
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Conv2d(hidden, outputs, 1)
        _start_at_zero(self.out)

    def forward(self, x: torch.Tensor, geometry: Geometry, _detail: torch.Tensor | None) -> torch.Tensor:
        """Map (B, C, h, w) to (B, K, h, w)."""
        x = self.before(x)
        x = self.hidden(add_positions(x, geometry.aspect) if self.positions else x)
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out(F.relu(x))


class ImageDetail(nn.Module):
    """Shallow features of the image at the resolution of the maps: what patches of 14 pixels blur."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        channels = config.output_channels
        self.first = nn.Conv2d(3, channels, 2 * config.output_stride + 1, config.output_stride, config.output_stride)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Map (B, 3, H, W) to (B, C, *size)."""
        x = self.first(images)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        return F.relu(self.second(F.relu(x)))


class MapDecoder(nn.Module):
    """One reassembly, one fusion for all maps or for each, and a head for each.

    Parameters
    ----------
    width : int
        Channels of the tokens.
    config : DecoderConfig
    maps : names of :data:`CHANNELS`
    plain : bool
        Without what ``config.norm`` and ``config.positions`` give to "geometry" only.
    """

    def __init__(self, width: int, config: DecoderConfig, maps: tuple[str, ...], *, plain: bool) -> None:
        super().__init__()
        wanted = ("all",) if plain else ("all", "geometry")
        positions = config.positions in wanted
        self.reassembly = Reassembly(width, config, norm=config.norm in wanted, positions=positions)
        fusions = ("shared",) if config.shared else maps
        self.fusions = nn.ModuleDict({name: Fusion(config.kind, config.channels) for name in fusions})
        self.heads = nn.ModuleDict(
            {
                name: RayHead(config, CHANNELS[name], positions=positions)
                if name == "ray"
                else DenseHead(config, CHANNELS[name], positions=positions, surface=name == "depth")
                for name in maps
            }
        )

    def forward(
        self, tokens: list[torch.Tensor], geometry: Geometry, detail: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Decode the tokens (B, N, C) of four blocks; see the heads for the sizes of the maps."""
        levels = self.reassembly(tokens, geometry)
        fused = {name: fusion(levels) for name, fusion in self.fusions.items()}
        return {name: head(fused.get(name, fused.get("shared")), geometry, detail) for name, head in self.heads.items()}


def _start_at_zero(conv: nn.Conv2d) -> None:
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
