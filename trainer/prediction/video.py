"""Videos in and out, through PyAV (the optional extra `video`)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError, StorageError
from datagen.common.pictures import Orientation
from datagen.common.pyav import import_av
from datagen.common.video_containers import CUT, fault_of
from datagen.common.video_pictures import (
    open_video,
    refuse_other_brightness,
    shown_picture,
    sides_of,
)
from trainer.prediction.frames import ASK, Crop, SourceFrame, fit_square
from trainer.prediction.matching import check_regular

_MOST_MISSING = 0.1  # share of the packets, or of the duration, that may be missing: not every packet is shown
_DECLARE_TIME = {"flv", "asf"}
_DEFAULT_RATE = 25.0


class VideoFile:
    """The frames of a video, decoded one at a time.

    Parameters
    ----------
    resolution : int
        Pixels a side of the square.
    orientation : "stored", "upright" or None
        Whether the pixels are taken as they are stored, or turned, mirrored and stretched as a player shows them; None
        refuses a video where the two differ.

    Raises
    ------
    InputError
        If it is no video, or its brightness cannot be shown as sRGB; while reading, if it is damaged or cut off.
    """

    numbered = True

    def __init__(
        self,
        path: Path,
        resolution: int,
        crop: Crop | None = None,
        orientation: Orientation | None = "upright",
    ) -> None:
        check_regular(path)
        self._path = path
        self._resolution = resolution
        self._crop = crop
        self._orientation = orientation
        self._av = import_av()
        with open_video(self._av, self._path) as container:
            stream = container.streams.video[0]
            self.rate: float | None = float(stream.average_rate or _DEFAULT_RATE)
            self.count: int | None = stream.frames or None

    def names(self, stop: int | None) -> list[str]:
        """Return the numbers of all frames; decodes the video."""
        names: list[str] = []
        try:
            names.extend(f"{number:06d}" for number, _ in enumerate(self._decoded()))
        except InputError:
            if stop is None or len(names) < stop:
                raise
        return names

    def __iter__(self) -> Iterator[SourceFrame]:
        for number, (picture, sides, time_s) in enumerate(self._decoded()):
            image = shown_picture(picture, sides, self._path, orientation=self._orientation, ask=ASK)
            stem = f"{number:06d}"
            wanted = None if self._crop is None else self._crop(stem, number, image.size)
            name = f"{self._path.name} frame {number}"
            square, box, region = fit_square(image, self._resolution, name, image.size, wanted)
            yield SourceFrame(stem, square, box, image.size, region, time_s)

    def _decoded(self) -> Iterator[tuple[Any, float, float | None]]:
        """Yield every frame with the ratio of its pixels' sides and its time, seconds."""
        done = packets = 0
        with open_video(self._av, self._path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            timing = _Timing(stream, container.format.name == "avi")
            try:
                for packet in container.demux(stream):
                    packets += bool(packet.size) and not packet.is_discard
                    timing.add(packet)
                    for picture in packet.decode():
                        if picture.is_corrupt:
                            raise self._damaged(done, "a frame is damaged")
                        refuse_other_brightness(picture, self._path)
                        yield picture, sides_of(stream), timing.of(picture, done)
                        done += 1
            except self._av.error.FFmpegError as error:
                raise self._damaged(done, error.strerror or str(error)) from None
            short = _ends_early(container, timing, self._av)
        fault = CUT if short else fault_of(self._path)
        if fault is not None:
            raise self._damaged(done, fault)
        if not done:
            raise InputError(f"video {self._path} holds no frames", "at least one", "Check the file with a player")
        # A decoder passes over what it cannot read; some packets are of frames that are never shown.
        if done < packets * (1 - _MOST_MISSING) - 1:
            raise self._damaged(done, f"it should hold {packets} frames")

    def _damaged(self, done: int, why: str) -> InputError:
        rescue = f", or give --stop {done} to take the frames before" if done else ""
        return InputError(
            f"video {self._path} is damaged or cut off after {done} frames: {why}",
            "a complete video file",
            f"Copy it again{rescue}",
        )


class _Timing:
    """When frames are shown.

    Parameters
    ----------
    by_packets : bool
        For a container that stores no times, AVI: the earliest time of any packet not yet shown is the next frame's.
    """

    def __init__(self, stream: Any, by_packets: bool) -> None:
        self._rate = float(stream.average_rate or _DEFAULT_RATE)
        self._base = float(stream.time_base or 0)
        self._waiting: list[float] | None = [] if by_packets else None
        self.last = self.longest = 0.0

    def add(self, packet: Any) -> None:
        """Take a packet, before its frames."""
        if self._waiting is not None and packet.size and packet.dts is not None:
            heapq.heappush(self._waiting, packet.dts * self._base)

    def of(self, picture: Any, number: int) -> float:
        """Return the time of the next frame, seconds."""
        time = picture.time
        if self._waiting:
            time = heapq.heappop(self._waiting)
        time = number / self._rate if time is None else float(time)
        self.longest = max(self.longest, time - self.last if number else 0.0)
        self.last = time
        return time


def _ends_early(container: Any, timing: _Timing, av: Any) -> bool:
    """Whether the duration that a container declares goes on after its last packet; for kinds of no known size."""
    if container.format.name not in _DECLARE_TIME or not container.duration:
        return False
    least = container.duration / av.time_base * (1 - _MOST_MISSING) - timing.longest
    if timing.last >= least:
        return False
    container.seek(0)  # sound may go on after the pictures
    times = [float(p.pts * p.time_base) for p in container.demux() if p.pts is not None and p.time_base is not None]
    return max(times, default=0.0) < least


class VideoWriter:
    """Write an mp4 (H.264, 4:2:0, for any browser), frame by frame.

    Parameters
    ----------
    rate : float
        Frames per second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self._av = import_av()
        self._path = path
        self._rate = Fraction(rate).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finish=kind is None)

    def add(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Append (H, W, 3) uint8; all of one size. Odd sizes are padded by one row or column."""
        height, width = pixels.shape[:2]
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            if self._container is None:
                self._begin(even.shape[1], even.shape[0])
            picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except (self._av.error.FFmpegError, OSError) as error:
            raise self._refused(error) from None

    def close(self, finish: bool = True) -> None:
        """Write what the encoder still holds and the file's index."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if finish:
                for packet in self._stream.encode():
                    container.mux(packet)
            container.close()
        except (self._av.error.FFmpegError, OSError) as error:
            if finish:
                raise self._refused(error) from None

    def _begin(self, width: int, height: int) -> None:
        self._container = self._av.open(str(self._path), "w", format="mp4", options={"movflags": "faststart"})
        options = {"crf": "18", "preset": "veryfast"}
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"

    def _refused(self, error: Exception) -> StorageError:
        return StorageError(f"{self._path} cannot be written: {error}", "a folder with space", "Free space")
