"""The one type captures are read into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SequenceKey:
    """Names one capture: a subject performing one sequence."""

    subject: str
    sequence: str

    def __str__(self) -> str:
        return f"{self.subject}/{self.sequence}"


@dataclass(frozen=True)
class SequenceInfo:
    """What planning needs to know of a capture without loading its frames.

    Attributes
    ----------
    key : SequenceKey
    frames : tuple of int
        Increasing frame numbers; gaps are allowed.
    fps : float
        Frames a second, so that time is ``frame / fps``.
    cameras : tuple of Camera
        Validated; the same for every frame.
    registration : str or None
        Head model or topology of the registrations; None if there are none.
    """

    key: SequenceKey
    frames: tuple[int, ...]
    fps: float
    cameras: tuple[Camera, ...]
    registration: str | None = None


@dataclass(frozen=True)
class Registration:
    """Template-topology vertices supplied with a frame, such as a tracker's fit.

    Attributes
    ----------
    head : str
        Name of the head model, or of the captures' own topology, that its vertices belong to.
    vertices : (V, 3) float64
        World metres.
    trust : (V,) float64 or None
        In [0, 1]: how far each vertex is known rather than guessed; None where all are known.
    """

    head: str
    vertices: npt.NDArray[np.float64]
    trust: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Frame:
    """One instant of a capture. Images and masks are read only when asked for.

    Attributes
    ----------
    key : SequenceKey
    index : int
        Frame number.
    time_s : float
    scan : Mesh
        The raw surface in world metres; validated; no faces means a point cloud.
    cameras : tuple of Camera
    registration : Registration or None
    landmarks : Landmarks or None
        World metres.
    images, masks : mapping of camera name to a reader
        ``images[name]()`` gives (H, W, 3) uint8 sRGB, ``masks[name]()`` gives (H, W) bool; either may lack cameras.
    """

    key: SequenceKey
    index: int
    time_s: float
    scan: Mesh
    cameras: tuple[Camera, ...]
    registration: Registration | None = None
    landmarks: Landmarks | None = None
    images: Mapping[str, Callable[[], Image]] = field(default_factory=dict)
    masks: Mapping[str, Callable[[], npt.NDArray[np.bool_]]] = field(default_factory=dict)
