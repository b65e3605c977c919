"""Units of length, and the canonical space: one normalised coordinate for each skin point, whoever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError

MM_PER_M = 1000.0
METRES_PER_UNIT = {"m": 1.0, "dm": 0.1, "cm": 0.01, "mm": 0.001, "in": 0.0254}


def metres_per(unit: str, name: str) -> float:
    """Return the length of ``unit`` in metres; ``name`` says what declared it.

    Raises
    ------
    InputError
        If the unit is unknown.
    """
    if unit not in METRES_PER_UNIT:
        raise InputError(
            f"{name} declares the unit {unit!r}",
            f"one of {', '.join(METRES_PER_UNIT)}",
            "Declare the unit its coordinates are in",
        )
    return METRES_PER_UNIT[unit]


@dataclass(frozen=True)
class CanonicalSpace:
    """A normalised frame around a head model's neutral template.

    ``c = (x − centre) / half_extent``, each component in [−1, 1].

    Attributes
    ----------
    head : str
        Name of the head model whose template spans the space.
    centre : tuple of 3 float
        Metres, in template axes.
    half_extent : float
        Metres; one scalar, so angles survive.
    identity : str
        ``shared`` (mean template) or ``personal``.
    template_digest : str
        SHA-256 of the template's vertices and faces; two datasets mix only if it agrees.
    """

    head: str
    centre: tuple[float, float, float]
    half_extent: float
    identity: str = "shared"
    template_digest: str = ""

    @classmethod
    def around(
        cls, vertices: npt.NDArray[np.floating], head: str, template_digest: str, margin: float = 1.02
    ) -> CanonicalSpace:
        """Fit the space around template vertices (V, 3) metres, with a margin for detail outside the template."""
        low, high = np.min(vertices, axis=0), np.max(vertices, axis=0)
        # Rounded to 0.1 mm: readable in the files, and immune to last-bit differences between machines.
        centre = np.round((low + high) / 2, 4)
        half_extent = float(np.round(np.max(high - low) / 2 * margin, 4))
        return cls(
            head,
            (float(centre[0]), float(centre[1]), float(centre[2])),
            half_extent,
            "shared",
            template_digest,
        )

    def normalise(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map template-space points (..., 3) metres to normalised coordinates, (..., 3) float64."""
        return (np.asarray(points, np.float64) - np.array(self.centre)) / self.half_extent

    def metres(self, canonical: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map normalised coordinates (..., 3) back to template-space metres, (..., 3) float64."""
        return np.asarray(canonical, np.float64) * self.half_extent + np.array(self.centre)

    def distance_mm(self, a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Distance between normalised coordinates (..., 3), (...,) float64 millimetres."""
        difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
        return np.linalg.norm(difference, axis=-1) * self.half_extent * MM_PER_M

    def to_attrs(self) -> dict[str, Any]:
        """Return the JSON form stored in datasets and warp files."""
        return {
            "head": self.head,
            "centre": list(self.centre),
            "half_extent": self.half_extent,
            "identity": self.identity,
            "template_digest": self.template_digest,
        }

    @classmethod
    def from_attrs(cls, attrs: dict[str, Any]) -> CanonicalSpace:
        """Read the JSON form written by :meth:`to_attrs`."""
        x, y, z = (float(value) for value in attrs["centre"])
        return cls(
            str(attrs["head"]),
            (x, y, z),
            float(attrs["half_extent"]),
            str(attrs["identity"]),
            str(attrs["template_digest"]),
        )
