"""Clips of any length through a model that sees a few frames at once: overlapping windows, stitched.

Two windows see the frames they share differently: the depth of each has its own scale error, and every map its own
noise. A window is therefore brought to the scale of the one before (the median ratio of depth in the shared frames)
and shared frames pass from one to the other, weighted by place and confidence. With a model whose depth is metric the
correction fades to nothing towards the window's end: nothing adds up over a long video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CheckpointError
from trainer.inference import Maps, predict_maps
from trainer.prediction.frames import SourceFrame

if TYPE_CHECKING:
    from trainer.model.joint import JointModel

Item = TypeVar("Item")
Drift = Literal["fade", "chain"]
_SURFACE = 0.5
_FEWEST_PIXELS = 16


class WindowModel:
    """Run a model on the frames of one window together.

    Parameters
    ----------
    usual_intrinsics : (3, 3) float32
        For frames that come without.
    knows_surface : bool
        Whether the surface was ever learnt; published weights have none.
    """

    def __init__(
        self, model: JointModel, usual_intrinsics: npt.NDArray[np.float32], *, knows_surface: bool = True
    ) -> None:
        self._model, self._knows_surface = model, knows_surface
        self.usual_intrinsics = usual_intrinsics

    def __call__(self, frames: Sequence[SourceFrame]) -> list[Maps]:
        """Return the maps of each frame; CheckpointError if they are not finite."""
        K = np.stack([self.usual_intrinsics if f.intrinsics is None else f.intrinsics for f in frames])
        images = np.stack([frame.image for frame in frames])
        maps = predict_maps(self._model, images, K, knows_surface=self._knows_surface)
        named = {"depth": maps.depth_m, "canonical": maps.canonical}
        named |= {"depth confidence": maps.depth_confidence, "canonical confidence": maps.canonical_confidence}
        for name, values in named.items():
            if not np.isfinite(values).all():
                raise CheckpointError(
                    f"the model's {name} is not finite at {frames[0].name}", "finite maps", "Take another checkpoint"
                )
        return maps.frames()


def cut_windows(items: Iterable[Item], length: int, overlap: int) -> Iterator[tuple[list[Item], int]]:
    """Yield windows of ``length`` items and how many of each window's items came before.

    The last window reaches back as far as it must to be full, so that no frame is predicted with fewer others. At
    most ``length`` items are held.

    Parameters
    ----------
    overlap : int
        Items two windows share; below ``length``.
    """
    window: deque[Item] = deque(maxlen=length)
    fresh = 0
    first = True
    for item in items:
        window.append(item)
        fresh += 1
        if fresh == (length if first else length - overlap):
            yield list(window), len(window) - fresh
            first, fresh = False, 0
    if fresh:
        yield list(window), len(window) - fresh


def stitch_windows(
    windows: Iterable[tuple[list[Item], int]],
    predict: Callable[[Sequence[Item]], list[Maps]],
    overlap: int,
    drift: Drift = "fade",
) -> Iterator[tuple[Item, Maps]]:
    """Predict windows and yield every item once, in order, with its stitched maps.

    Parameters
    ----------
    windows : iterable
        See :func:`cut_windows`.
    predict : callable
        From the items of a window to their maps.
    overlap : int
        The most frames held back to be blended with the next window.
    drift : "fade" or "chain"
        What becomes of a window's scale correction: "fade" for metric depth, "chain" keeps it, for a model that knows
        depth up to scale only.
    """
    held: list[tuple[Item, Maps]] = []
    for window, seen in windows:
        maps = predict(window)
        shared = min(seen, len(held))
        if shared:
            first = seen - shared
            maps = _join([m for _, m in held], maps, first, shared, len(window) - overlap if drift == "fade" else None)
            ready = [(held[k][0], _blend(held[k][1], maps[first + k], (k + 1) / (shared + 1))) for k in range(shared)]
        else:
            ready = []
        ready += list(zip(window[seen:], maps[seen:], strict=True))
        keep = min(overlap, len(ready))
        yield from ready[: len(ready) - keep]
        held = ready[len(ready) - keep :]
    yield from held


def scale_between(old: Sequence[Maps], new: Sequence[Maps]) -> float:
    """Return the factor that brings new depth to old depth: the median ratio over pixels both take for surface."""
    ratios = []
    for a, b in zip(old, new, strict=True):
        usable = (a.depth_m > 0) & (b.depth_m > 0)
        if a.surface is not None and b.surface is not None:
            usable &= (a.surface > _SURFACE) & (b.surface > _SURFACE)
        ratios.append(np.log(a.depth_m[usable] / b.depth_m[usable]))
    values = np.concatenate(ratios)
    return float(np.exp(np.median(values))) if values.size >= _FEWEST_PIXELS else 1.0


def _join(old: list[Maps], new: list[Maps], first: int, shared: int, fade: int | None) -> list[Maps]:
    """Bring a window to the scale and the world of the frames held from the one before.

    The scale's correction is gone after ``fade`` frames; None keeps it.
    """
    matching = new[first : first + shared]
    scale = scale_between(old[:shared], matching)
    move = _between_worlds(old[:shared], matching, scale)
    joined = []
    for k, maps in enumerate(new):
        past = k - (first + shared - 1)  # 1 for the first fresh frame
        share = 1.0 if fade is None or past <= 0 else max(1 - past / fade, 0.0)
        factor = np.float32(scale**share)
        pose = maps.world_to_camera
        if pose is not None:
            pose = pose.copy()
            pose[:3, 3] *= factor
            pose = (pose @ move).astype(np.float32)
        joined.append(replace(maps, depth_m=maps.depth_m * factor, world_to_camera=pose))
    return joined


def _between_worlds(old: Sequence[Maps], new: Sequence[Maps], scale: float) -> npt.NDArray[np.float64]:
    """Return the rigid motion from the old world to the (scaled) new one that suits the shared cameras best."""
    moves = []
    for a, b in zip(old, new, strict=True):
        if a.world_to_camera is not None and b.world_to_camera is not None:
            scaled = b.world_to_camera.astype(np.float64)
            scaled[:3, 3] *= scale
            moves.append(np.linalg.inv(scaled) @ a.world_to_camera)
    if not moves:
        return np.eye(4)
    mean = np.mean(moves, axis=0)
    u, _, vt = np.linalg.svd(mean[:3, :3])
    motion = np.eye(4)
    motion[:3, :3] = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    motion[:3, 3] = mean[:3, 3]
    return motion


def _blend(a: Maps, b: Maps, share: float) -> Maps:
    """Pass from ``a`` (share 0) to ``b`` (share 1), the more confident pixel counting more."""

    def mix(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]) -> npt.NDArray:  # type: ignore[type-arg]
        return (x + weight * (y - x)).astype(np.float32)

    def weight(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return (share * y / (share * y + (1 - share) * x)).astype(np.float32)

    of_depth = weight(a.depth_confidence, b.depth_confidence)
    of_canonical = weight(a.canonical_confidence, b.canonical_confidence)
    even = np.float32(share)
    surface = None if a.surface is None or b.surface is None else mix(a.surface, b.surface, np.asarray(even))
    K = a.intrinsics
    if K is not None and b.intrinsics is not None:
        K = mix(K, b.intrinsics, np.asarray(even))
    return Maps(
        depth_m=mix(a.depth_m, b.depth_m, of_depth),
        canonical=mix(a.canonical, b.canonical, of_canonical),
        depth_confidence=mix(a.depth_confidence, b.depth_confidence, of_depth),
        canonical_confidence=mix(a.canonical_confidence, b.canonical_confidence, of_canonical),
        surface=surface,
        intrinsics=K,
        world_to_camera=a.world_to_camera if share < 0.5 else b.world_to_camera,
    )
