"""Light and background of simulated captures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from datagen.geometry.mesh import normalised

# Cosine-lobe convolution per spherical-harmonic band, and the basis constants (Ramamoorthi & Hanrahan 2001, eq. 3, 8).
BAND_OF_COEFFICIENT = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2])
COSINE_LOBE = np.array([np.pi, 2 * np.pi / 3, np.pi / 4])[BAND_OF_COEFFICIENT]
BACKGROUND_CELLS = 5


@dataclass(frozen=True)
class Light:
    """Distant light: smooth irradiance and one key light for highlights.

    Attributes
    ----------
    irradiance : (9, 3) float64
        Second-order spherical-harmonic coefficients of irradiance over π, per linear RGB channel, world axes; a
        white Lambertian surface facing the key comes out near 1.
    key_direction : (3,) float64
        Unit, towards the key light, world axes.
    key_colour : (3,) float64
        Linear RGB.
    """

    irradiance: npt.NDArray[np.float64]
    key_direction: npt.NDArray[np.float64]
    key_colour: npt.NDArray[np.float64]


def harmonics(directions: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the nine real spherical harmonics up to order 2 of unit vectors (..., 3), (..., 9) float64."""
    d = np.asarray(directions, np.float64)
    x, y, z = d[..., 0], d[..., 1], d[..., 2]
    return np.stack(
        [
            np.full_like(x, 0.282095),
            0.488603 * y,
            0.488603 * z,
            0.488603 * x,
            1.092548 * x * y,
            1.092548 * y * z,
            0.315392 * (3 * z * z - 1),
            1.092548 * x * z,
            0.546274 * (x * x - y * y),
        ],
        axis=-1,
    )


def light_from(
    directions: npt.ArrayLike, colours: npt.ArrayLike, ambient: npt.ArrayLike, exposure: float = 1.0
) -> Light:
    """Sum distant lights into second-order irradiance; the first is the key.

    Parameters
    ----------
    directions : (L, 3) float
        Towards each light, world axes.
    colours : (L, 3) float
        Linear RGB irradiance on a surface facing the light, over π.
    ambient : (3,) float
        Linear RGB of a uniform surrounding.
    exposure : float
        Scales everything.
    """
    unit, rgb = normalised(np.asarray(directions, np.float64)), np.asarray(colours, np.float64) * exposure
    coefficients = COSINE_LOBE[:, None] * (harmonics(unit).T @ rgb)
    # A uniform surrounding of radiance a gives irradiance π a, that is a after the division by π.
    coefficients[0] += np.asarray(ambient, np.float64) * exposure / 0.282095
    return Light(coefficients, unit[0], rgb[0])


def random_light(rng: np.random.Generator) -> Light:
    """Draw a plausible light: a key from the front and above, a weaker fill from the other side, soft ambient."""
    azimuth = rng.normal(0.0, 0.7)
    elevation = rng.uniform(0.15, 1.0)
    fill_azimuth = -np.sign(azimuth) * rng.uniform(0.6, 1.8)
    temperature = rng.normal(0.0, 0.08)
    warm, cool = np.array([1 + temperature, 1.0, 1 - temperature]), np.array([1 - temperature, 1.0, 1 + temperature])
    key, fill, ambient = rng.uniform(0.55, 0.9), rng.uniform(0.12, 0.3), rng.uniform(0.18, 0.32)
    directions = [
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)],
        [np.sin(fill_azimuth), 0.1, np.cos(fill_azimuth)],
        [0.0, -1.0, 0.3],
    ]
    floor_bounce = 0.06 * np.array([1.0, 0.92, 0.85])
    return light_from(directions, [key * warm, fill * cool, floor_bounce], ambient * np.ones(3), rng.uniform(0.85, 1.1))


def random_background(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw a smooth wall behind the subject, (H, W, 3) float32 linear RGB in [0, 1]."""
    base, spread = rng.uniform(0.04, 0.55), rng.uniform(0.05, 0.45)
    tint = 1 + rng.normal(0, 0.07, 3)
    # Multiplied, so that dark walls vary little; a little colour of its own in every cell.
    cells = base * np.exp(spread * rng.normal(0, 0.6, (BACKGROUND_CELLS, BACKGROUND_CELLS, 1)) * np.ones(3))
    cells = np.clip(cells * tint * np.exp(rng.normal(0, 0.04, cells.shape)), 0.005, 0.95).astype(np.float32)
    channels = [
        np.asarray(Image.fromarray(cells[..., k]).resize((width, height), Image.Resampling.BICUBIC)) for k in range(3)
    ]
    return np.clip(np.stack(channels, axis=-1), 0.0, 1.0)
