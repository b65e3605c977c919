"""The dataset format, version 2: arrays, dtypes, quantisation. ``docs/dataset-format.md`` is its prose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FORMAT = "canonface"
FORMAT_VERSION = 2
SPLITS = ("train", "val", "test")

# uint16 depth: 20 µm steps reach 1.31 m; a rig further away gets a coarser scale from the manifest.
DEFAULT_DEPTH_SCALE = 2e-5
# Canonical steps are as fine as depth's: 18 µm at the usual half extent of 0.15 m.
CANONICAL_LEVELS = 16382
NORMAL_LEVELS = 127
CONFIDENCE_LEVELS = 255
VERDICTS = ("", "pass", "review")  # "" where none was recorded
# compact: predicted by the codec of docs/dataset-format.md; standard: with the codecs of Zarr's specification alone.
COMPACT, STANDARD = CODEC_SETS = ("compact", "standard")
# An image is stored to within this many of its 255 steps, unless the plan says otherwise.
DEFAULT_IMAGE_ERROR = 1
MAX_IMAGE_ERROR = 2
MAX_RESOLUTION = 16384  # pixels a side: one sample of every map fits a Blosc frame, of 2 GiB at most


@dataclass(frozen=True)
class ArraySpec:
    """One array of a split.

    Attributes
    ----------
    dtype : str
    shape : tuple
        Of one row; "H" and "W" stand for the resolution, other letters for sizes of the head model.
    predictor : ``image``, ``surface``, ``rows`` or empty
        What compact datasets store is the difference from what it expects; see :mod:`datagen.shards.codec`.
    own_chunk : bool
        Whether each row of the array is a chunk of its own inside its shard, as those of every map are.
    """

    dtype: str
    shape: tuple[int | str, ...]
    predictor: str = ""
    own_chunk: bool = False

    def sample_shape(self, sizes: int | Mapping[int | str, int]) -> tuple[int, ...]:
        """Return the shape of one row, given what the letters stand for, or the resolution if these are all."""
        return tuple((sizes if isinstance(sizes, int) else sizes[n]) if isinstance(n, str) else n for n in self.shape)

    def sample_bytes(self, sizes: int | Mapping[int | str, int]) -> int:
        """Return the bytes of one row, decompressed."""
        return math.prod(self.sample_shape(sizes)) * np.dtype(self.dtype).itemsize


ARRAYS: Mapping[str, ArraySpec] = {
    "image": ArraySpec("uint8", (3, "H", "W"), "image"),
    "depth": ArraySpec("uint16", ("H", "W"), "surface"),
    "canonical": ArraySpec("uint16", (3, "H", "W"), "surface"),
    "normal": ArraySpec("int8", (3, "H", "W"), "rows"),
    "confidence": ArraySpec("uint8", ("H", "W"), "rows"),
    "region": ArraySpec("uint8", ("H", "W")),
    "edge": ArraySpec("uint8", ("H", "W")),
    "mask": ArraySpec("uint8", ("H", "W")),
    "intrinsics": ArraySpec("float32", (3, 3)),
    "world_to_camera": ArraySpec("float32", (4, 4)),
    "head_to_world": ArraySpec("float32", (4, 4)),
    "subject": ArraySpec("int32", ()),
    "sequence": ArraySpec("int32", ()),
    "camera": ArraySpec("int32", ()),
    # Counters of microseconds and unix times are frame numbers too; float32 would hold no frames after a few hours.
    "frame": ArraySpec("int64", ()),
    "time": ArraySpec("float64", ()),
    "verdict": ArraySpec("uint8", ()),
    "frame_row": ArraySpec("int64", ()),
    "valid": ArraySpec("uint8", ()),
}
MAX_FRAME = int(np.iinfo(ARRAYS["frame"].dtype).max)
# The frame table of a split: one row for each frame that has a sample. V vertices, K and E parameters.
FRAMES = "frames"
FRAME_ARRAYS: Mapping[str, ArraySpec] = {
    "vertices": ArraySpec("int16", ("V", 3), own_chunk=True),
    "spread": ArraySpec("uint8", ("V",), own_chunk=True),
    "identity": ArraySpec("float32", ("K",)),
    "expression": ArraySpec("float32", ("E",)),
    "model_to_head": ArraySpec("float32", (4, 4)),
    "parameter_rms_mm": ArraySpec("float32", ()),
    "head_to_world": ArraySpec("float32", (4, 4)),
    "subject": ArraySpec("int32", ()),
    "sequence": ArraySpec("int32", ()),
    "frame": ArraySpec("int64", ()),
    "time": ArraySpec("float64", ()),
    "verdict": ArraySpec("uint8", ()),
    "valid": ArraySpec("uint8", ()),
}
VERTEX_STEP_M = 1e-5  # of the frame table: 10 µm, as fine as depth, and reach 0.33 m from the head's origin
SPREAD_STEP_M = 1e-3 / 16
# What rows of the frame table are read by; its arrays have no axis of rows. T texture coordinates, L landmarks.
TEMPLATE = "template"
TEMPLATE_ARRAYS: Mapping[str, ArraySpec] = {
    "vertices": ArraySpec("float32", ("V", 3)),
    "faces": ArraySpec("int32", ("F", 3)),
    "region": ArraySpec("uint8", ("V",)),
    "uv": ArraySpec("float32", ("T", 2)),
    "uv_faces": ArraySpec("int32", ("F", 3)),
    "landmark_faces": ArraySpec("int32", ("L",)),
    "landmark_weights": ArraySpec("float32", ("L", 3)),
    "identity_basis": ArraySpec("float32", ("KB", "V", 3)),
    "expression_basis": ArraySpec("float32", ("EB", "V", 3)),
}

MAX_SIZE = 2**22  # of anything of a template: no head model has as many vertices
# Of a head model that has none of them, the arrays are left out.
OPTIONAL_SIZES = frozenset({"K", "E", "T", "L", "KB", "EB"})
GROUPS = (*SPLITS, *(f"{split}/{FRAMES}" for split in SPLITS), TEMPLATE)


def arrays_of(group: str) -> Mapping[str, ArraySpec]:
    """Return the arrays that a group may have: of a split, its frame table, or the template."""
    if group == TEMPLATE:
        return TEMPLATE_ARRAYS
    return ARRAYS if group in SPLITS else FRAME_ARRAYS


@dataclass(frozen=True)
class Sample:
    """One view of one frame as a user sees it, before quantisation.

    Attributes
    ----------
    image : (3, H, W) uint8, sRGB
    depth : (H, W) float32, planar metres, 0 = no surface
    canonical : (3, H, W) float32, normalised to [-1, 1]
    normal : (3, H, W) float32, unit, camera axes
    confidence : (H, W) float32 in [0, 1]; above 0 exactly where ``canonical`` is known
    region : (H, W) uint8, 0 = background
    edge : (H, W) bool, pixels that a visible silhouette or depth step crosses
    intrinsics : (3, 3) float32, pixels, of the crop as stored
    world_to_camera, head_to_world : (4, 4) float32, metres
    subject, sequence, camera : str
    frame : int, 0 to 2**63 - 1
    time : float, seconds since the sequence's first frame; ``DatasetPlan.epochs`` says when that was
    verdict : ``pass``, ``review``, or empty where none was recorded
    mask : (H, W) uint8, optional
        255 on the person, 0 beside, between where a pixel is partly covered; None where the capture brings none, which
        is stored as 255 everywhere.
    frame_row : int
        Place of its frame in the frame table as stored; −1 if there is none.
    """

    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    canonical: npt.NDArray[np.float32]
    normal: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    region: npt.NDArray[np.uint8]
    edge: npt.NDArray[np.bool_]
    intrinsics: npt.NDArray[np.float32]
    world_to_camera: npt.NDArray[np.float32]
    head_to_world: npt.NDArray[np.float32]
    subject: str
    sequence: str
    camera: str
    frame: int
    time: float
    verdict: str = ""
    mask: npt.NDArray[np.uint8] | None = None
    frame_row: int = -1


def encode_depth(depth_m: npt.NDArray[np.floating], scale: float) -> npt.NDArray[np.uint16]:
    """Quantise planar metres to uint16 steps of ``scale`` metres; 0 stays 0.

    Raises
    ------
    OverflowError
        If a depth does not fit: 65535 × scale metres is the limit.
    """
    steps = np.divide(depth_m, scale, dtype=np.float64)
    np.rint(steps, out=steps)
    if steps.size and steps.max() > np.iinfo(np.uint16).max:
        raise OverflowError(f"depth {float(np.max(depth_m)):.3f} m exceeds {np.iinfo(np.uint16).max * scale:.3f} m")
    return steps.astype(np.uint16)


def decode_depth(steps: npt.NDArray[np.uint16], scale: float) -> npt.NDArray[np.float32]:
    """Invert :func:`encode_depth`, float32 metres."""
    return steps.astype(np.float32) * np.float32(scale)


def encode_canonical(canonical: npt.NDArray[np.floating]) -> npt.NDArray[np.uint16]:
    """Quantise [-1, 1] to 16383 levels in uint16, so that 0 is exact; values outside are clipped."""
    half = np.float32(CANONICAL_LEVELS // 2)
    steps = np.multiply(canonical, half, dtype=np.float32)
    np.rint(steps, out=steps)
    np.clip(steps, -half, half, out=steps)
    steps += half
    return steps.astype(np.uint16)


def decode_canonical(steps: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Invert :func:`encode_canonical`, float32."""
    return steps.astype(np.float32) * np.float32(2 / CANONICAL_LEVELS) - np.float32(1)


def encode_normal(normal: npt.NDArray[np.floating]) -> npt.NDArray[np.int8]:
    """Quantise unit vectors to int8 steps of 1/127."""
    limit = np.float32(NORMAL_LEVELS)
    steps = np.multiply(normal, limit, dtype=np.float32)
    np.rint(steps, out=steps)
    return np.clip(steps, -limit, limit, out=steps).astype(np.int8)


def decode_normal(steps: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Invert :func:`encode_normal`, float32, unit up to quantisation."""
    return steps.astype(np.float32) / np.float32(NORMAL_LEVELS)


def encode_confidence(confidence: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Quantise [0, 1] to uint8; anything above 0 stays above 0, because 0 means "no canonical coordinate"."""
    steps = np.multiply(confidence, np.float32(CONFIDENCE_LEVELS), dtype=np.float32)
    np.rint(steps, out=steps)
    np.maximum(steps, confidence > 0, out=steps)
    return np.clip(steps, 0, CONFIDENCE_LEVELS, out=steps).astype(np.uint8)


def decode_confidence(steps: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Invert :func:`encode_confidence`, float32 in [0, 1]."""
    return steps.astype(np.float32) / np.float32(CONFIDENCE_LEVELS)
