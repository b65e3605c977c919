"""Light of simulated captures: smooth surroundings and a few lamps of finite size."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.geometry.mesh import normalised

# Cosine-lobe convolution per spherical-harmonic band, and the basis constants (Ramamoorthi & Hanrahan 2001, eq. 3, 8).
BAND_OF_COEFFICIENT = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2])
COSINE_LOBE = np.array([np.pi, 2 * np.pi / 3, np.pi / 4])[BAND_OF_COEFFICIENT]
UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Lamp:
    """A rectangular lamp far enough away to shine in one direction per point of it.

    Attributes
    ----------
    direction : (3,) float64
        Unit, towards the lamp's middle, world axes.
    colour : (3,) float64
        Linear RGB irradiance on a surface facing it, over π.
    half_width, half_height : float
        Tangents of the angles from the middle to the sides.
    """

    direction: F64
    colour: F64
    half_width: float = 0.1
    half_height: float = 0.1

    def frame(self) -> F64:
        """Return its right, up and direction as rows, (3, 3) float64."""
        helper = UP if abs(self.direction[1]) < 0.9 else np.array([0.0, 0.0, 1.0])
        right = normalised(np.cross(helper, self.direction))
        return np.stack([right, np.cross(self.direction, right), self.direction])

    def samples(self, count: int) -> F64:
        """Return ``count`` directions spread over the lamp (R2 sequence), (count, 3) float64 unit."""
        k = np.arange(count) + 0.5
        a, b = (k * 0.7548776662466927) % 1, (k * 0.5698402909980532) % 1
        offset = np.stack([(2 * a - 1) * self.half_width, (2 * b - 1) * self.half_height, np.ones(count)], axis=1)
        return normalised(offset @ self.frame())


@dataclass(frozen=True)
class Light:
    """Distant light.

    Attributes
    ----------
    irradiance : (9, 3) float64
        Second-order spherical-harmonic coefficients of the surroundings' irradiance over π, per linear RGB channel,
        world axes; the lamps are not in it.
    lamps : tuple of Lamp
        At most :data:`MOST_LAMPS`; the first is the key.
    """

    irradiance: F64
    lamps: tuple[Lamp, ...] = field(default=())

    def facing(self, direction: npt.ArrayLike) -> F64:
        """Return the irradiance over π of an unshadowed surface with a unit normal, (3,) float64."""
        n = np.asarray(direction, np.float64)
        lit = [max(0.0, float(n @ lamp.direction)) * lamp.colour for lamp in self.lamps]
        return np.asarray(harmonics(n) @ self.irradiance + np.sum([np.zeros(3), *lit], axis=0))

    def scaled(self, gain: npt.ArrayLike) -> Light:
        """Return the same light, brighter by a factor, or by one per channel."""
        g = np.broadcast_to(np.asarray(gain, np.float64), (3,))
        lamps = tuple(Lamp(x.direction, x.colour * g, x.half_width, x.half_height) for x in self.lamps)
        return Light(self.irradiance * g, lamps)


MOST_LAMPS = 3


def harmonics(directions: npt.NDArray[np.floating]) -> F64:
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


def light_from(directions: npt.ArrayLike, colours: npt.ArrayLike, ambient: npt.ArrayLike) -> Light:
    """Sum distant lights and a uniform surrounding into second-order irradiance, without lamps.

    Parameters
    ----------
    directions : (L, 3) float
        Towards each light, world axes.
    colours : (L, 3) float
        Linear RGB irradiance on a surface facing the light, over π.
    ambient : (3,) float
        Linear RGB of a uniform surrounding.
    """
    unit, rgb = normalised(np.asarray(directions, np.float64)), np.asarray(colours, np.float64)
    coefficients = COSINE_LOBE[:, None] * (harmonics(unit).T @ rgb)
    # A uniform surrounding of radiance a gives irradiance π a, that is a after the division by π.
    coefficients[0] += np.asarray(ambient, np.float64) / 0.282095
    return Light(coefficients)


def random_light(rng: np.random.Generator) -> Light:
    """Draw a plausible light, brightness about 1 on a surface that faces the front: one of five kinds of place.

    A dome of even light, a studio with softboxes, a window at one side, the sun or a bare flash, a room lit from above.
    """
    kind = int(rng.choice(5, p=[0.2, 0.3, 0.2, 0.15, 0.15]))
    u, side = rng.uniform(size=16), 1.0 if rng.uniform() < 0.5 else -1.0
    warm = rng.normal(0.0, 0.09)
    if kind == 0:  # an even dome
        key = (side * (0.2 + 0.7 * u[0]), 0.3 + 0.6 * u[1], 0.35 + 0.2 * u[2], 0.35, 0.35)
        fill, rim, around, floor = 0.12, 0.0, 0.6, 0.15
    elif kind == 1:  # softboxes
        key = (side * (0.35 + 0.6 * u[0]), 0.35 + 0.45 * u[1], 0.8, 0.12 + 0.2 * u[2], 0.16 + 0.2 * u[3])
        fill, rim, around, floor = 0.05 + 0.18 * u[4], 0.4 * u[5], 0.06 + 0.12 * u[6], 0.04
    elif kind == 2:  # a window
        key = (side * (0.8 + 0.6 * u[0]), 0.1 + 0.3 * u[1], 0.85, 0.25 + 0.15 * u[2], 0.35)
        fill, rim, around, floor = 0.0, 0.15 * u[5], 0.08 + 0.12 * u[6], 0.05
    elif kind == 3:  # sun or flash
        key = (side * (0.1 + 0.9 * u[0]), 0.25 + 0.75 * u[1], 0.9, 0.015 + 0.05 * u[2], 0.015 + 0.05 * u[2])
        fill, rim, around, floor = 0.03, 0.1 * u[5], 0.08 + 0.16 * u[6], 0.06
    else:  # a ceiling
        key = (side * 0.5 * u[0], 0.85 + 0.4 * u[1], 0.7, 0.3, 0.2)
        fill, rim, around, floor = 0.06 + 0.12 * u[4], 0.1 * u[5], 0.14 + 0.15 * u[6], 0.08
    azimuth, elevation, strength, half_width, half_height = key
    tint = np.array([1 + warm, 1.0, 1 - 1.3 * warm])
    lamps = [Lamp(_toward(azimuth, elevation), strength * tint, half_width, half_height)]
    if fill > 0:
        cool = np.array([1 - 0.5 * warm, 1.0, 1 + 0.7 * warm])
        lamps.append(Lamp(_toward(-side * (0.5 + 0.7 * u[7]), 0.1 + 0.3 * u[8]), fill * cool, 0.35, 0.35))
    if rim > 0.04:
        lamps.append(Lamp(_toward(-side * (2.1 + 0.5 * u[9]), 0.3 + 0.4 * u[10]), rim * np.ones(3), 0.12, 0.25))
    colour = 1 + rng.normal(0, 0.05, 3)
    # Brighter above than below, and brighter on one side; the floor gives some of the key's light back.
    sides = np.array([[0, 1, 0], [0, -1, 0.2], [side * np.cos(2 * u[11]), 0.1, np.sin(2 * u[11])]])
    levels = around * np.array([0.5, 0.0, 0.45 * u[12]])[:, None] * colour
    levels[1] = floor * np.array([1.05, 0.95, 0.85]) * tint
    soft = light_from(sides, levels, 0.75 * around * colour)
    light = Light(soft.irradiance, tuple(lamps))
    front = float(light.facing([0.0, 0.25, 0.97]).mean())
    return light.scaled(1 / front)


def _toward(azimuth: float, elevation: float) -> F64:
    return np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], np.float64
    )
