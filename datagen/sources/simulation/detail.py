"""Detail a head model lacks: pores, hair and brow relief fixed to the skin, wrinkles that come with expression."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from datagen.heads.base import HeadTemplate
from datagen.heads.regions import INTERIOR_REGIONS, REGIONS
from datagen.sources.simulation.fields import WaveField
from datagen.sources.simulation.motion import plain_name

F64 = npt.NDArray[np.float64]

WRINKLE_DEPTH_M = 0.4e-3
PORE_M = 0.03e-3
HAIR_RELIEF_M = 0.8e-3
BROW_RELIEF_M = 0.25e-3
# Which expressions fold which skin; the strongest of them counts.
DRIVERS: Mapping[str, tuple[str, ...]] = {
    "forehead": ("browInnerUp", "browInnerUpLeft", "browInnerUpRight", "browOuterUpLeft", "browOuterUpRight"),
    "frown": ("browDownLeft", "browDownRight"),
    "right_crow": ("eyeSquintRight", "mouthSmileRight", "cheekSquintRight"),
    "left_crow": ("eyeSquintLeft", "mouthSmileLeft", "cheekSquintLeft"),
    "right_fold": ("mouthSmileRight", "mouthUpperUpRight", "noseSneerRight"),
    "left_fold": ("mouthSmileLeft", "mouthUpperUpLeft", "noseSneerLeft"),
}


class SkinDetail:
    """Offsets along the normal of a densely sampled template.

    All patterns are functions of canonical position and region, so they are fixed to the skin; only the wrinkles'
    depth follows the expression.

    Parameters
    ----------
    template : HeadTemplate
    points : (N, 3) float64
        Template-space metres of the dense vertices.
    shares : mapping of region name to (N,) float64
        Soft membership of each region, in [0, 1].
    rng : numpy Generator
        Seeded by the subject.
    """

    def __init__(
        self, template: HeadTemplate, points: F64, shares: Mapping[str, F64], rng: np.random.Generator
    ) -> None:
        skin = 1 - np.sum([shares[name] for name in INTERIOR_REGIONS], axis=0)
        pores = WaveField.draw((3e-3, 7e-3), rng)(points)[:, 0]
        hair = np.clip(WaveField.draw((6e-3, 30e-3), rng)(points * [1.0, 0.5, 1.0])[:, 0] + 0.5, -1.5, 1.5)
        self._fixed = skin * (PORE_M * pores + HAIR_RELIEF_M * shares["scalp"] ** 2 * hair)
        self._fixed += BROW_RELIEF_M * shares["brows"] * np.abs(WaveField.draw((2.5e-3, 6e-3), rng)(points)[:, 0])
        strength = rng.uniform(0.4, 1.0, len(DRIVERS))
        patterns = _wrinkles(template.landmarks(), points, rng)
        self._wrinkles = {
            name: WRINKLE_DEPTH_M * s * skin * patterns[name] for s, name in zip(strength, DRIVERS, strict=True)
        }

    def offsets(self, expression_names: tuple[str, ...], weights: F64) -> F64:
        """Return the offset along the normal under expression ``weights`` (E,), (N,) float64 metres."""
        column = {plain_name(name): k for k, name in enumerate(expression_names)}
        total = self._fixed.copy()
        for name, drivers in DRIVERS.items():
            active = max((float(weights[column[d.lower()]]) for d in drivers if d.lower() in column), default=0.0)
            if active > 0:
                total += np.clip(active, 0, 1) * self._wrinkles[name]
        return total


def soft_regions(labels: npt.NDArray[np.integer]) -> dict[str, F64]:
    """Return one indicator (V,) float64 per region name."""
    return {name: (labels == label).astype(np.float64) for name, label in REGIONS.items()}


def _wrinkles(landmarks: F64, points: F64, rng: np.random.Generator) -> dict[str, F64]:
    """Return each wrinkle pattern, (N,) float64 in [-1, 0]: grooves, in template metres and axes (y up, x left)."""
    warp = WaveField.draw((25e-3, 60e-3), rng)(points)[:, 0]
    unit = float(np.linalg.norm(landmarks[45] - landmarks[36])) / 0.09  # 1 for an adult face
    brow = landmarks[17:27].mean(axis=0)
    patterns = {
        "forehead": _gauss(points, brow + np.array([0, 0.028, 0]) * unit, np.array([0.045, 0.014, 0.04]) * unit)
        * _grooves(points[:, 1], 0.0085 * unit, warp, rng),
        "frown": _gauss(points, (landmarks[21] + landmarks[22]) / 2, np.array([0.009, 0.011, 0.03]) * unit)
        * _grooves(points[:, 0], 0.0075 * unit, 0.5 * warp, rng),
    }
    for side, sign, corner, ala, mouth in (("right", -1, 36, 31, 48), ("left", 1, 45, 35, 54)):
        eye = landmarks[corner] + np.array([sign * 0.014, 0.0, -0.004]) * unit
        angle = np.arctan2(points[:, 1] - landmarks[corner, 1], np.abs(points[:, 0] - landmarks[corner, 0] * 0.7))
        patterns[f"{side}_crow"] = _gauss(points, eye, np.array([0.010, 0.013, 0.02]) * unit) * _grooves(
            angle, 0.24, 0.4 * warp, rng
        )
        start = landmarks[ala] + np.array([sign * 0.006, 0.002, 0.0]) * unit
        end = landmarks[mouth] + np.array([sign * 0.010, 0.0, 0.0]) * unit
        along = np.clip((points - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        distance = np.linalg.norm(points - start - along[:, None] * (end - start), axis=1)
        patterns[f"{side}_fold"] = -np.exp(-0.5 * (distance / (0.0028 * unit)) ** 2)
    return patterns


def _gauss(points: F64, centre: F64, width: F64) -> F64:
    return np.asarray(np.exp(-0.5 * (((points - centre) / width) ** 2).sum(axis=1)))


def _grooves(across: F64, period: float, warp: F64, rng: np.random.Generator) -> F64:
    """Return narrow grooves at a period, bent by ``warp``, in [-1, 0]."""
    phase = 2 * np.pi * across / period + 1.2 * warp + float(rng.uniform(0, 2 * np.pi))
    return np.asarray(-(((1 + np.cos(phase)) / 2) ** 2))
