"""Single frames of videos, exactly the one that is asked for, by its number or its time.

An index is made of the packets alone, without decoding: when each frame is shown, and which can be decoded from
nothing. A frame is then decoded from the last such frame before it and known by its time, never by counting. Decoders
stay open, so that frames read in order are decoded once each.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.pictures import MASK_THRESHOLD, Orientation
from datagen.common.pyav import import_av
from datagen.common.video_containers import fault_of
from datagen.common.video_pictures import open_video, refuse_other_brightness, shown_picture, sides_of

# Pixels of all videos that are open together: a decoder holds about eight pictures of 1.5 bytes a pixel.
MOST_OPEN_PIXELS = 1 << 28
MOST_OPEN = 128
INSTEAD = "extract the frames as pictures (ffmpeg -i video.mp4 -fps_mode passthrough %06d.png)"
_STEP_TOLERANCE = 0.25  # of the time to the next frame: containers round times, some to whole milliseconds
_SINGLE_STEP_S = 0.004  # of a video of one frame
_WORTH_DECODING = 8  # frames: less than what going back costs
_COLOURED = 48  # of 255: chroma is coarse and lossy
_MOST_COLOURED = 0.01  # of the pixels

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class VideoIndex:
    """What a video holds.

    Attributes
    ----------
    times : (N,) int64
        When each frame is shown, increasing, in units of ``base``.
    keys : (N,) bool
        Whether decoding can begin at it.
    base : Fraction
        Seconds.
    """

    times: npt.NDArray[np.int64]
    keys: npt.NDArray[np.bool_]
    base: Fraction

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """When each frame is shown, (N,) float64, counted from the first."""
        return (self.times - self.times[0]).astype(np.float64) * float(self.base)


def stamp_of(path: Path) -> Stamp:
    """Return what tells a file from another in its place, or from itself after a change.

    Raises
    ------
    InputError
        If it is not there.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(
            f"video {path} cannot be read ({error.strerror})", "a readable file", "Restore the file"
        ) from None
    return status.st_ino, status.st_size, status.st_mtime_ns


def video_index(path: Path) -> VideoIndex:
    """Return the frames of a video; read once for each process, as long as the file stays the same.

    Raises
    ------
    InputError
        If it is no video, is cut off, or does not say when its frames are shown.
    DependencyError
        If PyAV is not installed.
    """
    return _index(path, stamp_of(path))


def frame_at(path: Path, time_s: float) -> int:
    """Return the number of the frame that is shown from a time on, seconds after the first frame.

    Raises
    ------
    InputError
        As :func:`video_index`; also if there is none at this time, but for a quarter of the time to its neighbour.
    """
    seconds = video_index(path).seconds
    nearest = int(np.abs(seconds - time_s).argmin())
    steps = np.diff(seconds[max(nearest - 1, 0) : nearest + 2])
    step = float(steps.min()) if len(steps) else _SINGLE_STEP_S
    if abs(seconds[nearest] - time_s) > _STEP_TOLERANCE * step:
        raise InputError(
            f"video {path} has no frame at {time_s:.6g} s: the nearest, number {nearest}, is shown at "
            f"{seconds[nearest]:.6g} s",
            f"a frame at that time, give or take {_STEP_TOLERANCE:g} of the time between frames",
            "Check the times, and when the video starts (`video` in capture.json)",
        )
    return nearest


def video_size(path: Path, *, orientation: Orientation | None, ask: str) -> tuple[int, int]:
    """Return width and height of a video's frames, as oriented; decodes the first.

    Raises
    ------
    InputError
        As :func:`read_video_frame`.
    """
    return _size(path, stamp_of(path), orientation, ask)


