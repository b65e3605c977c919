"""What an importer says of the captures it found, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from datagen.geometry.landmarks import Landmarks
from datagen.geometry.lens import BrownLens, Lens
from datagen.geometry.mesh import Mesh
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.archives import File


@dataclass(frozen=True)
class ImportSettings:
    """What the files cannot say; each importer says in its entry which of them it takes.

    Attributes
    ----------
    unit : str or None
        Unit of scans and cameras.
    metres_per_unit : float or None
        Or the length of their unit, where it is arbitrary.
    scales : Path or None
        A set's own file with the length of the unit of each scan.
    scan : str or None
        Path of the scan below each workspace.
    images : Path or None
        Folder of the pictures, where it is elsewhere.
    subject : str or None
        Name of the person, where the folders do not say it.
    original_world : bool
        Whether cameras go back to the world that they had before a program turned and scaled them.
    fps : float or None
        Frames a second, where the set's own number is not to be taken.
    pixel_center : float or None
        Where the centre of the top-left pixel lies in K: 0 or 0.5, where the set does not say it.
    distorted : bool
        Whether the pictures have the lens distortion of the calibration, where the set does not say it.
    axes : str or None
        Axes of the cameras, where the layout's own are not to be taken.
    depth_unit : str or None
        Unit of depth maps, where it is not what the layout says.
    topology : Path or None
        A mesh with the faces of vertices that come without.
    landmarks : Path or None
        The set's own file with the vertices that are landmarks.
    tracking : str or None
        Path of the tracked parameters below each person, where the set brings none.
    cameras, image_size : int or None
        Of simulated pictures: how many cameras, and pixels a side.
    facing : str or None
        Axis that comes out of the faces of meshes without pictures.
    licence, citation : str or None
        Of the captures, where they are no public set's.
    """

    unit: str | None = None
    metres_per_unit: float | None = None
    scales: Path | None = None
    scan: str | None = None
    images: Path | None = None
    subject: str | None = None
    original_world: bool = False
    fps: float | None = None
    pixel_center: float | None = None
    distorted: bool = False
    axes: str | None = None
    depth_unit: str | None = None
    topology: Path | None = None
    landmarks: Path | None = None
    tracking: str | None = None
    cameras: int | None = None
    image_size: int | None = None
    facing: str | None = None
    licence: str | None = None
    citation: str | None = None


@dataclass(frozen=True)
class ImportedCamera:
    """A camera as its files have it, lens distortion included.

    Attributes
    ----------
    name : str
    K : (3, 3) float64
        Pixels of a picture of ``size``; pixel centres at +0.5.
    world_to_camera : (4, 4) float64
        Rigid, OpenCV axes, translation in the sequence's unit.
    size : tuple of int
        Width and height that K belongs to. Pictures may be scaled: K is scaled with them.
    lens : Lens
    poses : mapping of frame to (4, 4) float64
        World to camera at each frame, of a camera that moves; empty if it stands still.
    color : (3, 4) float64 or None
        Affine on RGB in [0, 1]: ``rgb @ A[:, :3] + A[:, 3]``.
    """

    name: str
    K: npt.NDArray[np.float64]
    world_to_camera: npt.NDArray[np.float64]
    size: tuple[int, int]
    lens: Lens = field(default_factory=BrownLens)
    poses: Mapping[int, npt.NDArray[np.float64]] = field(default_factory=dict)
    color: npt.NDArray[np.float64] | None = None


Kind = Literal["images", "masks"]
Surface = File | Callable[[], Mesh]


@dataclass(frozen=True)
class ImportedFrame:
    """One instant.

    Attributes
    ----------
    index : int
    time_s : float
    scan : file, function or None
        A mesh file that is read here, or what returns the surface, in the sequence's unit. None of all frames: the
        registration is the surface, or what is fused from the depth maps.
    images, masks : mapping of camera name to a file
        Cameras may be missing.
    depths : mapping of camera name to a file
        Depth maps, of the whole picture.
    registration : file, function or None
        The same of the registered mesh, where it is another than the scan.
    landmarks : function or None
        Returns them, in the sequence's unit.
    sources : tuple of files
        That the functions read: the capture is made again when they change.
    """

    index: int
    time_s: float
    scan: Surface | None
    images: Mapping[str, File] = field(default_factory=dict)
    masks: Mapping[str, File] = field(default_factory=dict)
    depths: Mapping[str, File] = field(default_factory=dict)
    registration: Surface | None = None
    landmarks: Callable[[], Landmarks] | None = None
    sources: tuple[File, ...] = ()


@dataclass(frozen=True)
class ImportedDepth:
    """What the numbers of a sequence's depth maps are.

    Attributes
    ----------
    unit : str or None
        Of them, where it is not the sequence's.
    metres_per_step : float or None
        Or the length of one step of them.
    offset_steps : float
        Is added to each; 0 itself always means that there is none.
    kind : str
        ``z``, or ``ray`` for lengths along the pixel's ray.
    """

    unit: str | None = None
    metres_per_step: float | None = None
    offset_steps: float = 0.0
    kind: Literal["z", "ray"] = "z"


@dataclass(frozen=True)
class ImportedRegistration:
    """What the registrations of a sequence are; without meshes of their own the scans are the registrations.

    Attributes
    ----------
    head : str or None
        Head model whose topology they have.
    topology : str or None
        Or the name of the captures' own.
    neutral : function or None
        With ``topology``: returns its neutral mesh and the landmarks on it, in metres.
    unit : str or None
        Where it is not the sequence's.
    kind : str
        ``vertices``, or ``parameters`` that pose the head model.
    file : Path or None
        Parameters of all frames, in place of files of each.
    """

    head: str | None = None
    topology: str | None = None
    neutral: Callable[[], tuple[Mesh, Landmarks]] | None = None
    unit: str | None = None
    kind: Literal["vertices", "parameters"] = "vertices"
    file: Path | None = None


@dataclass(frozen=True)
class ImportedSequence:
    """One capture.

    Attributes
    ----------
    cameras : tuple of ImportedCamera
    frames : tuple of ImportedFrame
        By increasing index and time.
    unit : str or None
        Of scans and cameras, where the layout fixes it.
    metres_per_unit : float or None
        Or its length, where the set says it.
    registration : ImportedRegistration or None
    depth : ImportedDepth or None
    videos : mapping of images or masks to a mapping of camera name to Path
        In place of files of each frame; frames are found by their number, counting from 0.
    shaded : bool
        Whether there are no pictures, and the cameras are to have simulated ones.
    missing : tuple of str
        What a whole download would have besides.
    remarks : tuple of str
        What was chosen, left out or taken for granted.
    """

    cameras: tuple[ImportedCamera, ...]
    frames: tuple[ImportedFrame, ...]
    unit: str | None = None
    metres_per_unit: float | None = None
    registration: ImportedRegistration | None = None
    depth: ImportedDepth | None = None
    videos: Mapping[Kind, Mapping[str, Path]] = field(default_factory=dict)
    shaded: bool = False
    missing: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A capture that was found, not read yet: what is wrong with one must not end the import of the others.

    Attributes
    ----------
    key : SequenceKey
    folder : Path
        Where it lies; nothing outside of ``root`` is read.
    read : function
        Returns the capture, or raises a ``CanonfaceError``.
    """

    key: SequenceKey
    folder: Path
    read: Callable[[], ImportedSequence]
