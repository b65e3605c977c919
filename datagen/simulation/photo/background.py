"""What lies behind a subject, out of focus: paper, a wall, a room, the open, a capture stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from datagen.common.arrays import F32, F64

# Backdrops are painted this coarse and enlarged: nothing in them is in focus.
CANVAS = 112
KINDS = ("paper", "wall", "room", "open", "stage")


@dataclass(frozen=True)
class Backdrop:
    """A place; every camera sees another part of it.

    Attributes
    ----------
    kind : str
        One of :data:`KINDS`.
    base : 3 floats
        Linear RGB of its main surface.
    blur : float
        Standard deviation of the blur, as a share of the picture.
    """

    kind: str
    seed: int
    base: tuple[float, float, float]
    blur: float

    def view(self, height: int, width: int, camera: int = 0) -> F32:
        """Return what camera number ``camera`` sees of it, (H, W, 3) float32 linear RGB, not negative."""
        rng = np.random.default_rng([self.seed, camera])
        place = np.random.default_rng(self.seed)
        paint = {"paper": _paper, "wall": _wall, "room": _room, "open": _open, "stage": _stage}[self.kind]
        canvas = np.clip(paint(_Scene(np.array(self.base), self.blur, place, rng)), 0.002, 6.0)
        channels = [
            np.asarray(
                Image.fromarray(canvas[..., k].astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
            )
            for k in range(3)
        ]
        return np.maximum(np.stack(channels, axis=-1), 0.0)


def random_backdrop(rng: np.random.Generator) -> Backdrop:
    """Draw a place."""
    kind = KINDS[int(rng.choice(len(KINDS), p=[0.24, 0.2, 0.28, 0.13, 0.15]))]
    level = float(np.exp(rng.uniform(np.log(0.02), np.log(0.75))))
    colour = np.clip(level * np.exp(rng.normal(0, 0.16, 3) * (1.6 if rng.uniform() < 0.3 else 0.7)), 0.01, 0.9)
    return Backdrop(
        kind=kind,
        seed=int(rng.integers(2**31)),
        base=(float(colour[0]), float(colour[1]), float(colour[2])),
        blur=float(rng.uniform(0.008, 0.035)),
    )


@dataclass(frozen=True)
class _Scene:
    base: F64
    blur: float
    place: np.random.Generator  # what all cameras see
    rng: np.random.Generator  # what one camera sees


def _grid() -> tuple[F64, F64]:
    y, x = np.mgrid[0:CANVAS, 0:CANVAS] / (CANVAS - 1)
    return x, y


def _paper(scene: _Scene) -> F64:
    """Seamless paper with a pool of light."""
    x, y = _grid()
    glow, fall = scene.place.uniform(0.2, 1.2), scene.place.uniform(-0.5, 0.5)
    cx, cy, wide = 0.5 + 0.15 * scene.rng.normal(), 0.45 + 0.1 * scene.place.normal(), scene.place.uniform(0.3, 0.8)
    light = 1 + glow * (np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / wide**2) - 0.4) + fall * (y - 0.5)
    return np.asarray(scene.base * np.clip(light, 0.15, None)[..., None])


def _wall(scene: _Scene) -> F64:
    """A wall: uneven paint, light from one side, now and then a door frame or a picture."""
    x, y = _grid()
    slope = scene.place.normal(0, 0.5)
    light = np.exp(slope * (x - 0.5) + scene.place.normal(0, 0.25) * (y - 0.5))
    uneven = gaussian_filter(scene.rng.normal(size=(CANVAS, CANVAS)), 9) * 0.5
    canvas = scene.base * (light * (1 + uneven))[..., None]
    for _ in range(int(scene.place.integers(0, 3))):
        _rectangle(canvas, scene.rng, scene.base * np.exp(scene.place.normal(0, 0.9)), tall=scene.place.uniform() < 0.5)
    return _soft(canvas, scene.blur)


def _room(scene: _Scene) -> F64:
    """A room: furniture, shelves, a window, lamps far out of focus."""
    _x, y = _grid()
    canvas = scene.base * (1 + 0.4 * (0.5 - y))[..., None] * np.ones((CANVAS, CANVAS, 3))
    floor = 0.55 + 0.3 * scene.place.uniform()
    canvas[y > floor] = scene.base * np.array([0.7, 0.55, 0.42]) * scene.place.uniform(0.3, 0.9)
    for _ in range(int(scene.place.integers(4, 11))):
        colour = np.exp(scene.place.normal(np.log(0.12), 0.9)) * np.exp(scene.place.normal(0, 0.35, 3))
        _rectangle(canvas, scene.rng, np.clip(colour, 0.004, 0.8), tall=scene.place.uniform() < 0.5)
    if scene.place.uniform() < 0.45:
        _rectangle(canvas, scene.rng, np.array([1.0, 1.05, 1.15]) * scene.place.uniform(0.8, 2.5), tall=True)
    canvas = _soft(canvas, 1.3 * scene.blur)
    for _ in range(int(scene.place.integers(0, 7))):
        _disc(canvas, scene.rng, scene.place.uniform(0.3, 3.0) * np.array([1.0, 0.82, 0.58]), 0.02 + 1.2 * scene.blur)
    return _soft(canvas, 0.25 * scene.blur)


def _open(scene: _Scene) -> F64:
    """The open: sky above, trees or houses, ground."""
    _, y = _grid()
    horizon = scene.place.uniform(0.35, 0.75)
    sky = (
        np.array([0.55, 0.75, 1.05])
        * scene.place.uniform(0.5, 1.3)
        * (1 + scene.place.uniform(-0.2, 0.3) * (1 - y))[..., None]
    )
    ground = np.array([0.16, 0.17, 0.10]) * np.exp(scene.place.normal(0, 0.4, 3))
    edge = horizon + 0.12 * gaussian_filter(scene.rng.normal(size=CANVAS), 6)[None, :] * 2
    canvas = np.where((y < edge)[..., None], sky, ground)
    leaves = gaussian_filter(scene.rng.normal(size=(CANVAS, CANVAS)), 2.5) * 5
    canvas *= np.exp(0.55 * np.where(y < edge, 0.08, 1.0) * leaves)[..., None]
    canvas = _soft(canvas, 1.2 * scene.blur)
    for _ in range(int(scene.place.integers(0, 14))):
        _disc(canvas, scene.rng, sky[0, 0] * scene.place.uniform(0.3, 1.2), 0.015 + scene.blur)
    return _soft(canvas, 0.3 * scene.blur)


def _stage(scene: _Scene) -> F64:
    """A capture stage: dark panels, beams, rows of lights."""
    x, _y = _grid()
    dark = 0.02 + 0.1 * scene.base
    canvas = dark * np.exp(0.4 * np.sin(2 * np.pi * (x * scene.place.uniform(1, 3) + scene.rng.uniform())))[..., None]
    for _ in range(int(scene.place.integers(2, 6))):
        _rectangle(canvas, scene.rng, dark * scene.place.uniform(0.2, 3.0), tall=True)
    canvas = _soft(canvas, 0.6 * scene.blur)
    pitch, level, size = scene.place.uniform(0.22, 0.4), scene.place.uniform(0.3, 2.0), 0.018 + 0.8 * scene.blur
    shift = scene.rng.uniform(size=2)
    for i in range(6):
        for j in range(6):
            at = ((i + shift[0]) * pitch - 0.1, (j + shift[1]) * pitch - 0.1)
            _disc(canvas, scene.rng, level * np.ones(3), size, at)
    return _soft(canvas, 0.2 * scene.blur)


def _rectangle(canvas: F64, rng: np.random.Generator, colour: F64, *, tall: bool) -> None:
    wide, high = (
        (rng.uniform(0.05, 0.3), rng.uniform(0.3, 1.0)) if tall else (rng.uniform(0.2, 0.7), rng.uniform(0.03, 0.3))
    )
    left, top = rng.uniform(-0.1, 1.0), rng.uniform(-0.1, 0.9)
    a, b, c, d = (int(np.clip(v * CANVAS, 0, CANVAS)) for v in (top, top + high, left, left + wide))
    canvas[a:b, c:d] = colour


def _disc(
    canvas: F64, rng: np.random.Generator, colour: F64, radius: float, at: tuple[float, float] | None = None
) -> None:
    """Add a point of light out of focus: a disc with a slightly brighter rim."""
    x, y = _grid()
    cx, cy = at if at is not None else rng.uniform(0, 1, 2)
    distance = np.hypot(x - cx, y - cy) / radius
    disc = np.clip((1 - distance) * 8 * max(radius, 0.02) * 10, 0, 1) * (0.8 + 0.2 * np.clip(distance, 0, 1))
    canvas += disc[..., None] * colour * 0.6


def _soft(canvas: F64, blur: float) -> F64:
    return np.stack([gaussian_filter(canvas[..., k], blur * CANVAS, mode="nearest") for k in range(3)], axis=-1)
