"""The alignment network: UV to image flow with its uncertainty, FlowFace's equations 1 to 4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.align.config import AlignNetworkConfig
from trainer.align.correlation import correlation_pyramid, look_up
from trainer.align.encoder import Features, make_encoder
from trainer.align.update import UpdateBlock
from trainer.align.uv_pyramid import UVPyramid

# Of the crop's side: a thousandth to a few sides. What lies beyond has no gradient to come back by.
LOG_SIGMA = (-7.0, 1.0)
_FIRST_LOG_SIGMA = -2.5
# What a head's 1 means: of the crop's side, and of log σ. Errors left are hundredths of the side; heads that had to say
# so small numbers would leap past them with every step of the optimiser.
_COARSE_UNIT, _CHANGE_UNIT, _SIGMA_UNIT = 0.5, 0.02, 0.25
WHOLE_MODES = 64
_COARSE_CHANNELS, _COARSE_SIDE, COARSE_HIDDEN = 32, 6, 256


@dataclass(frozen=True)
class Alignment:
    """Where vertices are thought to be after one iteration, in units of the crop's side from its top-left corner.

    Attributes
    ----------
    positions : tensor (B, V, 2)
    sigma : tensor (B, V)
        Standard deviation of x and of y.
    flow : tensor (B, 2, D, D) or None
        From texel to picture; None where there is no UV space.
    log_sigma : tensor (B, 1, D, D) or None
    """

    positions: torch.Tensor
    sigma: torch.Tensor
    flow: torch.Tensor | None = None
    log_sigma: torch.Tensor | None = None


class FlowNetwork(nn.Module):
    """Recurrent UV to image flow.

    Parameters
    ----------
    uv : tensor (V, 2)
        Place ν of each vertex in UV space, in [0, 1], y down as in a picture.
    mean : tensor (V, 2)
        Mean position of each vertex in crops.

    Attributes
    ----------
    mean_flow : tensor (2, D, D)
        What leads the texels nearest to a vertex to its mean position.
    """

    uv: torch.Tensor
    mean_flow: torch.Tensor

    def __init__(self, config: AlignNetworkConfig, uv: torch.Tensor, mean: torch.Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("uv", uv.float())
        self.register_buffer("mean_flow", texel_means(uv.float(), mean.float() - uv.float(), config.uv))
        self.encoder = make_encoder(config)
        self.features = UVPyramid(config.uv, config.channels)
        self.context, self.first_hidden = (UVPyramid(config.uv, config.hidden) for _ in range(2))
        looked_up = config.levels * (2 * config.radius + 1) ** 2 + (config.channels if config.seen else 0)
        self.update = UpdateBlock(looked_up, config.hidden)
        heads = config.iterations if config.whole else 0
        self.whole = nn.ModuleList(WholeHead(config.channels, config.uv) for _ in range(heads))
        self.coarse = Coarse(self.encoder.deep_channels, 3 * config.uv**2) if config.start == "regression" else None

    def forward(self, images: torch.Tensor, iterations: int | None = None) -> list[Alignment]:
        """Align (B, 3, H, W) normalised crops.

        Parameters
        ----------
        iterations : int, optional
            Those of the configuration by default; 0 gives the start alone.

        Returns
        -------
        list of Alignment
            The start, and that of each iteration.
        """
        D = self.config.uv
        found, flow, log_sigma = self._start(images)
        B = len(flow)
        out = [self._sampled(flow, log_sigma)]
        steps = self.config.iterations if iterations is None else iterations
        if not steps:
            return out
        pyramid = correlation_pyramid(self.features(), found.map, self.config.levels)
        context = self.context().relu().expand(B, -1, -1, -1)
        hidden = self.first_hidden().tanh().expand(B, -1, -1, -1)
        for k in range(steps):
            # As in RAFT: a later step does not pull at where an earlier one looked.
            flow, log_sigma = flow.detach(), log_sigma.detach()
            looked_up = look_up(pyramid, texel_centres(D, flow.device) + flow, self.config.radius)
            seen = self.seen(found, flow)
            if self.config.seen:
                looked_up = torch.cat([looked_up, seen], 1)
            change, sureness, hidden = self.update(looked_up, context, flow, log_sigma, hidden)
            flow = flow + _CHANGE_UNIT * change
            if k < len(self.whole):
                flow = flow + self.whole[k](seen)
            log_sigma = _bounded(log_sigma + _SIGMA_UNIT * sureness)
            out.append(self._sampled(flow, log_sigma))
        return out

    def start(self, images: torch.Tensor) -> tuple[Features, torch.Tensor]:
        """Return the features of crops and the first flow."""
        found, flow, _ = self._start(images)
        return found, flow

    def _start(self, images: torch.Tensor) -> tuple[Features, torch.Tensor, torch.Tensor]:
        B, D = len(images), self.config.uv
        found: Features = self.encoder(images)
        flow = self.mean_flow.expand(B, -1, -1, -1)
        log_sigma = torch.full_like(flow[:, :1], _FIRST_LOG_SIGMA)
        if self.coarse is not None:
            first = self.coarse(found.deep).reshape(B, 3, D, D)
            flow, log_sigma = flow + _COARSE_UNIT * first[:, :2], _bounded(log_sigma + _SIGMA_UNIT * first[:, 2:])
        return found, flow, log_sigma

    def seen(self, found: Features, flow: torch.Tensor) -> torch.Tensor:
        """Return the picture's features where the flow (B, 2, D, D) points, (B, C, D, D)."""
        there = texel_centres(self.config.uv, flow.device) + flow
        grid = 2 * there.permute(0, 2, 3, 1) - 1
        return F.grid_sample(found.map, grid, "bilinear", "zeros", align_corners=False)

    def _sampled(self, flow: torch.Tensor, log_sigma: torch.Tensor) -> Alignment:
        """Equation 1: the flow and the uncertainty at each vertex's place in UV space."""
        moved, sigma = sample_uv(flow, self.uv), sample_uv(log_sigma.exp(), self.uv)
        return Alignment(self.uv + moved, sigma[..., 0], flow, log_sigma)


