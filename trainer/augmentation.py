"""Changes of a training batch, on its own device: photometric, background, occlusion, crop and mirror.

Every clip draws from its own stream of random numbers, so that its changes do not depend on which process or rank
reads it. What belongs to a camera or a light is the same in all frames of a clip, so that agreement between frames
stays a cue; what happens to one image (noise, an object in front of one of several cameras) is drawn by frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.config import AugmentConfig

Batch = dict[str, torch.Tensor]

_LUMA = (0.299, 0.587, 0.114)
# Maps by what an empty pixel holds; all are 0 where nothing is known.
_MAPS = ("depth", "canonical", "confidence", "region", "normal", "edge")
_FEATHER_PX = 3
_NOISE_CELLS = 6
_LARGEST_OCCLUDER = 0.22


def augment(batch: Mapping[str, torch.Tensor], config: AugmentConfig, seeds: list[int], *, views: bool) -> Batch:
    """Return a changed batch; the given one stays unchanged.

    Parameters
    ----------
    batch : mapping
        ``image`` (B, S, 3, H, W) float32 in [0, 1], ``depth`` (B, S, H, W), ``canonical`` (B, S, 3, H, W),
        ``confidence`` (B, S, H, W), ``intrinsics`` (B, S, 3, 3); maps of :data:`_MAPS` and ``world_to_camera``
        (B, S, 4, 4) where present. Other entries pass unchanged.
    seeds : list of int
        One for each clip.
    views : bool
        The clips are cameras of one instant, not one camera over time.

    Returns
    -------
    dict
    """
    clips = []
    for k, seed in enumerate(seeds):
        clip = {name: value[k] for name, value in batch.items()}
        draw = _Draw(seed, clip["image"].device)
        for change, strength in _changes(config):
            # Drawn whatever the strength: switching one change off leaves the others as they were.
            clip = change(clip, strength, draw.child(), views)
        clips.append(clip)
    return {name: torch.stack([clip[name] for clip in clips]) for name in batch}


class _Draw:
    """A stream of random numbers; the same numbers on every device but for whole noise images."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._host = torch.Generator("cpu").manual_seed(seed % 2**63)
        self._device = device

    def child(self) -> _Draw:
        """Return an independent stream."""
        return _Draw(int(torch.randint(2**62, (), generator=self._host)), self._device)

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        """Return float32 numbers on the batch's device."""
        return (low + (high - low) * torch.rand(shape, generator=self._host)).to(self._device)

    def number(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return one number."""
        return low + (high - low) * float(torch.rand((), generator=self._host))

    def normal(self, *shape: int) -> torch.Tensor:
        """Return standard normal numbers, drawn on the device itself."""
        seed = int(torch.randint(2**62, (), generator=self._host))
        generator = torch.Generator(self._device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self._device)


Change = Callable[[Batch, float, _Draw, bool], Batch]


def _changes(config: AugmentConfig) -> list[tuple[Change, float]]:
    return [
        (background, config.background),
        (occlude, config.occlusion),
        (crop, config.crop),
        (mirror, 0.5 if config.mirror else 0.0),
        (photometric, config.photometric),
    ]


def photometric(clip: Batch, strength: float, draw: _Draw, views: bool) -> Batch:
    """Change gain per channel, gamma, contrast and saturation, blur, and add noise.

    A strength of 1 is light: gain ±10 %, gamma and contrast ±20 %, saturation ±40 %, noise up to 0.02, now and then a
    blur of a pixel. Cameras of one instant differ among themselves by a third of that; frames of one camera do not.
    """
    if strength <= 0:
        return clip
    images = clip["image"]
    frames = len(images)
    own = strength / 3 if views else 0.0

    def around(centre: float, spread: float, channels: int) -> torch.Tensor:
        shared = strength * spread * draw.uniform(-1, 1, 1, channels, 1, 1)
        return centre + shared + own * spread * draw.uniform(-1, 1, frames, channels, 1, 1)

    out = (images * around(1, 0.1, 3)).clamp(0, 1) ** around(0, 0.2, 1).exp()
    luma = torch.tensor(_LUMA, device=images.device)[None, :, None, None]
    grey = (luma * out).sum(1, keepdim=True)
    out = grey + around(1, 0.4, 1).clamp(min=0) * (out - grey)
    mean = out.mean((1, 2, 3), keepdim=True)
    out = mean + around(1, 0.2, 1) * (out - mean)
    if draw.number() < 0.25 * min(strength, 1):
        blurred = _box_blur(out, 1)
        out = out + draw.number() * (blurred - out)
    out = out + strength * draw.number(0, 0.02) * draw.normal(*images.shape)
    return {**clip, "image": out.clamp(0, 1)}


def background(clip: Batch, probability: float, draw: _Draw, views: bool) -> Batch:
    """Put another background behind the head: smooth colours or blurred noise, soft along its outline.

    What the head encloses counts as head, though the scan may have a hole there. One camera keeps one background;
    cameras of one instant have one each.
    """
    images = clip["image"]
    frames, _, height, width = images.shape
    chance, walls = draw.number(), frames if views else 1
    cells = draw.uniform(0, 1, walls, 3, _NOISE_CELLS, _NOISE_CELLS)
    base, contrast = draw.uniform(0, 1, walls, 3, 1, 1), draw.number(0.0, 0.8)
    if chance >= probability:
        return clip
    wall = F.interpolate(base + contrast * (cells - 0.5), (height, width), mode="bicubic", align_corners=False)
    # One pixel of the old background mixes into the outline; widening the head by one leaves it there, unseen.
    head = _filled(clip["depth"] > 0)
    alpha = _box_blur(F.max_pool2d(head[:, None].float(), 3, 1, 1), _FEATHER_PX // 2)
    return {**clip, "image": alpha * images + (1 - alpha) * wall.clamp(0, 1)}


def occlude(clip: Batch, probability: float, draw: _Draw, views: bool) -> Batch:
    """Hide a part behind an object that is not the head: there, no surface and no truth remain.

    Over time the object drifts; each of several cameras has another one.
    """
    images = clip["image"]
    frames, _, height, width = images.shape
    chance = draw.number()
    own = frames if views else 1
    centre, half = draw.uniform(0.1, 0.9, own, 2), draw.uniform(0.06, _LARGEST_OCCLUDER, own, 2)
    turn, colour = draw.uniform(0, math.pi, own), draw.uniform(0, 1, own, 3, 1, 1)
    grain, drift = draw.number(0, 0.15), draw.uniform(-0.03, 0.03, 2)
    square = draw.number() < 0.5
    if chance >= probability:
        return clip
    step = torch.arange(frames, device=images.device, dtype=torch.float32)[:, None]
    centre = centre if views else centre + step * drift
    v, u = torch.meshgrid(
        (torch.arange(height, device=images.device) + 0.5) / height,
        (torch.arange(width, device=images.device) + 0.5) / width,
        indexing="ij",
    )
    dx, dy = u - centre[:, 0, None, None], v - centre[:, 1, None, None]
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    a, b = (cos * dx + sin * dy) / half[:, 0, None, None], (cos * dy - sin * dx) / half[:, 1, None, None]
    hidden = torch.maximum(a.abs(), b.abs()) < 1 if square else a * a + b * b < 1
    texture = (colour + grain * draw.normal(*images.shape)).clamp(0, 1)
    out = {**clip, "image": torch.where(hidden[:, None], texture, images)}
    for name in _MAPS:
        if name in clip:
            value = clip[name]
            mask = hidden if value.ndim == 3 else hidden[:, None]
            out[name] = torch.where(mask, torch.zeros_like(value), value)
    return out


def crop(clip: Batch, strength: float, draw: _Draw, views: bool) -> Batch:
    """Shift and enlarge: a strength of 0.1 shows a window of 90 to 100 % of each side, anywhere inside.

    Images are resampled bilinearly, maps by the nearest pixel, so values stay true but may be up to half an original
    pixel off. The intrinsics are those of the window. Cameras of one instant have a window each.
    """
    images = clip["image"]
    frames, _, height, width = images.shape
    own = frames if views else 1
    size = 1 - strength * draw.uniform(0, 1, own)
    corner = draw.uniform(0, 1, own, 2) * (1 - size)[:, None]
    if strength <= 0:
        return clip
    size, corner = size.expand(frames), corner.expand(frames, 2)
    v, u = torch.meshgrid(
        (torch.arange(height, device=images.device) + 0.5) / height,
        (torch.arange(width, device=images.device) + 0.5) / width,
        indexing="ij",
    )
    grid = torch.stack(
        [corner[:, 0, None, None] + size[:, None, None] * u, corner[:, 1, None, None] + size[:, None, None] * v], -1
    )
    grid = 2 * grid - 1
    out = {**clip, "image": F.grid_sample(images, grid, "bilinear", "border", align_corners=False)}
    for name in _MAPS:
        if name in clip:
            value = clip[name]
            planes = value[:, None] if value.ndim == 3 else value
            taken = F.grid_sample(planes.float(), grid, "nearest", "border", align_corners=False).to(value.dtype)
            out[name] = taken[:, 0] if value.ndim == 3 else taken
    K = clip["intrinsics"].clone()
    K[:, 0, 2] -= corner[:, 0] * width
    K[:, 1, 2] -= corner[:, 1] * height
    K[:, :2] /= size[:, None, None]
    return {**out, "intrinsics": K}


def mirror(clip: Batch, probability: float, draw: _Draw, _views: bool) -> Batch:
    """Mirror a clip left to right; canonical x changes its sign, for a space symmetric about x = 0.

    The mirrored scene is seen by mirrored cameras: world_to_camera becomes M · E · M with M = diag(−1, 1, 1, 1), as if
    the world were mirrored too, so that poses stay rigid.
    """
    if draw.number() >= probability:
        return clip
    out = dict(clip)
    for name in ("image", *_MAPS):
        if name in clip:
            out[name] = clip[name].flip(-1)
    for name in ("canonical", "normal"):
        if name in out:
            sign = torch.tensor([-1.0, 1, 1], device=out[name].device, dtype=out[name].dtype)
            out[name] = out[name] * sign[:, None, None]
    K = clip["intrinsics"].clone()
    K[:, 0, 2] = clip["image"].shape[-1] - K[:, 0, 2]
    K[:, 0, 1] = -K[:, 0, 1]
    out["intrinsics"] = K
    if "world_to_camera" in clip:
        flip = torch.diag(torch.tensor([-1.0, 1, 1, 1], device=K.device, dtype=clip["world_to_camera"].dtype))
        out["world_to_camera"] = flip @ clip["world_to_camera"] @ flip
    return out


def _box_blur(values: torch.Tensor, radius: int) -> torch.Tensor:
    if radius < 1:
        return values
    padded = F.pad(values, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, 1)


def _filled(mask: torch.Tensor) -> torch.Tensor:
    """Return masks (S, H, W) with every hole filled that no row and no column connects to the image's border."""
    left, right = mask.cumsum(-1) > 0, mask.flip(-1).cumsum(-1).flip(-1) > 0
    above, below = mask.cumsum(-2) > 0, mask.flip(-2).cumsum(-2).flip(-2) > 0
    return mask | (left & right & above & below)
