"""Heads in pictures of any framing: given boxes, or those of a face detector, each made the square that a model wants.

A model learnt squares about the whole head; a detector gives points of the face. How the one lies about the other was
measured on simulated people seen from the front and up to 50° from it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from datagen.common.arrays import F64
from datagen.common.console import say
from datagen.common.errors import InputError
from datagen.common.face_mesh import Detector
from trainer.prediction.foreground import widened
from trainer.prediction.frames import Region, SourceFrame

LOOK_PX = 1280  # pixels of the longer side of what the detector sees
# Of the longer side of the box about a face's points: the side of the head's square, and how much higher it lies.
_SIDE, _HIGHER = 1.7, 0.08
_SAME = 0.3  # overlap of two boxes, of their union, from which they are of one head
_LOST_FRAMES = 25  # a head that was not seen for so long is another one
_SMOOTH_FRAMES = 3.0
# Where the whole picture shows no face: parts of it, an n-th of each side large, and how many along each.
_PARTS = ((2, 3), (4, 7))


@dataclass(frozen=True)
class Head:
    """The squares of one head; a :class:`trainer.prediction.frames.Crop`.

    Attributes
    ----------
    regions : mapping of frame number to Region
        In pixels of the picture that is used.
    everywhere : Region or None
        Of frames that are not among them; None for the whole picture.
    found : int
        In how many frames it was found.
    """

    regions: Mapping[int, Region]
    everywhere: Region | None = None
    found: int = 0

    def __call__(self, name: str, number: int, size: tuple[int, int]) -> Region | None:
        """Return the square of a frame.

        Raises
        ------
        InputError
            If a given box lies outside the picture.
        """
        region = self.regions.get(number, self.everywhere)
        if region is not None and self.everywhere is not None:
            left, top, right, bottom = region
            if left >= size[0] or top >= size[1] or right <= 0 or bottom <= 0:
                raise InputError(
                    f"--box lies outside {name or number}, which is {size[0]} × {size[1]} pixels",
                    "a box within the images",
                    "Correct it",
                )
        return region

    @property
    def size(self) -> float:
        """Sum of its squares' sides over the frames, by which heads are ordered."""
        return sum(region[2] - region[0] for region in self.regions.values())


def given_heads(texts: Sequence[str]) -> list[Head]:
    """Return a head for each "left,top,width,height" of a head in all pictures, pixels.

    Raises
    ------
    InputError
        If one of them is no box.
    """
    heads = []
    for text in texts:
        try:
            left, top, width, height = (float(part) for part in text.split(","))
        except ValueError:
            left, top, width, height = 0.0, 0.0, 0.0, 0.0
        if not (width > 0 and height > 0 and all(map(math.isfinite, (left, top, width, height)))):
            raise InputError(f"--box {text}", "left,top,width,height of a head in pixels", "Correct it")
        heads.append(Head({}, widened((left, top, left + width, top + height))))
    return heads


def find_heads(frames: Iterable[tuple[int, SourceFrame]], detector: Detector, *, linked: bool) -> list[Head]:
    """Look for heads in frames fitted into a square of :data:`LOOK_PX`; the largest and most often seen first.

    Parameters
    ----------
    frames : iterable of number and frame
    linked : bool
        Whether frames follow each other in time: a head is then that which lies where one lay before, and where it is
        missed its square is taken from before and after. Else the largest of each picture are one head, the next
        another.

    Raises
    ------
    InputError
        If no frame shows a face.
    """
    numbers: list[int] = []
    boxes: list[list[Region]] = []
    for number, frame in frames:
        numbers.append(number)
        boxes.append(_heads_of(frame, detector))
    if not any(boxes):
        raise InputError(
            f"no face was found in {len(numbers)} frames", "a face in one of them", "Give its place by --box, or --crop"
        )
    tracks = _linked(numbers, boxes) if linked else _by_size(numbers, boxes)
    heads = [Head(_filled(track, numbers) if linked else track, None, len(track)) for track in tracks]
    heads.sort(key=lambda head: -head.size)
    return heads


