"""Pictures of more than 8 bits a channel: their values, and what they are in sRGB once their tone curve is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.pyav import import_av

Transfer = Literal["srgb", "linear", "rec709", "gamma2.2"]
TRANSFERS: tuple[Transfer, ...] = ("srgb", "linear", "rec709", "gamma2.2")
DEEP_ONLY = (".exr",)  # of which nothing else can be read
INSTEAD = "convert the pictures to 8 bits a channel, sRGB"
_FULL = 65535.0
_ROWS = 256  # at once

Values = npt.NDArray[np.float32]


def deep_size(path: Path) -> tuple[int, int]:
    """Return width and height of an EXR.

    Raises
    ------
    InputError
        If it cannot be read.
    DependencyError
        If PyAV is not installed.
    """
    picture = _decoded(path)
    return int(picture.width), int(picture.height)


def read_deep(path: Path, transfer: Transfer) -> npt.NDArray[np.uint8]:
    """Read a PNG or TIFF of 16 bits, or an EXR, as 8-bit sRGB: (H, W, 3) uint8.

    White is the largest number of 16 bits, and 1 of an EXR; what is brighter becomes white.

    Raises
    ------
    InputError
        If it cannot be read, has transparent pixels, or values that are no numbers.
    DependencyError
        If PyAV is not installed.
    """
    values, alpha = _values(path, _decoded(path))
    if alpha is not None and (alpha < 1).any():
        raise InputError(
            f"{path} has transparent pixels, which are not read of more than 8 bits",
            "an opaque picture",
            "Put it before a background, or save its alpha channel as a mask",
        )
    if not np.isfinite(values).all():
        raise InputError(f"{path} has values that are no numbers", "finite numbers", "Export it again")
    return in_srgb(values, transfer)


def in_srgb(values: Values, transfer: Transfer) -> npt.NDArray[np.uint8]:
    """Return values (H, W, 3) of 0 to 1 as 8-bit sRGB; what lies outside is clipped.

    Parameters
    ----------
    transfer : str
        Of the values: ``srgb``, ``linear`` (proportional to light), ``rec709`` (the camera's curve of BT.709), or
        ``gamma2.2`` (light is their 2.2nd power).
    """
    out = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS):
        rows = np.clip(values[top : top + _ROWS], 0.0, 1.0).astype(np.float64)
        if transfer != "srgb":
            rows = _to_srgb(_to_light(rows, transfer))
        out[top : top + _ROWS] = np.rint(255 * rows)
    return out


def _to_light(values: npt.NDArray[np.float64], transfer: Transfer) -> npt.NDArray[np.float64]:
    if transfer == "linear":
        return values
    if transfer == "gamma2.2":
        return np.asarray(values**2.2)
    return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))


def _to_srgb(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _decoded(path: Path) -> Any:
    av = import_av(INSTEAD)
    try:
        with av.open(str(path)) as container:
            picture = next(container.decode(video=0))
    except (av.error.FFmpegError, OSError, ValueError, StopIteration, IndexError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it holds no picture"
        raise InputError(
            f"picture {path} cannot be read ({reason})", "a complete PNG or TIFF of 16 bits, or EXR", "Export it again"
        ) from None
    if picture.is_corrupt:
        raise InputError(f"picture {path} is damaged", "a complete file", "Copy or export it again")
    return picture


def _values(path: Path, picture: Any) -> tuple[Values, Values | None]:
    """Return colours (H, W, 3) with white at 1, and opacity (H, W) if there is any."""
    name = str(picture.format.name)
    if name.startswith("gbr") and "f" in name:
        kind = "f2" if "f16" in name else "f4"
        order = ">" if name.endswith("be") else "<"
        planes = [
            np.frombuffer(bytes(plane), f"{order}{kind}").reshape(picture.height, -1)[:, : picture.width]
            for plane in picture.planes
        ]
        # Green, blue, red, and opacity if there is any.
        colours = np.stack([planes[2], planes[0], planes[1]], axis=-1).astype(np.float32)
        return colours, planes[3].astype(np.float32) if len(planes) > 3 else None
    if name.startswith("gray"):
        if "f" in name:
            kind = "f2" if "f16" in name else "f4"
            order = ">" if name.endswith("be") else "<"
            grey = np.frombuffer(bytes(picture.planes[0]), f"{order}{kind}").reshape(picture.height, -1)
            grey = grey[:, : picture.width].astype(np.float32)
        else:
            grey = picture.to_ndarray(format="gray16le").astype(np.float32) / _FULL
        return np.repeat(grey[..., None], 3, axis=2), None
    if name.startswith(("rgb48", "rgba64", "ya16")):
        deep = picture.to_ndarray(format="rgba64le").astype(np.float32) / _FULL
        return deep[..., :3], None if name.startswith("rgb48") else deep[..., 3]
    raise InputError(
        f"picture {path} has values of the kind {name}", "grey or RGB, 16 bits or float", "Convert it to PNG or EXR"
    )
