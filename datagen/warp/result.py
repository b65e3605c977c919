"""What a warp is, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from datagen.geometry.space import CanonicalSpace
from datagen.warp.parameters import HeadParameters, no_parameters

Status = Literal["pass", "review", "fail"]

# What the results of the warp are called in their folders.
WARP_FILE = "warp.npz"
VERDICT_FILE = "verdict.json"
PERSON_FILE = "person.npz"
# Beside it, where the person's texture is asked for.
APPEARANCE_FILE = "appearance.npz"
BRIDGE_FILE = "bridge.npz"


@dataclass(frozen=True)
class Verdict:
    """Judgement of one frame's warp.

    Attributes
    ----------
    status : ``pass``, ``review`` or ``fail``
    reasons : tuple of str
        One sentence each, with the metric and its limit; for a pass, notes at most.
    metrics : dict of str to float
        Everything measured, flat, units in the names.
    """

    status: Status
    reasons: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Warp:
    """The map from a frame's scan to canonical space.

    Attributes
    ----------
    scan_vertices : (N, 3) float64
        The scan's own points, metres, in the input's frame.
    scan_faces : (F, 3) int32
    canonical : (N, 3) float32
        Normalised canonical coordinate of each scan vertex; NaN where the scan has no counterpart.
    confidence : (N,) float32
        In [0, 1]; 0 where ``canonical`` is NaN.
    region : (N,) uint8
        Labels of :data:`datagen.heads.regions.REGIONS`; 0 where there is no counterpart.
    registered_vertices : (V, 3) float64
        The template deformed onto the scan, metres, in the input's frame.
    registered_faces : (G, 3) int32
    head_to_world : (4, 4) float64
        Rigid: template axes and origin to the input's frame.
    spread_m : (V,) float32
        Posterior standard deviation of each registered vertex's position, per coordinate (RMS of the three), metres;
        empty in a warp that the engine did not make.
    parameters : HeadParameters
        What the head model says of the registered face.
    usual_height_m : float
        Median height of the scan over the registered face. With the spread and the verdict's figures it is what the
        confidence of other points of the surface is made of (:class:`datagen.warp.carry.Carrier`).
    """

    scan_vertices: npt.NDArray[np.float64]
    scan_faces: npt.NDArray[np.int32]
    canonical: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    region: npt.NDArray[np.uint8]
    registered_vertices: npt.NDArray[np.float64]
    registered_faces: npt.NDArray[np.int32]
    head_to_world: npt.NDArray[np.float64]
    space: CanonicalSpace
    verdict: Verdict
    spread_m: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    parameters: HeadParameters = field(default_factory=no_parameters)
    usual_height_m: float = 0.0
