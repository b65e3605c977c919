"""The scale of captures in an unknown unit: from landmarks, and the size that adults' faces have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.geometry.camera import Camera
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.heads.registry import load_head
from datagen.heads.typical import typical_offset_m
from datagen.sources.frame import Captures, Frame, Inputs, Registration, Scale, SequenceInfo, SequenceKey
from datagen.sources.topology import Topology

F64 = npt.NDArray[np.float64]

HEAD = "anny"  # embedded, and people's typical difference from it is known
FIRST_INNER = 17  # iBUG: the jaw's line before it is another one in every view
FEWEST_LANDMARKS = 6
MOST_FRAMES = 16  # of a sequence: one person's size does not change
DIGITS = 4  # of a factor: no rounding of another machine shows in it
# Thirteen real adult faces of three sources have 0.970 ± 0.033 times the size of the typical face's inner landmarks.
ADULTS, ADULTS_SD = 0.970, 0.033


@lru_cache(maxsize=1)
def adult_landmarks() -> F64:
    """Return the 68 landmarks of an adult face of the usual size, (68, 3) float64 metres."""
    template = load_head(HEAD, None).template
    points = template.landmarks(template.vertices + typical_offset_m(template)) * ADULTS
    points.flags.writeable = False
    return points


def scale_from(landmarks: Sequence[Landmarks]) -> Scale:
    """Find the scale of one person's landmarks in any unit.

    Parameters
    ----------
    landmarks : sequence of Landmarks
        Of some frames of a sequence.

    Raises
    ------
    InputError
        If no frame has enough of them.
    """
    sizes, counts = list[float](), list[int]()
    for one in landmarks:
        inner = one.indices >= FIRST_INNER
        if one.scheme == "ibug68" and inner.sum() >= FEWEST_LANDMARKS:
            sizes.append(_size(adult_landmarks()[one.indices[inner]], one.points[inner]))
            counts.append(int(inner.sum()))
    if not sizes:
        raise InputError(
            "no frame has landmarks to tell its scale by",
            f"{FEWEST_LANDMARKS} or more of eyes, brows, nose and mouth (ibug68, from {FIRST_INNER} on)",
            "Add landmarks, or state the unit in capture.json and leave `source.scale` out of the recipe",
        )
    factor = 1 / float(np.median(sizes))
    spread = float(np.std(sizes, ddof=1)) / np.sqrt(len(sizes)) * factor if len(sizes) > 1 else 0.0
    sigma = float(np.hypot(ADULTS_SD / ADULTS, spread)) * factor
    return Scale(float(f"{factor:.{DIGITS}g}"), sigma, max(counts), len(sizes))


def _size(reference: F64, points: F64) -> float:
    """Return the scale of the similarity between both (L, 3): Umeyama's closed form, without points far off."""
    chosen = np.ones(len(points), bool)
    scale = 1.0
    for _ in range(4):
        x, y = reference[chosen] - reference[chosen].mean(axis=0), points[chosen] - points[chosen].mean(axis=0)
        U, singular, Vt = np.linalg.svd(y.T @ x)
        sign = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
        scale = float(singular @ sign / (x**2).sum())
        rotation = (U * sign) @ Vt
        moved = scale * (reference - reference[chosen].mean(axis=0)) @ rotation.T + points[chosen].mean(axis=0)
        residual = np.linalg.norm(moved - points, axis=1)
        chosen = residual <= 3 * np.median(residual) + 1e-12
        if chosen.sum() < FEWEST_LANDMARKS:
            break
    return scale


