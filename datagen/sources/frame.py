"""The one type captures are read into, and what every reader of captures does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.names import require_name
from datagen.common.seen_points import SeenPoints
from datagen.geometry.camera import Camera
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.registry import HEADS
from datagen.sources.depth_maps import DepthMap
from datagen.sources.topology import Topology

Image = npt.NDArray[np.uint8]
# What is expected of captures with `surface: none` where one is needed, and what to do.
WITHOUT_SURFACE = (
    "a scan, depth maps, or registrations that are the surface",
    "`datagen build` fits a head to what is seen in its pictures; `datagen fit` does that alone",
)


@dataclass(frozen=True)
class SequenceKey:
    """Names one capture: a subject performing one sequence.

    Raises
    ------
    InputError
        If either cannot be part of a path.
    """

    subject: str
    sequence: str

    def __post_init__(self) -> None:
        require_name(self.subject, "a subject")
        require_name(self.sequence, f"a sequence of {self.subject}")

    def __str__(self) -> str:
        return f"{self.subject}/{self.sequence}"


@dataclass(frozen=True)
class SequenceInfo:
    """What a build has to know of a capture, or a part of one, without loading its frames.

    Attributes
    ----------
    key : SequenceKey
    frames : tuple of int
        Increasing frame numbers; gaps are allowed.
    cameras : int
        Number of cameras, the same for every frame.
    registration : str or None
        Head model or topology of the registrations; None if there are none.
    epoch_s : float
        What the capture's clock showed at the first frame, from which times are counted; 0 if unknown.
    gated : bool
        Whether masks gate its scans. Simulated ones are kept whole wherever they lie: their truth is told by vertex.
    bare : bool
        Whether it has no surface, but only pictures and what was seen in them.
    """

    key: SequenceKey
    frames: tuple[int, ...]
    cameras: int
    registration: str | None = None
    epoch_s: float = 0.0
    gated: bool = False
    bare: bool = False


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
    spread_m : (V,) float64 or None
        How far each vertex may be off, where whoever made the registration says so: the root of the summed variances
        of its position, metres.
    """

    head: str
    vertices: npt.NDArray[np.float64]
    trust: npt.NDArray[np.float64] | None = None
    spread_m: npt.NDArray[np.float64] | None = None

    @property
    def marks(self) -> Landmarks:
        """The vertices as points with indices."""
        return Landmarks(np.arange(len(self.vertices)), self.vertices, self.head)


@dataclass(frozen=True)
class Scale:
    """By what all lengths of a sequence are multiplied.

    Attributes
    ----------
    factor : float
        Metres for one unit of the capture.
    sigma : float
        Its standard deviation: how much adults differ in size, and how much frames differ.
    landmarks : int
        It was found from, in the frame that has most.
    frames : int
    """

    factor: float
    sigma: float
    landmarks: int
    frames: int

    def __str__(self) -> str:
        return (
            f"{self.factor:.4g} ± {self.sigma:.2g}, from {self.landmarks} landmarks of {self.frames} "
            f"frame{'s' if self.frames > 1 else ''}"
        )


@dataclass(frozen=True)
class Frame:
    """One instant of a capture. Images, masks, depth maps and evidence are read only when asked for.

    Attributes
    ----------
    key : SequenceKey
    index : int
        Frame number.
    time_s : float
        Since the sequence's first frame.
    surface : Mesh, function or None
        The raw surface in world metres, or what makes it, which :attr:`scan` calls once; validated; no faces means a
        point cloud. None of captures that have only pictures.
    cameras : tuple of Camera
    registration : Registration or None
    landmarks : Landmarks or None
        World metres.
    images, masks : mapping of camera name to a reader
        ``images[name]()`` gives (H, W, 3) uint8 sRGB, ``masks[name]()`` gives (H, W) bool; either may lack cameras.
    depths : mapping of camera name to a reader
        ``depths[name]()`` gives what the camera measured; empty in captures without depth maps.
    seen : mapping of camera name to a reader
        ``seen[name]()`` gives what each program saw in the picture; cameras in which nothing was seen are missing.
    scale : Scale or None
        What all lengths were multiplied by, where the captures' unit is not known.
    """

    key: SequenceKey
    index: int
    time_s: float
    surface: Mesh | Callable[[], Mesh] | None
    cameras: tuple[Camera, ...]
    registration: Registration | None = None
    landmarks: Landmarks | None = None
    images: Mapping[str, Callable[[], Image]] = field(default_factory=dict)
    masks: Mapping[str, Callable[[], npt.NDArray[np.bool_]]] = field(default_factory=dict)
    depths: Mapping[str, Callable[[], DepthMap]] = field(default_factory=dict)
    seen: Mapping[str, Callable[[], tuple[SeenPoints, ...]]] = field(default_factory=dict)
    scale: Scale | None = None

    @property
    def fused(self) -> bool:
        """Whether the scan is made of the depth maps."""
        return callable(self.surface)

    @cached_property
    def evidence(self) -> tuple[PixelEvidence, ...]:
        """Where points of a template were seen by the frame's cameras; empty if they were in none.

        Raises
        ------
        InputError
            If a file is broken, or of another size than its picture.
        """
        cameras = [camera for camera in self.cameras if camera.name in self.seen]
        return tuple(PixelEvidence(points, camera) for camera in cameras for points in self.seen[camera.name]())

    @cached_property
    def scan(self) -> Mesh:
        """The raw surface in world metres.

        Raises
        ------
        InputError
            If there is none, or it has to be made, and cannot be.
        """
        if self.surface is None:
            raise InputError(f"frame {self.index} of {self.key} has no surface", *WITHOUT_SURFACE)
        return self.surface if isinstance(self.surface, Mesh) else self.surface()