class RegressionNetwork(nn.Module):
    """Positions of all vertices at once from the deepest features, to compare with (Wood et al., ECCV 2022)."""

    mean: torch.Tensor

    def __init__(self, config: AlignNetworkConfig, uv: torch.Tensor, mean: torch.Tensor) -> None:
        super().__init__()
        del uv
        self.register_buffer("mean", mean.float())
        self.encoder = make_encoder(config)
        self.coarse = Coarse(self.encoder.deep_channels, 3 * len(mean))

    def forward(self, images: torch.Tensor, iterations: int | None = None) -> list[Alignment]:
        """Align (B, 3, H, W) normalised crops; there are no iterations."""
        del iterations
        out = self.coarse(self.encoder(images).deep).reshape(len(images), -1, 3)
        sigma = _bounded(_FIRST_LOG_SIGMA + _SIGMA_UNIT * out[..., 2]).exp()
        return [Alignment(self.mean + _COARSE_UNIT * out[..., :2], sigma)]


class WholeHead(nn.Module):
    """A change of the whole flow, linear in what all texels see together.

    :mod:`trainer.align.whole` fits it; gradients pass through but leave it as it is. A step of the optimiser, as large
    for each of so many weights, would throw their sum far off.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels * size**2, WHOLE_MODES)
        self.outer = nn.Linear(WHOLE_MODES, 2 * size**2)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.requires_grad_(requires_grad=False)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Return (B, 2, D, D) of features (B, C, D, D)."""
        B, _, D, _ = seen.shape
        change: torch.Tensor = self.outer(self.inner(seen.flatten(1)))
        return change.reshape(B, 2, D, D)


class Coarse(nn.Module):
    """Numbers from the deepest features: fewer channels, a fixed grid, two linear layers."""

    def __init__(self, deep: int, numbers: int, side: int = _COARSE_SIDE) -> None:
        super().__init__()
        self.side = side
        self.reduce = nn.Conv2d(deep, _COARSE_CHANNELS, 1)
        self.hidden = nn.Linear(_COARSE_CHANNELS * side**2, COARSE_HIDDEN)
        self.out = nn.Linear(COARSE_HIDDEN, numbers)
        nn.init.normal_(self.out.weight, std=1e-3)
        nn.init.zeros_(self.out.bias)

    def seen(self, deep: torch.Tensor) -> torch.Tensor:
        """Return what the numbers are linear in, (B, COARSE_HIDDEN)."""
        pooled = F.adaptive_avg_pool2d(self.reduce(deep), self.side)
        return F.silu(self.hidden(F.silu(pooled).flatten(1)))

    def forward(self, deep: torch.Tensor) -> torch.Tensor:
        """Return (B, numbers)."""
        numbers: torch.Tensor = self.out(self.seen(deep))
        return numbers


def make_network(config: AlignNetworkConfig, uv: torch.Tensor, mean: torch.Tensor) -> FlowNetwork | RegressionNetwork:
    """Return the network that is asked for, with random weights."""
    return (FlowNetwork if config.kind == "flow" else RegressionNetwork)(config, uv, mean)


def sample_uv(maps: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Sample maps (B, C, D, D) of UV space bilinearly at places (V, 2) in [0, 1]; (B, V, C).

    Texel centres lie at (k + 0.5) / D; between the outermost and the edge the outermost counts.
    """
    grid = (2 * uv - 1)[None, None].expand(len(maps), -1, -1, -1)
    sampled = F.grid_sample(maps, grid, "bilinear", "border", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


def texel_centres(size: int, device: torch.device | None = None) -> torch.Tensor:
    """Return the places of texels in UV space, (2, D, D), x and y."""
    centre = (torch.arange(size, device=device) + 0.5) / size
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack([x, y])


def texel_means(uv: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    """Spread values (V, C) of places (V, 2) over texels, (C, D, D): weighted by distance, some texels wide."""
    there = texel_centres(size).flatten(1).T
    squared = (torch.cdist(there, uv) * size).square()
    # Against the nearest, which so always counts, however far it is.
    weights = torch.exp((squared.min(1, keepdim=True).values - squared) / 2)
    return ((weights @ values) / weights.sum(1, keepdim=True)).T.reshape(-1, size, size)


def _bounded(log_sigma: torch.Tensor) -> torch.Tensor:
    return log_sigma.clamp(*LOG_SIGMA)
