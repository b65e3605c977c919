"""Photometric changes of a clip: the same for all its frames, so that agreement between frames stays a cue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def augment_clip(images: npt.NDArray[np.float32], strength: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Change gain per channel, gamma, contrast and saturation, and add noise.

    Parameters
    ----------
    images : (S, 3, H, W) float32 in [0, 1]
    strength : float
        1 is light: gain ±10 %, gamma and contrast ±20 %, saturation ±40 %, noise up to 0.02. 0 changes nothing.
    rng : numpy Generator

    Returns
    -------
    (S, 3, H, W) float32 in [0, 1]
    """
    gain = 1 + strength * rng.uniform(-0.1, 0.1, (1, 3, 1, 1)).astype(np.float32)
    gamma = np.float32(np.exp(strength * rng.uniform(-0.2, 0.2)))
    contrast = np.float32(1 + strength * rng.uniform(-0.2, 0.2))
    saturation = np.float32(max(1 + strength * rng.uniform(-0.4, 0.4), 0.0))
    noise = np.float32(strength * rng.uniform(0, 0.02))
    if strength == 0:
        return images
    out = np.clip(images * gain, 0, 1) ** gamma
    grey = np.einsum("c,schw->shw", _LUMA, out)[:, None]
    out = grey + saturation * (out - grey)
    mean = out.mean(dtype=np.float32)
    out = mean + contrast * (out - mean)
    out = out + noise * rng.standard_normal(images.shape, np.float32)
    return np.clip(out, 0, 1).astype(np.float32)


def mirror_clip(
    images: npt.NDArray[np.float32],
    depth_m: npt.NDArray[np.float32],
    canonical: npt.NDArray[np.float32],
    confidence: npt.NDArray[np.float32],
    intrinsics: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], ...]:
    """Mirror a clip left to right; the canonical x changes its sign, for a space symmetric about x = 0.

    Shapes are (S, 3, H, W), (S, H, W), (S, 3, H, W), (S, H, W) and (S, 3, 3). The mirrored scene has no rigid
    camera pose any more, so poses must not be used with it.
    """
    sign = np.array([-1, 1, 1], np.float32)[:, None, None]
    flipped = intrinsics.copy()
    flipped[:, 0, 2] = images.shape[-1] - intrinsics[:, 0, 2]
    return (
        np.ascontiguousarray(images[..., ::-1]),
        np.ascontiguousarray(depth_m[..., ::-1]),
        np.ascontiguousarray(canonical[..., ::-1] * sign),
        np.ascontiguousarray(confidence[..., ::-1]),
        flipped,
    )
