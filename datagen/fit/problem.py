"""What a fit is given, how it weighs it, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from datagen.common.arrays import F64, I64
from datagen.geometry.pixel_evidence import PixelEvidence


@dataclass(frozen=True, eq=False)
class SkinPoints:
    """Points of the template whose distance to the skin is known, along the normal alone.

    Attributes
    ----------
    faces : (n,) int64
        Face of the template that holds each.
    barycentric : (n, 3) float64
    points : (n, 3) float64
        Of the skin, world metres.
    normals : (n, 3) float64
        Unit length, world axes.
    sigma_m : (n,) float64
        Standard deviation along them.
    """

    faces: I64
    barycentric: F64
    points: F64
    normals: F64
    sigma_m: F64


@dataclass(frozen=True, eq=False)
class FitFrame:
    """One instant: what the cameras saw.

    Attributes
    ----------
    index : int
        Frame number.
    time_s : float
    evidence : sequence of PixelEvidence
        Of one camera or more.
    skin : SkinPoints or None
        Where the skin is, if that is known.
    """

    index: int
    time_s: float
    evidence: Sequence[PixelEvidence]
    skin: SkinPoints | None = None


@dataclass(frozen=True)
class FitSettings:
    """How things are weighed.

    Attributes
    ----------
    rounds : int
        At most so many Gauss-Newton steps.
    neutral_error_m : float
        How far a given face at rest is off (RMS).
    robust : bool
        Whether points and pictures that disagree with the others count less; without it errors are taken as normal.
    amplitudes : bool
        Whether how far the person departs from the usual face is found too, of each kind of departure by itself;
        otherwise it is as far as people do.
    temporal : bool
        Whether frames that follow each other within :data:`MOST_STEP_S` are held to plausible accelerations.
    focal : bool
        Whether the focal length of each camera is unknown: pixels are then square, the principal point is the middle
        of the picture, and the camera's own focal length is where the search begins.
    stereo : bool
        Whether pictures tell where the skin is, by agreeing with each other; see :mod:`datagen.fit.stereo`.
    """

    rounds: int = 16
    neutral_error_m: float = 1.0e-3
    robust: bool = True
    amplitudes: bool = True
    temporal: bool = True
    focal: bool = False
    stereo: bool = True

    @property
    def compares(self) -> bool:
        """Whether pictures are compared: agreement says more of focal lengths, where these are unknown."""
        return self.stereo and not self.focal


DEFAULTS = FitSettings()


@dataclass(frozen=True, eq=False)
class FittedFrame:
    """A frame's registration.

    Attributes
    ----------
    index : int
    vertices : (V, 3) float64
        Of the head's template, world metres.
    spread_m : (V,) float64
        Posterior standard deviation of each vertex's position (root of the summed variances), that of the pose in it.
    expression : (E,) float64
        Weights.
    head_to_world : (4, 4) float64
        Rigid: axes of the template to the world.
    view_scale : mapping of (source, camera) to float
        How many times as far off as stated the points of each picture are; at least 1.
    """

    index: int
    vertices: F64
    spread_m: F64
    expression: F64
    head_to_world: F64
    view_scale: Mapping[tuple[str, str], float]


@dataclass(frozen=True, eq=False)
class Fit:
    """A person, fitted to pictures.

    Attributes
    ----------
    frames : tuple of FittedFrame
    identity : (I,) float64
        The head model's parameters.
    neutral : (V, 3) float64
        Without expression, template axes, metres.
    scale : float
        Size of the head beside the model's.
    focal_px : mapping of camera to float
        Where they were unknown.
    energy : float
        Half the squared residuals of everything, each in its standard deviations; meaningful without robust weights.
    rounds : int
        Steps that were taken.
    amplitudes : tuple of float
        How far the person departs from the usual face beside what is usual: in the head model's identity, in the
        components of how people differ, and beyond.
    """

    frames: tuple[FittedFrame, ...]
    identity: F64
    neutral: F64
    scale: float
    focal_px: Mapping[str, float] = field(default_factory=dict)
    energy: float = float("nan")
    rounds: int = 0
    amplitudes: tuple[float, ...] = (1.0, 1.0, 1.0)