class Inputs(NamedTuple):
    """What a frame is read from.

    Attributes
    ----------
    digest : str
    paths : tuple of str or None
        All files that it depends on, and the folders whose entries do; some may be missing. As long as size, time and
        inode of all of them stay, so does the digest. None where that cannot be said.
    bare : bool
        Whether the frame has no surface.
    """

    digest: str
    paths: tuple[str, ...] | None
    bare: bool = False


class Captures(ABC):
    """Captures as a source reads them, opened once by each process and read by many threads."""

    @abstractmethod
    def sequences(self) -> Sequence[SequenceInfo]:
        """List every capture, ordered by subject then sequence.

        Raises
        ------
        InputError
            If one cannot be read.
        """

    @abstractmethod
    def frame(self, key: SequenceKey, index: int) -> Frame:
        """Read one frame; of images and masks only the sizes, their pixels wait until they are asked for.

        Raises
        ------
        InputError
            If the sequence or frame is unknown, or a file of it is missing or broken.
        """

    @abstractmethod
    def input_digest(self, key: SequenceKey, index: int) -> str:
        """SHA-256 over all that a frame is read from: results made of it are trusted as long as it stays the same.

        Raises
        ------
        InputError
            As :meth:`frame`.
        """

    def brings(self, key: SequenceKey) -> frozenset[str]:
        """Return which a sequence has of what heads are fitted to, and of what matters for that.

        Returns
        -------
        frozenset of ``evidence``, ``landmarks``, ``images`` and, if a camera has any, ``distortion``
            Nothing from sources whose captures all have surfaces.

        Raises
        ------
        InputError
            As :meth:`sequences`.
        """
        del key
        return frozenset()

    def inputs(self, key: SequenceKey, index: int) -> Inputs:
        """Return the digest of :meth:`input_digest`, and what it was told by; raises as :meth:`input_digest`."""
        return Inputs(self.input_digest(key, index), None)

    def stamp(self, key: SequenceKey, index: int) -> str:
        """Digest of sizes and times, to the second, of the frame's own files: alike on all machines that see the same.

        Nothing is read but ``capture.json``.

        Returns
        -------
        str
            Empty where it cannot be said.

        Raises
        ------
        InputError
            If it is not known which files these are.
        """
        del key, index
        return ""

    def landmarks(self, key: SequenceKey, index: int) -> Landmarks | None:
        """Read the landmarks of a frame alone; raises as :meth:`frame`."""
        return self.frame(key, index).landmarks

    def marks(self, key: SequenceKey, index: int) -> Landmarks | None:
        """Read the points that tell frames of a sequence apart: those of its registration, or else its landmarks.

        Returns
        -------
        Landmarks or None
            Of a registration the indices are those of its vertices, and the scheme its head or topology.

        Raises
        ------
        InputError
            As :meth:`frame`.
        """
        frame = self.frame(key, index)
        return frame.landmarks if frame.registration is None else frame.registration.marks

    def topology(self, name: str) -> Topology:
        """Read a topology of registrations that the captures bring with them, where they are in no head model's.

        Raises
        ------
        InputError
            If there is none of this name, or it is broken.
        """
        raise InputError(f"the captures bring no topology {name}", f"one of {', '.join(HEADS)}", "Check the source")