def scaled_frame(frame: Frame, scale: Scale) -> Frame:
    """Return a frame with all of its lengths multiplied: scan, landmarks, registration and cameras alike."""
    factor = scale.factor
    surface = frame.surface
    if frame.fused or frame.depths:
        raise InputError(
            f"frame {frame.index} of {frame.key} has depth maps, which have a unit of their own",
            "a capture in one unknown unit",
            "State the unit in capture.json, and leave `source.scale` out of the recipe",
        )
    registration, landmarks = frame.registration, frame.landmarks
    return replace(
        frame,
        surface=replace(surface, vertices=surface.vertices * factor) if isinstance(surface, Mesh) else None,
        cameras=tuple(_scaled_camera(camera, factor) for camera in frame.cameras),
        registration=registration and _scaled_registration(registration, factor),
        landmarks=landmarks and replace(landmarks, points=landmarks.points * factor),
        scale=scale,
    )


def _scaled_registration(registration: Registration, factor: float) -> Registration:
    spread_m = None if registration.spread_m is None else registration.spread_m * factor
    return replace(registration, vertices=registration.vertices * factor, spread_m=spread_m)


def _scaled_camera(camera: Camera, factor: float) -> Camera:
    pose = camera.world_to_camera.copy()
    pose[:3, 3] *= factor
    return replace(camera, world_to_camera=pose)


class ScaledCaptures(Captures):
    """Captures whose lengths are multiplied by one factor for each sequence, found from its landmarks.

    Parameters
    ----------
    captures : Captures
        Which do not check their lengths.
    """

    def __init__(self, captures: Captures) -> None:
        self._captures = captures
        self._infos: dict[SequenceKey, SequenceInfo] = {}
        self.scale = lru_cache(maxsize=None)(self._scale)

    def sequences(self) -> Sequence[SequenceInfo]:
        """List every capture; raises as :meth:`Captures.sequences`."""
        return self._captures.sequences()

    def _scale(self, key: SequenceKey) -> Scale:
        """Return the scale of a sequence.

        Raises
        ------
        InputError
            If its frames have no landmarks, or these cannot be read.
        """
        found = [self._captures.landmarks(key, frame) for frame in self._measured(key)]
        try:
            return scale_from([one for one in found if one is not None])
        except InputError as error:
            raise InputError(f"{key}: {error.found}", error.expected, error.fix) from None

    def _measured(self, key: SequenceKey) -> list[int]:
        """Return the frames that a sequence's scale is found from."""
        if key not in self._infos:
            self._infos = {info.key: info for info in self.sequences()}
        frames = self._infos[key].frames if key in self._infos else ()
        steps = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().astype(int))
        return [frames[k] for k in steps]

    def frame(self, key: SequenceKey, index: int) -> Frame:
        """Read one frame, scaled; raises as :meth:`Captures.frame`."""
        return scaled_frame(self._captures.frame(key, index), self.scale(key))

    def input_digest(self, key: SequenceKey, index: int) -> str:
        """SHA-256 over what the frame is read from and its scale, which other frames decide too."""
        return self.inputs(key, index).digest

    def inputs(self, key: SequenceKey, index: int) -> Inputs:
        """Return that digest; what it was told by are files of many frames."""
        read = self._captures.inputs(key, index)
        told = f"{read.digest} {self.scale(key).factor!r}"
        return Inputs(hashlib.sha256(told.encode()).hexdigest(), None, read.bare)

    def stamp(self, key: SequenceKey, index: int) -> str:
        """Return that of the frame's own files; raises as :meth:`Captures.stamp`."""
        return self._captures.stamp(key, index)

    def brings(self, key: SequenceKey) -> frozenset[str]:
        """Return what a sequence has; raises as :meth:`Captures.brings`."""
        return self._captures.brings(key)

    def landmarks(self, key: SequenceKey, index: int) -> Landmarks | None:
        """Read the landmarks of a frame, not scaled."""
        return self._captures.landmarks(key, index)

    def marks(self, key: SequenceKey, index: int) -> Landmarks | None:
        """Read the points that tell frames apart, not scaled."""
        return self._captures.marks(key, index)

    def topology(self, name: str) -> Topology:
        """Read a topology that the captures bring with them; it has a unit of its own."""
        return self._captures.topology(name)