def read_video_frame(path: Path, number: int, *, orientation: Orientation | None, ask: str) -> npt.NDArray[np.uint8]:
    """Return a frame by its number, counting from 0 in the order in which they are shown.

    Parameters
    ----------
    path, orientation, ask
        As of :func:`datagen.common.pictures.read_picture`.
    number : int

    Returns
    -------
    (height, width, 3) uint8, sRGB

    Raises
    ------
    InputError
        If there is no such frame, it cannot be decoded, or it cannot be shown as sRGB.
    DependencyError
        If PyAV is not installed.
    """
    picture, sides = _DECODERS.picture(path, number)
    refuse_other_brightness(picture, path)
    return np.asarray(shown_picture(picture, sides, path, orientation=orientation, ask=ask), np.uint8)


def read_video_mask(path: Path, number: int, *, orientation: Orientation | None, ask: str) -> npt.NDArray[np.bool_]:
    """Return a frame of a video of masks: true where it is bright.

    Returns
    -------
    (height, width) bool

    Raises
    ------
    InputError
        As :func:`read_video_frame`; also if it has colours, or is not black but nowhere bright.
    """
    pixels = read_video_frame(path, number, orientation=orientation, ask=ask)
    white = "white (255) on black (0)"
    spread = pixels.max(axis=2).astype(np.int16) - pixels.min(axis=2)
    if (spread > _COLOURED).mean() > _MOST_COLOURED:
        raise InputError(
            f"frame {number} of the masks {path} has colours", white, "Save foreground white and everything else black"
        )
    # Green, which has most of the brightness.
    grey = pixels[..., 1]
    largest = int(grey.max(initial=0))
    if _COLOURED < largest < MASK_THRESHOLD:
        raise InputError(
            f"the brightest value of frame {number} of the masks {path} is {largest}", white, "Scale its values"
        )
    return np.asarray(grey >= MASK_THRESHOLD)


@lru_cache(maxsize=512)
def _size(path: Path, _stamp: Stamp, orientation: Orientation | None, ask: str) -> tuple[int, int]:
    height, width = read_video_frame(path, 0, orientation=orientation, ask=ask).shape[:2]
    return width, height


@lru_cache(maxsize=512)
def _index(path: Path, _stamp: Stamp) -> VideoIndex:
    av = import_av(INSTEAD)
    fault = fault_of(path)
    if fault is not None:
        raise _broken(path, fault)
    shown: list[int | None] = []
    decoded: list[int | None] = []
    keys: list[bool] = []
    with open_video(av, path) as container:
        stream = container.streams.video[0]
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    shown.append(packet.pts)
                    decoded.append(packet.dts)
                    keys.append(bool(packet.is_keyframe))
        except av.error.FFmpegError as error:
            raise _broken(path, error.strerror or str(error)) from None
        base = Fraction(stream.time_base or 1)
    if not shown:
        raise InputError(f"video {path} holds no frames", "at least one", "Check the file with a player")
    if None in shown and all(keys):
        # Every frame by itself, as in AVI files of cameras: they are shown in the order in which they lie there.
        shown = decoded
    times = [time for time in shown if time is not None]
    if len(times) < len(shown) or len(set(times)) < len(times):
        raise InputError(
            f"video {path} does not say when each of its frames is shown",
            "a time of its own for each frame, as mp4, mov, mkv and webm have it",
            "Convert it (ffmpeg -i video.avi -fps_mode passthrough video.mp4), or extract the frames as pictures",
        )
    order = np.argsort(times)
    return VideoIndex(np.array(times, np.int64)[order], np.array(keys)[order], base)


def _broken(path: Path, why: str) -> InputError:
    return InputError(f"video {path} is damaged or cut off: {why}", "a complete video file", "Copy it again")


