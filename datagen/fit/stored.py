"""Fits of a build: how they are stored, and captures whose frames have the fitted head for their surface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from datagen.common.arrays import F64
from datagen.common.digests import canonical_json, sha256_text
from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.files import npz_bytes, read_npz
from datagen.common.seen_points import SeenPoints, seen_points_bytes
from datagen.fit.figures import FrameFigures, disagreeing_cameras, few_views, frame_figures
from datagen.fit.head_shape import F32
from datagen.fit.pixels import with_focal
from datagen.fit.problem import Fit
from datagen.fit.seen import SeenSequence
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.heads.base import HeadTemplate
from datagen.sources.camera_files import stamp_of
from datagen.sources.evidence_files import evidence_readers
from datagen.sources.frame import Captures, Frame, Inputs, Registration, SequenceInfo, SequenceKey
from datagen.sources.topology import Topology
from datagen.warp.template import WarpTemplate

# Written last: where it is, all else is.
FIT_FILE = "fit.json"
PERSON_FILE = "person.npz"
_AGAIN = "Run the same command again"


@dataclass(frozen=True)
class FitTold:
    """What a fit says of itself.

    Attributes
    ----------
    problem : str
        Why there is none; empty if there is.
    who : tuple of str
        Who was asked where points are.
    frames : mapping of frame to FrameFigures
        That were fitted.
    left_out : mapping of frame to reason
    disagreeing : mapping of camera to float
        How many times as far off as stated the points of cameras are that disagree with the others.
    focal_px : mapping of camera to float
        Where they were to be found.
    looked_at : mapping of frame to cameras
        Whose points were found on the spot, and lie beside the fit.
    remarks : tuple of str
    rounds : int
        Steps that were taken.
    """

    problem: str = ""
    who: tuple[str, ...] = ()
    frames: Mapping[int, FrameFigures] = field(default_factory=dict)
    left_out: Mapping[int, str] = field(default_factory=dict)
    disagreeing: Mapping[str, float] = field(default_factory=dict)
    focal_px: Mapping[str, float] = field(default_factory=dict)
    looked_at: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    rounds: int = 0

    def to_bytes(self) -> bytes:
        """Return the content of :data:`FIT_FILE`."""
        content = {
            **{name: value for name, value in vars(self).items() if name != "frames"},
            "frames": {index: asdict(figures) for index, figures in self.frames.items()},
        }
        return (canonical_json({name: _plain(value) for name, value in content.items()}) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> FitTold:
        """Read a :data:`FIT_FILE`.

        Raises
        ------
        InputError
            If it is missing or broken.
        """
        try:
            content = dict(read_json(path))
            return cls(
                str(content["problem"]),
                tuple(map(str, content["who"])),
                {int(index): FrameFigures.from_json(figures) for index, figures in content["frames"].items()},
                {int(index): str(reason) for index, reason in content["left_out"].items()},
                {str(camera): float(scale) for camera, scale in content["disagreeing"].items()},
                {str(camera): float(length) for camera, length in content["focal_px"].items()},
                {int(index): tuple(map(str, names)) for index, names in content["looked_at"].items()},
                tuple(map(str, content["remarks"])),
                int(content["rounds"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} cannot be read ({error})", "a fit", _AGAIN) from None


def _plain(value: object) -> object:
    return {str(key): one for key, one in value.items()} if isinstance(value, Mapping) else value


def _all_points(readers: Sequence[Callable[[], tuple[SeenPoints, ...]]]) -> tuple[SeenPoints, ...]:
    return tuple(points for read in readers for points in read())


def frame_file(index: int) -> str:
    """Name the file of a fitted frame."""
    return f"{index:06d}.npz"


def seen_file(index: int, camera: str) -> str:
    """Name the file of what a maker saw in a picture."""
    return f"{index:06d}.{camera}.npz"


def fit_contents(
    fit: Fit, seen: SeenSequence, who: Sequence[str], template: WarpTemplate, *, known: bool
) -> dict[str, bytes]:
    """Return the files of a fit, by name, in the order in which they are to be written.

    Parameters
    ----------
    known : bool
        Whether the face at rest was given.
    """
    files: dict[str, bytes] = {}
    for frame in fit.frames:
        arrays: dict[str, F64 | F32] = {
            "vertices": frame.vertices.astype(np.float32),
            "spread_m": frame.spread_m.astype(np.float32),
            "expression": frame.expression,
            "head_to_world": frame.head_to_world,
        }
        files[frame_file(frame.index)] = npz_bytes(arrays)
    looked_at: dict[int, tuple[str, ...]] = {}
    for (index, camera), points in seen.made.items():
        files[seen_file(index, camera)] = seen_points_bytes(points)
        looked_at[index] = (*looked_at.get(index, ()), camera)
    files[PERSON_FILE] = person_bytes(fit)
    told = FitTold(
        "",
        tuple(who),
        frame_figures(template, fit, seen.frames),
        dict(seen.left_out),
        disagreeing_cameras(fit),
        dict(fit.focal_px),
        looked_at,
        tuple(few_views(seen.frames, known)),
        fit.rounds,
    )
    return {**files, FIT_FILE: told.to_bytes()}


def person_bytes(fit: Fit) -> bytes:
    """Return the person of a fit, which is a face at rest for another: identity, vertices at rest and size."""
    person = {"identity": fit.identity, "neutral": fit.neutral, "scale": np.float64(fit.scale)}
    return npz_bytes({name: np.asarray(value) for name, value in person.items()})


@lru_cache(maxsize=64)
def _told(path: Path, _stamp: tuple[int, int]) -> tuple[FitTold, str]:
    # The stamp is part of the cache's key, so that another fit is read anew.
    try:
        digest = sha256_text(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a fit", _AGAIN) from None
    return FitTold.read(path), digest


class FittedCaptures(Captures):
    """Captures of which those without a surface have the heads that were fitted to their pictures.

    Parameters
    ----------
    captures : Captures
    fits : Path
        Holds ``<subject>/<sequence>/`` with the files of :func:`fit_contents`.
    template : function
        Returns the head model's template; called when a fitted frame is read.
    """

    def __init__(self, captures: Captures, fits: Path, template: Callable[[], HeadTemplate]) -> None:
        self._captures, self._fits, self._template = captures, fits, template

    def sequences(self) -> Sequence[SequenceInfo]:
        """List every capture; raises as :meth:`Captures.sequences`."""
        return self._captures.sequences()

    def told(self, key: SequenceKey) -> FitTold:
        """Return what the fit of a sequence says of itself.

        Raises
        ------
        InputError
            If it was not fitted yet, or what is stored is broken.
        """
        return self._stored(key)[0]

    def _stored(self, key: SequenceKey) -> tuple[FitTold, str]:
        path = self._path(key)
        if not path.is_file():
            raise InputError(f"no head was fitted to the pictures of {key} yet", "a fit", _AGAIN)
        return _told(path, stamp_of(path))

    def _path(self, key: SequenceKey) -> Path:
        return self._fits / key.subject / key.sequence / FIT_FILE

    def frame(self, key: SequenceKey, index: int) -> Frame:
        """Read one frame; raises as :meth:`Captures.frame`, and if no head could be fitted to its pictures."""
        frame = self._captures.frame(key, index)
        if frame.surface is not None:
            return frame
        told = self.told(key)
        if index not in told.frames:
            why = told.problem or told.left_out.get(index, "it is new")
            raise InputError(
                f"no head was fitted to frame {index} of {key}: {why}",
                "pictures that show enough of the head",
                "`datagen evidence` says what each picture shows",
            )
        folder, template = self._path(key).parent, self._template()
        fitted = read_npz(folder / frame_file(index), ("vertices", "spread_m"), expected="a fitted frame", fix=_AGAIN)
        vertices, spread_m = (fitted[name].astype(np.float64) for name in ("vertices", "spread_m"))
        if told.focal_px:
            cameras = (with_focal(c, told.focal_px) if c.name in told.focal_px else c for c in frame.cameras)
            frame = replace(frame, cameras=tuple(cameras))
        seen = dict(frame.seen)
        for name, read in evidence_readers(
            {camera: (folder / seen_file(index, camera),) for camera in told.looked_at.get(index, ())}, frame.cameras
        ).items():
            seen[name] = partial(_all_points, (*((seen[name],) if name in seen else ()), read))
        return replace(
            frame,
            surface=Mesh.of(vertices, template.faces),
            registration=Registration(template.name, vertices, spread_m=spread_m),
            seen=seen,
        )

    def input_digest(self, key: SequenceKey, index: int) -> str:
        """SHA-256 over all that the frame is read from, its fit included; raises as :meth:`Captures.input_digest`."""
        return self.inputs(key, index).digest

    def inputs(self, key: SequenceKey, index: int) -> Inputs:
        """Return that digest, and what it was told by."""
        found = self._captures.inputs(key, index)
        if not found.bare:
            return found
        digest = sha256_text(f"{found.digest} {self._stored(key)[1]}")
        paths = None if found.paths is None else (*found.paths, str(self._path(key)))
        return Inputs(digest, paths, bare=True)

    def stamp(self, key: SequenceKey, index: int) -> str:
        """Return that of the captures' files; raises as :meth:`Captures.stamp`."""
        return self._captures.stamp(key, index)

    def landmarks(self, key: SequenceKey, index: int) -> Landmarks | None:
        """Read the landmarks of a frame alone; raises as :meth:`Captures.landmarks`."""
        return self._captures.landmarks(key, index)

    def marks(self, key: SequenceKey, index: int) -> Landmarks | None:
        """Read the points that tell frames apart before anything is fitted; raises as :meth:`Captures.marks`."""
        return self._captures.marks(key, index)

    def brings(self, key: SequenceKey) -> frozenset[str]:
        """Return what a sequence has by itself; raises as :meth:`Captures.brings`."""
        return self._captures.brings(key)

    def topology(self, name: str) -> Topology:
        """Read a topology that the captures bring with them; raises as :meth:`Captures.topology`."""
        return self._captures.topology(name)
