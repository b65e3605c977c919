"""Colours of hair and eyes as they occur together."""

from __future__ import annotations

import numpy as np

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