class _Decoder:
    """One open video, and the frame that was decoded last."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self._path, self._index = path, index
        self._av = import_av(INSTEAD)
        self._places = {int(time): place for place, time in enumerate(index.times)}
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._last = -1
        self._picture: Any = None
        self.sides = 1.0
        self.lock = threading.Lock()

    def picture(self, number: int) -> Any:
        """Return a frame; the caller holds the lock."""
        if number == self._last and self._picture is not None:
            return self._picture
        before = np.flatnonzero(self._index.keys[: number + 1])
        # From the nearest start; where that does not give the frame, from the one before, and from the beginning.
        starts: list[int | None] = [int(place) for place in before[::-1][:2]]
        ahead = number - self._last
        nearest = number - (starts[0] or 0)
        if self._picture is not None and 0 < ahead <= nearest + _WORTH_DECODING:
            starts.insert(0, None)
        for start in [*starts, -1]:
            if start is not None:
                self._begin(start)
            found = self._forward(number)
            if found is not None:
                self._last, self._picture = number, found
                return found
        self.close()
        raise InputError(
            f"frame {number} of video {self._path} cannot be decoded",
            "a whole video, each frame of which can be decoded",
            "Copy it again; if a player shows it, convert it, or extract the frames as pictures",
        )

    def close(self) -> None:
        """Let go of the file."""
        if self._container is not None:
            self._container.close()
        self._container, self._picture, self._last, self._frames = None, None, -1, iter(())

    def _begin(self, start: int) -> None:
        """Go to a frame at which decoding can begin; -1 stands for the beginning of the file."""
        if self._container is None or start < 0:
            self.close()
            self._container = open_video(self._av, self._path)
            # Builds run one process a core.
            self._container.streams.video[0].codec_context.thread_count = 1
        stream = self._container.streams.video[0]
        self.sides = sides_of(stream)
        try:
            if start >= 0:
                self._container.seek(int(self._index.times[start]), stream=stream, backward=True)
        except self._av.error.FFmpegError:
            self._begin(-1)
            return
        self._frames = self._container.decode(stream)

    def _forward(self, number: int) -> Any:
        """Decode up to a frame and return it; None if it does not come, or comes damaged."""
        try:
            for picture in self._frames:
                time = picture.dts if picture.pts is None else picture.pts
                place = self._places.get(-1 if time is None else int(time), -1)
                if place == number:
                    return None if picture.is_corrupt else picture
                if place > number:
                    return None
        except self._av.error.FFmpegError:
            return None
        return None


class _Decoders:
    """Decoders of this process, the least lately used of which make room for others."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[Path, Stamp], tuple[_Decoder, int]] = OrderedDict()
        self._lock = threading.Lock()

    def picture(self, path: Path, number: int) -> tuple[Any, float]:
        """Return a decoded frame, and the ratio of the sides of its pixels."""
        stamp = stamp_of(path)
        index = _index(path, stamp)
        if not 0 <= number < len(index.times):
            raise InputError(
                f"video {path} has no frame {number}: it holds {len(index.times)}, counted from 0",
                "a video that holds every frame",
                "Check `frames`, and the number of the video's first frame (`video` in capture.json)",
            )
        with self._lock:
            decoder, pixels = self._open.pop((path, stamp), (None, 0))
            if decoder is None:
                decoder = _Decoder(path, index)
            self._open[path, stamp] = decoder, pixels
        with decoder.lock:
            picture = decoder.picture(number)
            sides = decoder.sides
        with self._lock:
            if (path, stamp) in self._open:
                self._open[path, stamp] = decoder, picture.width * picture.height
            self._make_room()
        return picture, sides

    def _make_room(self) -> None:
        while len(self._open) > 1 and (
            len(self._open) > MOST_OPEN or sum(pixels for _, pixels in self._open.values()) > MOST_OPEN_PIXELS
        ):
            _, (oldest, _) = self._open.popitem(last=False)
            with oldest.lock:
                oldest.close()

    def forget(self) -> None:
        """Start anew, as a forked process must: files and locks are the other's too."""
        self._open, self._lock = OrderedDict(), threading.Lock()


_DECODERS = _Decoders()
os.register_at_fork(after_in_child=_DECODERS.forget)
