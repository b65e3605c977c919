"""Light and the colour of skin, told from a picture whose normals are known.

Light is nine spherical harmonics a channel, which is what a matt surface shows of any light from afar (Ramamoorthi and
Hanrahan, SIGGRAPH 2001). How bright it is and how light the skin is cannot be told apart in one picture: light here is
that on a skin of one colour, and albedo is the colour of each vertex over that.
"""

from __future__ import annotations

import torch

HARMONICS = 9
_RIDGE = 1e-3
_EVERY = 4  # pixels along a side: light is smooth
_LEAST_SHADE = 0.03
# So that a constant light of 1 has 1 as its first coefficient, and the others are of like size.
_SCALES = (1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0, 2.0, 1.0)


def harmonics(normals: torch.Tensor) -> torch.Tensor:
    """Return the nine harmonics (..., 9) of unit normals (..., 3)."""
    x, y, z = normals.unbind(-1)
    values = (torch.ones_like(x), x, y, z, x * y, y * z, 1.5 * z * z - 0.5, x * z, x * x - y * y)
    return torch.stack([scale * value for scale, value in zip(_SCALES, values, strict=True)], -1)


def shade(light: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """Return the colours (B, n, 3), linear, of a skin of one colour under light (B, 27) with normals (B, n, 3)."""
    return harmonics(normals) @ light.reshape(len(light), HARMONICS, 3)


def linear(colours: torch.Tensor) -> torch.Tensor:
    """Return sRGB colours in [0, 1] as amounts of light."""
    low = colours <= 0.04045
    return torch.where(low, colours / 12.92, ((colours.clamp(min=0.04) + 0.055) / 1.055) ** 2.4)


def fit_light(images: torch.Tensor, normals: torch.Tensor, skin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the light of crops by least squares, and which crops show enough skin to tell.

    Parameters
    ----------
    images : (B, 3, H, W)
        sRGB in [0, 1].
    normals : (B, 3, H, W)
        In the crop's axes.
    skin : (B, H, W)
        Above 0.5 where the face's skin is seen.

    Returns
    -------
    light : (B, 27)
    known : (B,) bool
    """
    part = (slice(None), slice(None), slice(_EVERY // 2, None, _EVERY), slice(_EVERY // 2, None, _EVERY))
    seen = (skin[:, None][part].flatten(1) > 0.5).float()
    colours = linear(images[part]).flatten(2).transpose(1, 2)
    basis = harmonics(torch.nn.functional.normalize(normals[part].flatten(2).transpose(1, 2), dim=-1))
    weighted = (basis * seen[..., None]).transpose(1, 2)
    count = seen.sum(1)
    normal = weighted @ basis + _RIDGE * count.clamp(min=1)[:, None, None] * torch.eye(HARMONICS, device=basis.device)
    found = torch.linalg.solve(normal, weighted @ colours)
    return found.flatten(1), count >= 2 * HARMONICS


def relative_colour(colours: torch.Tensor, shading: torch.Tensor) -> torch.Tensor:
    """Return linear colours (B, n, 3) over what a skin of one colour would show there."""
    return colours / shading.clamp(min=_LEAST_SHADE)