def choose(heads: Sequence[Head], wanted: int | None, frames: int) -> Head:
    """Return the head that is wanted, counted from 1; without a wish the first, which is said if there are others.

    Raises
    ------
    InputError
        If there are not so many.
    """
    counted = ", ".join(str(head.found) for head in heads)
    seen = f" (in {counted} of {frames} frames)" if frames else ""
    if wanted is None:
        if len(heads) > 1:
            rest = "--head 2 takes the next, --head all one after another"
            say(f"{len(heads)} heads{seen}: the first is taken; {rest}", to=sys.stderr)
        wanted = 1
    if not 1 <= wanted <= len(heads):
        raise InputError(f"--head {wanted}, and there are {len(heads)} heads{seen}", "one of them", "Choose another")
    head = heads[wanted - 1]
    if frames and head.found < frames:
        where = "its square is taken from before and after" if len(head.regions) == frames else "the whole is taken"
        say(f"the head was not found in {frames - head.found} of {frames} frames, where {where}", to=sys.stderr)
    return head


def head_of_face(points: F64) -> Region:
    """Return the square of the head whose face has points (P, 2), in the same pixels."""
    low, high = points.min(0), points.max(0)
    longer = float((high - low).max())
    x, y = (low + high) / 2
    y -= _HIGHER * longer
    half = _SIDE * longer / 2
    return float(x - half), float(y - half), float(x + half), float(y + half)


def _heads_of(frame: SourceFrame, detector: Detector) -> list[Region]:
    """Return the squares of a frame's heads in pixels of the original, the largest first."""
    left, top, right, bottom = frame.content
    picture = np.ascontiguousarray(frame.image[:, top:bottom, left:right].transpose(1, 2, 0))
    found = [head_of_face(face[:, :2]) for face in detector(picture)]
    # A detector looks at a small picture of the whole: a face far away is larger in a part of it.
    height, width = picture.shape[:2]
    for share, count in _PARTS:
        if found:
            break
        tall, wide = -(-height // share), -(-width // share)
        for y in np.linspace(0, height - tall, count).astype(int):
            for x in np.linspace(0, width - wide, count).astype(int):
                part = np.ascontiguousarray(picture[y : y + tall, x : x + wide])
                found += [head_of_face(face[:, :2] + (x, y)) for face in detector(part)]
    found.sort(key=lambda region: region[0] - region[2])
    kept: list[Region] = []
    for region in found:
        if all(overlap(region, other) < _SAME for other in kept):
            kept.append(region)
    scale = (frame.region[2] - frame.region[0]) / max(right - left, 1)
    x0, y0 = frame.region[:2]
    return [(x0 + a * scale, y0 + b * scale, x0 + c * scale, y0 + d * scale) for a, b, c, d in kept]


def overlap(a: Region, b: Region) -> float:
    """Return the share of two boxes' union that both cover."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / max(sum(areas) - both, 1e-12)


def _linked(numbers: Sequence[int], boxes: Sequence[list[Region]]) -> list[dict[int, Region]]:
    """Follow heads from frame to frame: each goes on as the box that covers most of its last one."""
    tracks: list[dict[int, Region]] = []
    last: list[int] = []
    for place, (number, found) in enumerate(zip(numbers, boxes, strict=True)):
        open_ = [k for k in range(len(tracks)) if place - last[k] <= _LOST_FRAMES]
        pairs = sorted(
            ((overlap(tracks[k][numbers[last[k]]], box), k, b) for k in open_ for b, box in enumerate(found)),
            reverse=True,
        )
        taken: set[int] = set()
        for share, k, b in pairs:
            if share < _SAME or b in taken or last[k] == place:
                continue
            tracks[k][number], last[k] = found[b], place
            taken.add(b)
        for b, box in enumerate(found):
            if b not in taken:
                tracks.append({number: box})
                last.append(place)
    return tracks


def _by_size(numbers: Sequence[int], boxes: Sequence[list[Region]]) -> list[dict[int, Region]]:
    most = max(len(found) for found in boxes)
    pairs = list(zip(numbers, boxes, strict=True))
    return [{number: found[k] for number, found in pairs if len(found) > k} for k in range(most)]


def _filled(track: Mapping[int, Region], numbers: Sequence[int]) -> dict[int, Region]:
    """Give every frame a square, between those found, and let it move smoothly."""
    known = np.array(sorted(track))
    boxes = np.array([track[number] for number in known.tolist()])
    at = np.array(numbers)
    centre = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2, boxes[:, 2] - boxes[:, 0]], 1)
    smooth = np.stack([np.interp(at, known, column) for column in centre.T], axis=1)
    smooth = gaussian_filter1d(smooth, _SMOOTH_FRAMES, axis=0, mode="nearest")
    return {
        int(number): (float(x - side / 2), float(y - side / 2), float(x + side / 2), float(y + side / 2))
        for number, (x, y, side) in zip(at.tolist(), smooth, strict=True)
    }
