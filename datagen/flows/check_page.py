"""A page of pictures for people: each camera of a capture with the scan's outline where the camera says it is."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen import __version__
from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes
from datagen.common.pages import render_page
from datagen.flows.silhouettes import Cells, Grid, grown, surface_points
from datagen.flows.views import Examined
from datagen.geometry.camera import Camera
from datagen.sources.frame import Frame

WIDTH = 320  # pixels along a picture's longer side
POINTS = 120_000
QUALITY = 82
# sRGB; told apart by everybody, and named in words beside the picture.
COLOURS = {"good": (46, 204, 113), "poor": (235, 64, 52), "fit": (60, 160, 255)}
BEHIND = 0.45  # brightness of what a mask cuts away
GREY = 70

State = Literal["good", "poor", "unknown"]


@dataclass(frozen=True)
class ViewPicture:
    """One camera of a sequence, as it is drawn.

    Attributes
    ----------
    camera : str
    state : str
    score : str
        What was measured, in words.
    reason : str
        Why it gives no samples, or is not judged; empty if all is well.
    fit : str
        The convention that fits.
    jpeg : bytes
    """

    camera: str
    state: State
    score: str
    reason: str
    fit: str
    jpeg: bytes

    @property
    def source(self) -> str:
        """The picture as the value of ``src``."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode()


@dataclass(frozen=True)
class SequencePictures:
    """The cameras of one frame of a sequence."""

    where: str
    frame: int
    views: tuple[ViewPicture, ...]

    @property
    def poor(self) -> int:
        """Number of cameras that give no samples."""
        return sum(view.state == "poor" for view in self.views)


def picture_views(frame: Frame, found: Examined) -> SequencePictures:
    """Draw every camera of a frame."""
    points = surface_points(frame.scan, POINTS)
    views = tuple(_view(frame, camera, points, found) for camera in frame.cameras)
    return SequencePictures(str(frame.key), frame.index, views)


def _view(frame: Frame, camera: Camera, points: npt.NDArray[np.float64], found: Examined) -> ViewPicture:
    name, grid = camera.name, Grid.of(camera, WIDTH)
    picture = _background(frame, name, grid)
    wrong = found.views.wrong.get(name) or found.views.blind.get(name, "")
    told = name in found.shown and name not in found.unsure
    state: State = "poor" if wrong else "good" if told else "unknown"
    fit = found.fits.get(name) if name in found.views.wrong else None
    _draw(picture, grid.silhouette(camera, points), "poor" if wrong else "good")
    if fit is not None:
        _draw(picture, grid.silhouette(fit.camera, points), "fit")
    score = f"{found.scores[name]:.2f} ({found.shown[name]})" if name in found.scores else "no picture to tell by"
    return ViewPicture(name, state, score, wrong, str(fit) if fit else "", _jpeg(picture))


def _background(frame: Frame, name: str, grid: Grid) -> npt.NDArray[np.float64]:
    shape = (grid.height, grid.width, 3)
    picture = np.full(shape, float(GREY))
    try:
        if name in frame.images:
            picture = _reduced(frame.images[name](), grid)
        if name in frame.masks:
            inside = grid.reduced(frame.masks[name]())
            picture *= np.where(inside[..., None], 1.0, BEHIND)
    except InputError:
        pass  # the reason is told beside it
    return picture


def _reduced(image: npt.NDArray[np.uint8], grid: Grid) -> npt.NDArray[np.float64]:
    padded = np.zeros((grid.height * grid.cell, grid.width * grid.cell, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    blocks = padded.reshape(grid.height, grid.cell, grid.width, grid.cell, 3)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64))


def _draw(picture: npt.NDArray[np.float64], silhouette: Cells, kind: str) -> None:
    """Draw a silhouette's outline, two cells wide, and a tint inside it."""
    from scipy.ndimage import binary_erosion

    outline = grown(silhouette) & ~binary_erosion(silhouette, border_value=1)
    picture[outline] = COLOURS[kind]
    if kind != "fit":
        inner = silhouette & ~outline
        picture[inner] = 0.85 * picture[inner] + 0.15 * np.array(COLOURS[kind])


def _jpeg(picture: npt.NDArray[np.float64]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write_check_page(path: Path, root: Path, sequences: Sequence[SequencePictures], said: dict[str, Any]) -> Path:
    """Write one self-contained page; what is wrong comes first.

    Parameters
    ----------
    said : dict
        What the template shows beside the pictures: ``counted``, ``fits``, ``problems``, ``notes``, ``more``.
    """
    ordered = sorted(sequences, key=lambda one: -one.poor)
    html = render_page(
        "datagen.audit", "templates", "check.html", version=__version__, root=str(root), sequences=ordered, **said
    )
    atomic_write_bytes(path, html)
    return path
