"""What is drawn once per person: tones of skin, hair and eyes as they occur together, and where hair grows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Colour = tuple[float, float, float]

DARK_HAIR, BROWN_HAIR, FAIR_HAIR = (0.010, 0.008, 0.007), (0.045, 0.025, 0.014), (0.30, 0.19, 0.095)
RED_HAIR = (0.20, 0.065, 0.022)
# Outer and inner iris, linear RGB.
BROWN_EYES = ((0.050, 0.024, 0.012), (0.110, 0.052, 0.022))
HAZEL_EYES = ((0.075, 0.062, 0.028), (0.150, 0.085, 0.030))
BLUE_EYES = ((0.080, 0.135, 0.200), (0.170, 0.200, 0.200))
GREY_EYES = ((0.105, 0.130, 0.135), (0.170, 0.165, 0.130))


def hair_colour(tone: float, red: float, fair: float) -> Colour:
    """Return linear RGB of hair; ``tone`` and ``red`` are uniform draws, ``fair`` is 1 for the palest skin."""
    light = tone**1.3 * (0.08 + 0.92 * fair) if fair > 0 else 0.15 * tone
    stops = np.array([DARK_HAIR, BROWN_HAIR, FAIR_HAIR])
    colour = np.array([np.interp(light, [0.05, 0.45, 0.9], stops[:, k]) for k in range(3)])
    share = (0.85 if red > 0.9 else 0.0) * fair
    mixed = (1 - share) * colour + share * np.array(RED_HAIR)
    return float(mixed[0]), float(mixed[1]), float(mixed[2])


def iris_colour(draw: float, shade: float, melanin: float) -> tuple[Colour, Colour]:
    """Return linear RGB of the outer and inner iris; dark skin almost always goes with brown eyes."""
    brown = 0.25 + 2.4 * melanin
    rest = (draw - brown) / max(1e-6, 1 - brown)
    pair = BROWN_EYES if draw < brown else BLUE_EYES if rest < 0.5 else HAZEL_EYES if rest < 0.78 else GREY_EYES
    outer, inner = (np.array(colour) * (0.7 + 0.6 * shade) for colour in pair)
    return (float(outer[0]), float(outer[1]), float(outer[2])), (float(inner[0]), float(inner[1]), float(inner[2]))


class Look(NamedTuple):
    """A person's appearance; a named tuple of numbers, so that compiled code reads it by name.

    Attributes
    ----------
    seed : int
        Of every pattern on the skin.
    melanin, blood : float
        Amounts of the two absorbers of skin; 0 is the palest, 1 very dark or flushed.
    blood_contrast, mottle, freckles, moles : float
        How unevenly they are spread.
    relief : float
        Depth of pores and fine lines, 1 for an average skin.
    oil : float
        How much skin shines, 0 matt to 1.
    hair, brow, beard_hair, iris, iris_inner : 3 floats
        Linear RGB.
    hair_cover, hairline_mm, temples_mm : float
        How much of the scalp hair hides, how far the hairline lies back, and how much further at the temples.
    hair_length_mm : float
        Of a crop: longer is smoother and shinier.
    cap : float
        1 for a person who wears a cap over the hair.
    cap_colour : 3 floats
    beard : float
        0 none, up to 0.35 shaved, 0.6 stubble, 1 a short beard.
    lip_tint : float
        Additional red of the lips.
    teeth : 3 floats
    """

    seed: int
    melanin: float
    blood: float
    blood_contrast: float
    mottle: float
    freckles: float
    moles: float
    relief: float
    oil: float
    hair: Colour
    brow: Colour
    iris: Colour
    iris_inner: Colour
    hair_cover: float
    hairline_mm: float
    temples_mm: float
    hair_length_mm: float
    cap: float
    cap_colour: Colour
    brow_thickness: float
    brow_density: float
    beard: float
    lashes: float
    lip_tint: float
    pupil_mm: float
    eye_red: float
    teeth: Colour
    shirt: Colour


class Traits(NamedTuple):
    """What a person's shape says of the looks.

    Attributes
    ----------
    masculine : float
        0 to 1.
    age : float
        0 young adult to 1 old.
    melanin : float
        Expected amount, 0 to 1.
    """

    masculine: float = 0.5
    age: float = 0.3
    melanin: float = 0.42


def draw_look(rng: np.random.Generator, traits: Traits | None = None) -> Look:
    """Draw a person's appearance.

    Parameters
    ----------
    rng : numpy Generator
        Seeded by the subject; the number of draws does not depend on what is drawn.
    traits : Traits, optional
        What the person's shape suggests.
    """
    t = traits or Traits()
    u = rng.uniform(size=40)
    normal = rng.normal(size=12)
    melanin = float(np.clip(t.melanin + 0.17 * normal[0], 0.02, 1.0))
    fair = max(0.0, 1 - 2.2 * melanin)
    hair = hair_colour(u[0], u[1], fair)
    grey = float(np.clip((t.age - 0.75 + 0.5 * (u[2] - 0.5)) * 2.2, 0, 0.9))
    aged = (1 - grey) * np.array(hair) + grey * np.array([0.33, 0.32, 0.31])
    iris, inner = iris_colour(u[3], u[4], melanin)
    bald = u[5] < 0.10 + 0.12 * t.masculine
    beard_draw = u[6] * np.clip(2 * t.masculine - 0.35, 0, 1)
    return Look(
        seed=int(rng.integers(1, 2**30)),
        melanin=melanin,
        blood=float(0.08 + 0.3 * u[7]),
        blood_contrast=float(0.5 + 0.7 * u[8]),
        mottle=float(0.5 + 0.9 * u[9]),
        freckles=float(u[10] ** 3 * max(0.0, 1 - 1.7 * melanin)),
        moles=float(0.15 + 0.85 * u[11]),
        relief=float(0.7 + 0.7 * u[12]),
        oil=float(0.15 + 0.75 * u[13]),
        hair=_colour(aged),
        brow=_colour(0.7 * (0.85 * np.array(hair) + 0.15 * aged)),
        iris=iris,
        iris_inner=inner,
        hair_cover=float(0.12 + 0.25 * u[14]) if bald else float(0.92 + 0.07 * u[14]),
        hairline_mm=float(4 * normal[1] + 6 * t.masculine * t.age),
        temples_mm=float(np.clip(6 * t.masculine * (0.3 + t.age) + 4 * normal[2], 0, 22)),
        hair_length_mm=float(2 + 10 * u[15]),
        cap=float(u[16] < 0.08),
        cap_colour=_colour(0.03 + 0.5 * u[17] * (0.4 + 0.6 * u[18:21])),
        brow_thickness=float(0.75 + 0.3 * t.masculine + 0.25 * u[21]),
        brow_density=float(0.6 + 0.35 * u[22]),
        beard=float(np.clip(1.05 * beard_draw**1.3, 0, 1)),
        lashes=float(0.75 - 0.3 * t.masculine + 0.25 * u[23]),
        lip_tint=float(0.25 * u[24] + 0.35 * (1 - t.masculine) * u[25]),
        pupil_mm=float(1.3 + 0.9 * u[26]),
        eye_red=float(u[27]),
        teeth=_colour(np.array([0.72, 0.67, 0.56]) * (0.85 + 0.25 * u[28])),
        shirt=_colour((0.02 + 0.6 * u[29] ** 2) * (0.45 + 0.55 * u[30:33])),
    )


def _colour(rgb: npt.NDArray[np.float64]) -> Colour:
    return float(rgb[0]), float(rgb[1]), float(rgb[2])
