"""From the tokens of four blocks to dense maps: reassemble at four scales, fuse, convolve."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.model.config import DecoderConfig
from trainer.model.stages import resized

_WEIGHT = 0.1
_BASE = 100.0


def add_positions(x: torch.Tensor, aspect: float) -> torch.Tensor:
    """Add a faint code of each pixel's place to a map, as the decoders of Depth Anything 3 do.

    A place runs over the image's sides measured in half diagonals, so that it keeps its meaning when the shape changes.

    Parameters
    ----------
    x : (B, C, H, W)
        C a multiple of 4: the first half of the channels codes the column, the second the row.
    aspect : float
        Width / height of the image.
    """
    channels, height, width = x.shape[1:]
    quarter = channels // 4
    diagonal = (aspect**2 + 1) ** 0.5
    frequencies = _BASE ** -(torch.arange(quarter, device=x.device) / quarter)
    codes = []
    for half_side, count in ((aspect / diagonal, width), (1 / diagonal, height)):
        centres = half_side * ((2 * torch.arange(count, device=x.device) + 1) / count - 1)
        angles = frequencies[:, None] * centres
        codes.append(torch.cat([angles.sin(), angles.cos()]))
    columns = codes[0][:, None, :].expand(-1, height, -1)
    rows = codes[1][:, :, None].expand(-1, -1, width)
    return x + (_WEIGHT * torch.cat([columns, rows])).to(x.dtype)


def enlarge(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolate (B, C, H, W) bilinearly with corners kept."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """Two 3 × 3 convolutions, each after a ReLU, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, C, H, W)."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class DptLevel(nn.Module):
    """Add a finer map to the coarser result, refine, and enlarge to the size of the next finer map.

    After Ranftl, Bochkovskiy and Koltun, "Vision Transformers for Dense Prediction" (ICCV 2021), without batch norm.
    """

    def __init__(self, channels: int, *, coarsest: bool) -> None:
        super().__init__()
        self.lateral = None if coarsest else ResidualUnit(channels)
        self.refine = ResidualUnit(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
        """Map (B, C, h, w), with the coarser result of the same size, to (B, C, *size)."""
        x = fine if self.lateral is None or coarse is None else coarse + self.lateral(fine)
        # A 1 × 1 convolution and bilinear enlargement commute; this order is four times cheaper.
        return enlarge(self.project(self.refine(x)), size)


class LargeKernelAttention(nn.Module):
    """Weigh every pixel of every channel by what is around it, over 23 × 23 pixels.

    A large kernel taken apart (Guo et al., "Visual Attention Network", 2023): a depthwise 5 × 5 convolution, a
    depthwise 7 × 7 one with dilation 3, and a 1 × 1 one across channels. The result multiplies the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.far = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, C, H, W)."""
        return x * self.mix(self.far(self.near(x)))


class LargeKernelUnit(nn.Module):
    """Large-kernel attention between two 1 × 1 maps, then a convolutional feed-forward, each a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # One group over all channels and pixels: like layer norm, it does not depend on the batch.
        self.norm1 = nn.GroupNorm(1, channels)
        self.before = nn.Conv2d(channels, channels, 1)
        self.attention = LargeKernelAttention(channels)
        self.after = nn.Conv2d(channels, channels, 1)
        self.scale1 = nn.Parameter(torch.full((channels,), 0.1))
        self.norm2 = nn.GroupNorm(1, channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.spread = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)
        self.scale2 = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, C, H, W)."""
        x = x + self.scale1[:, None, None] * self.after(self.attention(F.gelu(self.before(self.norm1(x)))))
        return x + self.scale2[:, None, None] * self.narrow(F.gelu(self.spread(self.widen(self.norm2(x)))))


class LargeKernelLevel(nn.Module):
    """Merge a finer map with the coarser result by a 1 × 1 map of both, weigh, enlarge to the next finer size."""

    def __init__(self, channels: int, *, coarsest: bool) -> None:
        super().__init__()
        self.merge = None if coarsest else nn.Conv2d(2 * channels, channels, 1)
        self.unit = LargeKernelUnit(channels)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
        """Map (B, C, h, w), with the coarser result of the same size, to (B, C, *size)."""
        x = fine if self.merge is None or coarse is None else self.merge(torch.cat([fine, coarse], 1))
        return enlarge(self.unit(x), size)


class Fusion(nn.Module):
    """Four maps, fine to coarse, into one (B, C, 2h, 2w) of twice the finest one's size, or of ``size``."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        level = LargeKernelLevel if kind == "large_kernel" else DptLevel
        self.levels = nn.ModuleList(level(channels, coarsest=k == 3) for k in range(4))

    def forward(self, maps: list[torch.Tensor], size: tuple[int, int] | None = None) -> torch.Tensor:
        """Go from the deepest block's map, the coarsest, to the shallowest one's."""
        height, width = maps[0].shape[-2:]
        sizes = [size or (2 * height, 2 * width)] + [(x.shape[-2], x.shape[-1]) for x in maps[:-1]]
        x = self.levels[3](maps[3], None, sizes[3])
        for k in (2, 1, 0):
            x = self.levels[k](maps[k], x, sizes[k])
        return x


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
    """Turn the tokens (B, N, C) of four blocks into maps of 4, 2, 1 and ½ times the grid.

    Parameters
    ----------
    stages : tuple of int
        Channels of the maps of four convolutional stages: those of the last three are added to the first three maps,
        the coarsest to the grid's own. Empty: there are none.
    """

    def __init__(
        self, width: int, config: DecoderConfig, *, norm: bool, positions: bool, stages: tuple[int, ...] = ()
    ) -> None:
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
        beside = zip(stages[1:], config.reassemble, strict=False)
        self.lateral = nn.ModuleList(nn.Conv2d(n, own, 1) for n, own in beside) if stages else None

    def forward(
        self, tokens: list[torch.Tensor], geometry: Geometry, stages: list[torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """Return four maps (B, channels, h, w), fine to coarse."""
        added: list[torch.Tensor | None] = [None] * len(tokens)
        if self.lateral is not None and stages:
            added[: len(self.lateral)] = [to(x) for to, x in zip(self.lateral, stages[1:], strict=True)]
        maps = []
        for x, project, resize, narrow, more in zip(tokens, self.project, self.resize, self.narrow, added, strict=True):
            normed = x if self.norm is None else self.norm(x)
            # A map whose channels lie together in memory is what tokens are already, and convolves fastest.
            placed = project(normed.unflatten(1, geometry.grid).permute(0, 3, 1, 2))
            placed = resize(add_positions(placed, geometry.aspect) if self.positions else placed)
            if more is not None:
                placed = placed + resized(more, (placed.shape[-2], placed.shape[-1]))
            maps.append(narrow(placed))
        return maps


class DenseHead(nn.Module):
    """The last convolutions of depth or canonical coordinates.

    Parameters
    ----------
    surface : bool
        Add a channel with its own weights.
    apart : bool
        The last output, the confidence, gets a branch of its own and gives no gradient to what others share: it only
        watches.
    """

    def __init__(
        self, config: DecoderConfig, outputs: int, *, positions: bool, surface: bool, apart: bool = False
    ) -> None:
        super().__init__()
        half, hidden = config.channels // 2, config.output_channels
        self.positions = positions
        self.before = nn.Conv2d(config.channels, half, 3, padding=1)
        self.skip = nn.Conv2d(hidden, half, 1) if config.image_skip else None
        self.hidden = nn.Conv2d(half, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, outputs, 1)
        self.surface = nn.Conv2d(hidden, 1, 1) if surface else None
        self.confidence = None
        if apart:
            self.confidence = nn.Sequential(nn.Conv2d(half, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 1, 1))
        _start_at_zero(self.out)

    def forward(self, x: torch.Tensor, geometry: Geometry, detail: torch.Tensor | None) -> torch.Tensor:
        """Map (B, C, h, w) to (B, K, *geometry.maps)."""
        x = enlarge(self.before(x), geometry.maps)
        if self.skip is not None and detail is not None:
            x = x + self.skip(detail)
        shared = x
        x = F.relu(self.hidden(add_positions(x, geometry.aspect) if self.positions else x))
        out = self.out(x)
        if self.confidence is not None:
            # The weights of `out` stay what published ones fill: the branch adds to what they say of confidence.
            said = F.conv2d(x.detach(), self.out.weight[-1:], self.out.bias[-1:] if self.out.bias is not None else None)
            out = torch.cat([out[:, :-1], said + self.confidence(shared.detach())], 1)
        return out if self.surface is None else torch.cat([out, self.surface(x)], 1)


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


class StageDetail(nn.Module):
    """The finest map of the convolutional stages, in the place of :class:`ImageDetail`."""

    def __init__(self, config: DecoderConfig, width: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(width, config.output_channels, 1)

    def forward(self, stage: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Map (B, C, h, w) to (B, C', *size)."""
        return F.relu(resized(self.narrow(stage), size))


class MapDecoder(nn.Module):
    """One reassembly, one fusion for all maps or for each, and a head for each.

    Parameters
    ----------
    width : int
        Channels of the tokens.
    maps : names of :data:`CHANNELS`
    plain : bool
        Without what ``config.norm`` and ``config.positions`` give to "geometry" only.
    stages : tuple of int
        As for :class:`Reassembly`.
    apart : bool
        Whether the confidence of depth is learnt apart; see :class:`DenseHead`.
    """

    def __init__(
        self,
        width: int,
        config: DecoderConfig,
        maps: tuple[str, ...],
        *,
        plain: bool,
        stages: tuple[int, ...] = (),
        apart: bool = False,
    ) -> None:
        super().__init__()
        wanted = ("all",) if plain else ("all", "geometry")
        positions = config.positions in wanted
        norm = config.norm in wanted
        self.reassembly = Reassembly(width, config, norm=norm, positions=positions, stages=stages)
        fusions = ("shared",) if config.shared else maps
        self.fusions = nn.ModuleDict({name: Fusion(config.kind, config.channels) for name in fusions})
        self.heads = nn.ModuleDict(
            {
                name: RayHead(config, CHANNELS[name], positions=positions)
                if name == "ray"
                else DenseHead(
                    config,
                    CHANNELS[name],
                    positions=positions,
                    surface=name == "depth",
                    apart=apart and name == "depth",
                )
                for name in maps
            }
        )

    def forward(
        self,
        tokens: list[torch.Tensor],
        geometry: Geometry,
        detail: torch.Tensor | None,
        stages: list[torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Decode the tokens (B, N, C) of four blocks; see the heads for the sizes of the maps."""
        levels = self.reassembly(tokens, geometry, stages)
        fused = {name: fusion(levels) for name, fusion in self.fusions.items()}
        return {name: head(fused.get(name, fused.get("shared")), geometry, detail) for name, head in self.heads.items()}


def _start_at_zero(conv: nn.Conv2d) -> None:
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
