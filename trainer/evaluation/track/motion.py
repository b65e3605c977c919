"""Screen-space motion error of meshes (FlowFace, eq. 15–17): hidden points are known, so every pixel counts always."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from datagen.common.arrays import F64, I64, Bools
from trainer.evaluation.canonical import in_region
from trainer.evaluation.track.prediction import Track
from trainer.evaluation.track.shot import SHOWN_M, Shot
from trainer.evaluation.track.surface import NONE, Seen, carried, see
from trainer.evaluation.tracking import MAX_WINDOW, MotionErrors

# Less of a region than this is covered by the prediction: it has no such part, and nothing is said of it.
LEAST_COVERED = 0.5


@dataclass(frozen=True, eq=False)
class TruePixels:
    """The pixels of one frame whose motion is compared, P of them: the same for every tracker.

    Attributes
    ----------
    pixels : (P,) int64
        Row times width and column.
    triangles : (P,) int64
        Of the true mesh.
    weights : (P, 3) float64
    labels : (P,) int64
    """

    pixels: I64
    triangles: I64
    weights: F64
    labels: I64


def true_pixels(shot: Shot, t: int, count: int, rng: np.random.Generator) -> TruePixels:
    """Draw up to ``count`` of the pixels of a frame that show the true mesh, evenly."""
    seen = see(shot.screen[t], shot.in_camera[t, :, 2], shot.topology.faces, shot.size)
    pixels = np.flatnonzero(_shown(seen, shot, t))
    if len(pixels) > count:
        pixels = np.sort(rng.permutation(pixels)[:count])
    triangles, weights = seen.triangles.ravel()[pixels], seen.weights.reshape(-1, 3)[pixels]
    corner = shot.topology.faces[triangles, weights.argmax(1)]
    return TruePixels(pixels, triangles, weights, shot.topology.label[corner].astype(np.int64))


class MeshMotion:
    """SSME of one method over many shots, and how much of each region its meshes cover.

    Parameters
    ----------
    regions : iterable of str
    """

    def __init__(self, regions: Iterable[str]) -> None:
        names = tuple(regions)
        self._errors = MotionErrors(names)
        self._covered: dict[str, F64] = {name: np.zeros(2) for name in names}

    def add(self, shot: Shot, track: Track, truth: Sequence[TruePixels]) -> None:
        """Add a shot, with the frames of a track in its order (:meth:`Track.of`) and the pixels of each frame."""
        said, depth = track.screen(shot)
        for t, true in enumerate(truth):
            theirs = see(said[t], depth[t], track.faces, shot.size)
            at, places = theirs.triangles.ravel()[true.pixels], theirs.weights.reshape(-1, 3)[true.pixels]
            covered = at != NONE
            regions = ((name, of) for name, of in shot.topology.regions.items() if name in self._covered)
            inside = {name: in_region(true.labels, of) for name, of in regions}
            for name, mask in inside.items():
                self._covered[name] += (mask & covered).sum(), mask.sum()
            inside = {name: mask[covered] for name, mask in inside.items()}
            later = slice(t + 1, t + 1 + MAX_WINDOW)
            meant = carried(shot.screen[later], shot.topology.faces, true.triangles[covered], true.weights[covered])
            found = carried(said[later], track.faces, at[covered], places[covered])
            errors = np.linalg.norm(found - meant, axis=-1)
            # Behind a camera there is no place, which is as wrong as can be; the truth is always in front.
            errors[~np.isfinite(errors)] = np.inf
            for h, of_window in enumerate(errors, start=1):
                self._errors.add(h, of_window, inside)

    def covered(self) -> dict[str, float]:
        """Return the share of each region's true pixels where the predicted mesh is."""
        return {name: float(hit / all_) if all_ else float("nan") for name, (hit, all_) in self._covered.items()}

    def curve(self, region: str) -> F64:
        """Return SSME(h) of h = 1 … 30."""
        return self._errors.curve(region)

    def metrics(self) -> dict[str, float]:
        """Return ``ssme_<region>_px`` (NaN where half of a region or more is not covered), and the shares covered."""
        covered = self.covered()
        metrics = self._errors.metrics()
        for name, share in covered.items():
            if not share >= LEAST_COVERED:
                metrics |= {key: float("nan") for key in metrics if key.startswith(f"ssme_{name}_")}
        return metrics | {f"covered_{name}": share for name, share in covered.items()}


def _shown(seen: Seen, shot: Shot, t: int) -> Bools:
    shown: Bools = seen.triangles != NONE
    if shot.depth is not None:
        stored = shot.depth[t]
        shown = shown & (stored > 0) & (np.abs(seen.depth - stored) <= SHOWN_M)
    return shown
