"""Videos in and out, through PyAV (the optional extra `video`)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import DependencyError, InputError, StorageError
from trainer.prediction.frames import Crop, SourceFrame, fit_square

if TYPE_CHECKING:
    from PIL import Image

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".mxf", ".y4m", ".gif"),
)
_MOST_MISSING = 0.1  # share of the frames a container promises that may be missing: edit lists and rounding drop a few
_DEFAULT_RATE = 25.0


def import_av() -> Any:
    """Return PyAV."""
    try:
        import av
    except ImportError:
        raise DependencyError(
            "videos need PyAV, which is not installed",
            "the extra `video`",
            "Install it with `pip install 'canonface[video]'`, or give images and `--without videos`",
        ) from None
    return av


def have_video() -> bool:
    """Say whether videos can be read and written."""
    from importlib.util import find_spec

    return find_spec("av") is not None


class VideoFile:
    """The frames of a video, decoded one at a time.

    Parameters
    ----------
    resolution : int
        Pixels a side of the square.
    """

    def __init__(self, path: Path, resolution: int, crop: Crop | None = None) -> None:
        self._path = path
        self._resolution = resolution
        self._crop = crop
        self._av = import_av()
        with self._open() as container:
            stream = self._stream(container)
            self.rate: float | None = float(stream.average_rate or _DEFAULT_RATE)
            self.count: int | None = _promised(stream, self.rate)

    def __iter__(self) -> Iterator[SourceFrame]:
        from PIL import Image

        done = 0
        with self._open() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            try:
                for picture in container.decode(stream):
                    if picture.is_corrupt:
                        raise self._damaged(done, "a frame is damaged")
                    pixels = np.rot90(picture.to_ndarray(format="rgb24"), round((picture.rotation or 0) / 90) % 4)
                    image = Image.fromarray(np.ascontiguousarray(pixels))
                    yield self._frame(image, done, picture.time)
                    done += 1
            except self._av.error.FFmpegError as error:
                raise self._damaged(done, error.strerror or str(error)) from None
        if not done:
            raise InputError(f"video {self._path} holds no frames", "at least one", "Check the file with a player")
        if self.count is not None and done < self.count * (1 - _MOST_MISSING) - 1:
            raise self._damaged(done, f"it should hold {self.count} frames")

    def _frame(self, image: Image.Image, number: int, time_s: float | None) -> SourceFrame:
        stem = f"{number:06d}"
        wanted = None if self._crop is None else self._crop(stem, number, image.size)
        name = f"{self._path.name} frame {number}"
        square, box, region = fit_square(image, self._resolution, name, image.size, wanted)
        return SourceFrame(stem, square, box, image.size, region, time_s)

    def _open(self) -> Any:
        try:
            return self._av.open(str(self._path))
        except self._av.error.FFmpegError as error:
            raise InputError(
                f"video {self._path} cannot be opened: {error.strerror or error}",
                "a complete video file",
                "Copy it again, or convert it to mp4",
            ) from None

    def _stream(self, container: Any) -> Any:
        if not container.streams.video:
            raise InputError(f"{self._path} holds no video stream", "a file with pictures", "Give another file")
        return container.streams.video[0]

    def _damaged(self, done: int, why: str) -> InputError:
        rescue = f", or give --stop {done} to take the frames before" if done else ""
        return InputError(
            f"video {self._path} is damaged or cut off after {done} frames: {why}",
            "a complete video file",
            f"Copy it again{rescue}",
        )


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


def _promised(stream: Any, rate: float) -> int | None:
    """Return the frames a container says it holds: its own count, or its video's duration times the rate."""
    if stream.frames:
        return int(stream.frames)
    tag = {key.upper(): value for key, value in stream.metadata.items()}.get("DURATION", "")
    try:
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
    except ValueError:
        return None
    return round((3600 * hours + 60 * minutes + seconds) * rate)
