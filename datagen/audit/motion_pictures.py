"""Motion as colours: direction by hue, length by saturation (Baker et al. 2007)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.audit import pictures
from datagen.audit.pictures import Picture
from datagen.render.motion import Motion

# Steps between the hues of Baker et al. (2007), who give more steps to hues that eyes tell apart: red to yellow,
# yellow to green, green to cyan, cyan to blue, blue to magenta, magenta to red.
HUE_STEPS = (15, 6, 4, 11, 13, 6)
# Saturation is full at the longest motion, leaving out this share of the pixels.
OUTLIERS = 0.01
WHEEL_SHARE = 0.22
OCCLUDED = (70, 72, 78)
VISIBLE = (120, 178, 110)


def motion_colours(
    motion: npt.NDArray[np.floating], shown: npt.NDArray[np.bool_], longest: float | None = None
) -> tuple[Picture, float]:
    """Colour the motion in an image.

    Parameters
    ----------
    motion : (2, H, W) float
        Pixels.
    shown : (H, W) bool
        Other pixels get the pictures' background.
    longest : float, optional
        Length in pixels at full saturation; by default the longest shown, leaving out one pixel in a hundred.

    Returns
    -------
    (H, W, 3) uint8, and the length at full saturation.
    """
    length = np.hypot(motion[0], motion[1])
    if longest is None:
        longest = max(float(np.quantile(length[shown], 1 - OUTLIERS)), 1e-6) if shown.any() else 1.0
    wheel = _wheel()
    angle = np.arctan2(-motion[1], -motion[0]) / (2 * np.pi) + 0.5
    place = angle * len(wheel)
    low = np.floor(place).astype(int)
    hue = wheel[low % len(wheel)] + (place - low)[..., None] * (wheel[(low + 1) % len(wheel)] - wheel[low % len(wheel)])
    share = np.clip(length / longest, 0, 1)[..., None]
    colours = np.rint(255 * (1 - share * (1 - hue))).astype(np.uint8)
    return np.where(shown[..., None], colours, np.array(pictures.BACKGROUND, np.uint8)), longest


def motion_row(motion: Motion, tile: int) -> Picture:
    """Show optical flow with its wheel, the length of scene flow, and what stays visible, side by side."""
    optical, longest = motion_colours(motion.optical, motion.matched)
    length_mm = np.where(motion.matched, 1000 * np.linalg.norm(motion.scene, axis=0), np.nan)
    highest = float(np.nanquantile(length_mm, 1 - OUTLIERS)) if motion.matched.any() else 1.0
    scene = _on_background(pictures.colour_map(length_mm, 0, max(highest, 1e-6), "viridis"))
    seen = np.full((*motion.matched.shape, 3), pictures.BACKGROUND, np.uint8)
    seen[motion.occluded], seen[motion.visible] = OCCLUDED, VISIBLE
    return pictures.contact_sheet(
        [
            (f"optical flow, full colour at {longest:.1f} px", _with_wheel(_resized(optical, tile))),
            (f"scene flow, bright at {highest:.1f} mm", _resized(scene, tile)),
            ("green: visible in the other image, grey: occluded", _resized(seen, tile)),
        ],
        columns=3,
    )


def _with_wheel(picture: Picture) -> Picture:
    size = int(WHEEL_SHARE * picture.shape[0])
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    disk = np.hypot(x, y) <= 1
    colours, _ = motion_colours(np.stack([x, y]), disk, 1.0)
    out = picture.copy()
    out[-size:, -size:][disk] = colours[disk]
    return out


def _wheel() -> npt.NDArray[np.float64]:
    """Return the hues, (55, 3) float64 in [0, 1]."""
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float64)
    parts = [
        corners[i] + (np.arange(steps) / steps)[:, None] * (corners[i + 1] - corners[i])
        for i, steps in enumerate(HUE_STEPS)
    ]
    return np.concatenate(parts)


def _on_background(colours: npt.NDArray[np.floating]) -> Picture:
    background = np.array(pictures.BACKGROUND) / 255
    shown = np.where(np.isfinite(colours), colours, background)
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def _resized(picture: Picture, tile: int) -> Picture:
    from PIL import Image

    # Nearest: motion must not be blended across a silhouette.
    return np.asarray(Image.fromarray(picture).resize((tile, tile), Image.Resampling.NEAREST))
