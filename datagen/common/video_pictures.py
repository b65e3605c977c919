"""What every reader of videos does: PyAV, brightness that is no picture's, and frames as a player shows them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.pictures import BACKDROP, Orientation

if TYPE_CHECKING:
    from PIL import Image

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".mxf", ".y4m", ".gif"),
)
_SQUARE = 1.01  # largest ratio of a pixel's sides that is not stretched
# Transfer functions whose values are not those of a picture on a common screen, by their number in H.273.
_CURVES = {8: "linear", 9: "logarithmic", 10: "logarithmic", 16: "PQ (HDR)", 17: "cinema (SMPTE 428)", 18: "HLG (HDR)"}


def open_video(av: Any, path: Path) -> Any:
    """Return an open container that has pictures.

    Raises
    ------
    InputError
        If it is no video.
    """
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"video {path} cannot be opened: {getattr(error, 'strerror', None) or error}",
            "a complete video file",
            "Copy it again, or convert it to mp4",
        ) from None
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} holds no video stream", "a file with pictures", "Give another file")
    if container.streams.video[0].metadata.get("alpha_mode") == "1":
        container.close()
        raise InputError(
            f"video {path} has transparent parts, which its decoder drops",
            "an opaque video",
            "Put it before a background, or give its frames as PNG files",
        )
    return container


def refuse_other_brightness(picture: Any, path: Path) -> None:
    """Refuse a decoded frame whose values are not those of a picture on a common screen.

    Raises
    ------
    InputError
        If it is linear, logarithmic or of high dynamic range.
    """
    curve = _CURVES.get(int(picture.color_trc or 0))
    if curve is not None:
        raise InputError(
            f"video {path} has {curve} brightness, which is not mapped to sRGB",
            "a video of standard dynamic range",
            "Convert it, for example with ffmpeg's tonemap filter",
        )


def sides_of(stream: Any) -> float:
    """Return the ratio of the sides of a stream's pixels, width by height."""
    return float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)


def shown_picture(picture: Any, sides: float, path: Path, *, orientation: Orientation | None, ask: str) -> Image.Image:
    """Return a decoded frame as RGB, as the orientation says.

    Parameters
    ----------
    sides : float
        As of :func:`sides_of`.
    orientation : ``"stored"``, ``"upright"`` or None
        Whether the pixels are taken as they are stored, or turned, mirrored and stretched as a player shows them; None
        refuses a video where the two differ.
    ask : str
        How the reader of the message answers that question.

    Raises
    ------
    InputError
        If the two differ and nothing is said, or it is turned by another angle than a quarter's.
    """
    from PIL import Image

    if any(component.is_alpha for component in picture.format.components) or picture.format.name == "pal8":
        layered = Image.fromarray(picture.to_ndarray(format="rgba"))
        image = Image.alpha_composite(Image.new("RGBA", layered.size, (*BACKDROP, 255)), layered).convert("RGB")
    else:
        image = Image.fromarray(picture.to_ndarray(format="rgb24"))
    matrix = _display_matrix(picture)
    stretched = not 1 / _SQUARE <= sides <= _SQUARE
    if orientation == "stored" or not (stretched or matrix is not None):
        return image
    if orientation is None:
        how = "stretched" if matrix is None else "turned or mirrored"
        raise InputError(
            f"video {path} is stored {how}, and masks and cameras may be of the stored or of the upright picture",
            "a video without a turn, or a word which of the two is meant",
            ask,
        )
    if stretched:
        width, height = image.size
        size = (round(width * sides), height) if sides > 1 else (width, round(height / sides))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image if matrix is None else Image.fromarray(_turned(np.asarray(image), matrix, path))


def _turned(
    pixels: npt.NDArray[np.uint8], matrix: tuple[float, float, float, float], path: Path
) -> npt.NDArray[np.uint8]:
    """Apply the linear part of a display matrix: x' = a x + c y, y' = b x + d y."""
    a, b, c, d = matrix
    across, down = (a, d) if abs(a) > abs(b) else (c, b)
    rest = (b, c) if abs(a) > abs(b) else (a, d)
    if not all(abs(abs(value) - 1) < 0.01 for value in (across, down)) or max(map(abs, rest)) > 0.01:
        raise InputError(
            f"video {path} is shown turned by an angle, or scaled",
            "quarter turns and mirroring only",
            "Convert it, or take its pixels as they are stored (orientation stored)",
        )
    if abs(a) < abs(b):
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1])


def _display_matrix(picture: Any) -> tuple[float, float, float, float] | None:
    """Return a, b, c, d of a frame's display matrix; None if it shows the frame as it is stored."""
    for data in picture.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = (value / 65536 for value in struct.unpack("=9i", bytes(data)[:36]))
            return None if (a, b, c, d) == (1, 0, 0, 1) else (a, b, c, d)
    return None
