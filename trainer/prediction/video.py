"""Videos in and out, through PyAV (the optional extra `video`)."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import DependencyError, InputError, StorageError
from datagen.common.pictures import BACKDROP, Orientation
from trainer.prediction.containers import CUT, fault_of
from trainer.prediction.frames import ASK, Crop, SourceFrame, fit_square
from trainer.prediction.matching import check_regular

if TYPE_CHECKING:
    from PIL import Image

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".mxf", ".y4m", ".gif"),
)
_MOST_MISSING = 0.1  # share of the packets, or of the duration, that may be missing: not every packet is shown
_SQUARE = 1.01  # largest ratio of a pixel's sides that is not stretched
# Transfer functions whose values are not those of a picture on a common screen, by their number in H.273.
_CURVES = {8: "linear", 9: "logarithmic", 10: "logarithmic", 16: "PQ (HDR)", 17: "cinema (SMPTE 428)", 18: "HLG (HDR)"}
_DECLARE_TIME = {"flv", "asf"}
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
        with self._open() as container:
            stream = self._stream(container)
            self.rate: float | None = float(stream.average_rate or _DEFAULT_RATE)
            self.count: int | None = stream.frames or None
            if stream.metadata.get("alpha_mode") == "1":
                raise InputError(
                    f"video {path} has transparent parts, which its decoder drops",
                    "an opaque video",
                    "Put it before a background, or give its frames as PNG files",
                )

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
            image = self._shown(picture, sides)
            stem = f"{number:06d}"
            wanted = None if self._crop is None else self._crop(stem, number, image.size)
            name = f"{self._path.name} frame {number}"
            square, box, region = fit_square(image, self._resolution, name, image.size, wanted)
            yield SourceFrame(stem, square, box, image.size, region, time_s)

    def _decoded(self) -> Iterator[tuple[Any, float, float | None]]:
        """Yield every frame with the ratio of its pixels' sides and its time, seconds."""
        done = packets = 0
        with self._open() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            timing = _Timing(stream, container.format.name == "avi")
            try:
                for packet in container.demux(stream):
                    packets += bool(packet.size) and not packet.is_discard
                    timing.add(packet)
                    for picture in packet.decode():
                        if picture.is_corrupt:
                            raise self._damaged(done, "a frame is damaged")
                        self._refuse_other_brightness(picture)
                        sides = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
                        yield picture, float(sides), timing.of(picture, done)
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

    def _shown(self, picture: Any, sides: float) -> Image.Image:
        """Return a frame as RGB, as the orientation says."""
        from PIL import Image

        if any(component.is_alpha for component in picture.format.components) or picture.format.name == "pal8":
            layered = Image.fromarray(picture.to_ndarray(format="rgba"))
            image = Image.alpha_composite(Image.new("RGBA", layered.size, (*BACKDROP, 255)), layered).convert("RGB")
        else:
            image = Image.fromarray(picture.to_ndarray(format="rgb24"))
        matrix = _display_matrix(picture)
        stretched = not 1 / _SQUARE <= sides <= _SQUARE
        if self._orientation == "stored" or not (stretched or matrix is not None):
            return image
        if self._orientation is None:
            how = "stretched" if matrix is None else "turned or mirrored"
            raise InputError(
                f"video {self._path} is stored {how}, and masks and cameras may be of the stored or of the upright "
                "picture",
                "a video without a turn, or a word which of the two is meant",
                ASK,
            )
        if stretched:
            width, height = image.size
            size = (round(width * sides), height) if sides > 1 else (width, round(height / sides))
            image = image.resize(size, Image.Resampling.LANCZOS)
        return image if matrix is None else Image.fromarray(self._turned(np.asarray(image), matrix))

    def _turned(self, pixels: npt.NDArray[np.uint8], matrix: tuple[float, ...]) -> npt.NDArray[np.uint8]:
        """Apply the linear part of a display matrix: x' = a x + c y, y' = b x + d y."""
        a, b, c, d = matrix
        across, down = (a, d) if abs(a) > abs(b) else (c, b)
        rest = (b, c) if abs(a) > abs(b) else (a, d)
        if not all(abs(abs(value) - 1) < 0.01 for value in (across, down)) or max(map(abs, rest)) > 0.01:
            raise InputError(
                f"video {self._path} is shown turned by an angle, or scaled",
                "quarter turns and mirroring only",
                "Convert it, or give --orientation stored",
            )
        if abs(a) < abs(b):
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1])

    def _refuse_other_brightness(self, picture: Any) -> None:
        curve = _CURVES.get(int(picture.color_trc or 0))
        if curve is not None:
            raise InputError(
                f"video {self._path} has {curve} brightness, which is not mapped to sRGB",
                "a video of standard dynamic range",
                "Convert it, for example with ffmpeg's tonemap filter",
            )

    def _open(self) -> Any:
        try:
            return self._av.open(str(self._path))
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            raise InputError(
                f"video {self._path} cannot be opened: {getattr(error, 'strerror', None) or error}",
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


def _display_matrix(picture: Any) -> tuple[float, float, float, float] | None:
    """Return a, b, c, d of a frame's display matrix; None if it shows the frame as it is stored."""
    for data in picture.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = (value / 65536 for value in struct.unpack("=9i", bytes(data)[:36]))
            return None if (a, b, c, d) == (1, 0, 0, 1) else (a, b, c, d)
    return None


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
