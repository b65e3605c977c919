"""Which cameras of a frame give samples, and why the others do not: its scan against its cameras, images and masks.

One that contradicts its picture is told which convention would fit (:mod:`datagen.flows.diagnose`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CameraError, InputError, raise_if_passing
from datagen.flows.conventions import FACTORS
from datagen.flows.diagnose import Fit, diagnose
from datagen.flows.sightings import Edges, Judgement, Shown, Sighting, grid_of
from datagen.flows.silhouettes import Grid, grown, outline_breaks, overlap, surface_points
from datagen.geometry.camera import Camera
from datagen.sources.frame import Frame

# Of a scan's projection (pixels) inside the mask grown by a pixel: true cameras and masks have 0.977 to 0.998 on
# simulated heads with stray pieces, of 32 to 320 pixels, and 1 on pictures drawn of a real scan; masks upside down on
# that nearly symmetric head 0.83, all other mistakes tried less.
LEAST_INSIDE = 0.9
# A picture has an empty background if such a share of it has one very colour, as no sensor gives; one of nothing else
# tells nothing. Of the projection, true cameras have 0.005 there; the pictures of two cameras 50 degrees apart,
# exchanged, 0.48.
EMPTY_SHARE = (0.25, 0.999)
MOST_ON_EMPTY = 0.3
BLACK = 8  # of 255: what a sensor behind a closed lid gives
NEAR_COLOUR = 12  # of 255: what noise and compression make of one colour
# Of a mask, true cameras of whole heads have 0.93 to 1 covered by the scan; of its outline 0.97 to 1 is where the scan
# ends or steps back, wrong cameras have at most 0.06 there.
LEAST_COVERED = 0.9
LEAST_BREAKS = 0.7
SAMPLED_PIXELS = 2**18
FEWEST_POINTS = 0.01  # of the scan's points: a camera that has fewer in its image sees nothing
SMALLEST_PX = 8  # across: less is no picture of a head
LEAST_FOCAL = 0.1  # of the longer side: 157 degrees, wider than any lens without distortion
NEAREST_M = 0.1  # to the middle of the scan: nearer is inside the head
USUAL_DISTANCE_M = 1.0
_GOOD = 0.85  # scores of cameras that are right
# Cameras of a rig that edges alone speak against: by fewer, none is taken for wrong.
FEWEST_BY_EDGES = 3
NO_IMAGE = "it has no image"
_DOUBTFUL = "the scan is not where camera {} shows somebody"
OUTSIDE = "the middle of face and ears lies outside its image"
_CAMERA = "world_to_camera (its direction, axes and unit) and K (for images of this size)"


@dataclass(frozen=True)
class Views:
    """What the cameras of a frame are good for.

    Attributes
    ----------
    wrong : mapping of camera name to reason
        Of cameras whose image or mask cannot be read or contradicts the scan, or that cannot be where they are said
        to be.
    blind : mapping of camera name to reason
        Of cameras that see nothing of the head, or have no image.
    farthest_m : mapping of camera name to float
        Depth of what lies farthest of the scan around the head, of the cameras that give samples.
    measured : tuple of str
        Cameras with a depth map.
    fused : bool
        Whether the scan was fused from them.
    """

    wrong: Mapping[str, str] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)
    farthest_m: Mapping[str, float] = field(default_factory=dict)
    measured: tuple[str, ...] = ()
    fused: bool = False

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Views:
        """Read what ``dataclasses.asdict`` gave."""
        wrong, blind, farthest_m = (dict(content[name]) for name in ("wrong", "blind", "farthest_m"))
        return cls(wrong, blind, farthest_m, tuple(content["measured"]), bool(content["fused"]))


@dataclass(frozen=True)
class Examined:
    """What was found about the cameras of a frame.

    Attributes
    ----------
    views : Views
        The reasons name the conventions that fit.
    fits : mapping of camera name to Fit
        Of cameras that a convention explains; also of some that pass, and fit the rig's convention as well.
    shown : mapping of camera name to Sighting
        What each camera was judged by; those with neither mask nor image are not in it.
    scores : mapping of camera name to float
        How well the scan agrees with what is shown, as the cameras are.
    wide : mapping of camera name to float
        Share of the scan's silhouette outside the mask, of cameras whose scan has more than the person in it.
    unsure : frozenset of str
        Cameras whose pictures neither bear them out nor fit anything else.
    """

    views: Views
    fits: Mapping[str, Fit]
    shown: Mapping[str, Sighting]
    scores: Mapping[str, float]
    wide: Mapping[str, float]
    unsure: frozenset[str] = frozenset()


def look_at_views(frame: Frame) -> Views:
    """Read the images and masks of a frame and hold them against its scan, as each camera sees it."""
    return examine(frame).views


def _anyone(_camera: str) -> bool:
    return True


def examine(frame: Frame, explain: Callable[[str], bool] = _anyone) -> Examined:
    """As :func:`look_at_views`, with what it was found by.

    Parameters
    ----------
    explain : function of a camera's name
        Whether a convention is looked for, which takes a tenth of a second.
    """
    scan = frame.scan
    # Centres too, so that no triangle of a sparse mesh is missed; a pixel counts once however many points it has.
    points = np.concatenate([scan.vertices, scan.vertices[scan.faces].mean(axis=1)])
    even = surface_points(scan)
    found = {camera.name: _look(frame, camera, points, even) for camera in frame.cameras}
    shown = {name: one.shown for name, one in found.items() if one.shown is not None}
    scores = {name: one.judged.score for name, one in found.items() if one.judged is not None}
    bad = [name for name, one in found.items() if (one.blind or one.contradicts) and explain(name)]
    doubtful = [name for name, one in found.items() if not (one.blind or one.wrong or one.wide)]
    doubtful = [name for name in doubtful if (given := found[name].judged) and shown[name].doubts(given)]
    # A mask that is larger than the scan tells little by itself: what is in it is told by the image's edges.
    masked = {name for name in shown if isinstance(shown[name], Shown) and name in frame.images}
    edges = {name: _edges_of(frame, name) for name in doubtful if name in masked}
    doubtful = [name for name in doubtful if name not in edges or _doubted(frame, name, edges[name], even)]
    asked = [name for name in doubtful if explain(name)]
    fits = diagnose(scan, frame.cameras, shown, bad, asked)
    left = [name for name in (*bad, *asked) if name not in fits and name in masked]
    edges |= {name: _edges_of(frame, name) for name in left if name not in edges}
    fits |= diagnose(scan, frame.cameras, {name: edges[name] for name in left}, bad, asked)
    by_edges = [name for name in asked if name in fits and not (name in shown and isinstance(shown[name], Shown))]
    for name in _by_chance({name: fits[name] for name in by_edges}):
        del fits[name]
    wrong, blind = dict[str, str](), dict[str, str]()
    for name, one in found.items():
        if name in fits and name in (*bad, *asked):
            wrong[name] = _joined(one.wrong or _named(one.blind, name) or _DOUBTFUL.format(name), str(fits[name]))
        elif one.wrong:
            wrong[name] = _joined(one.wrong, _unexplained(one)) if name in bad and one.shown else one.wrong
        elif one.blind:
            blind[name] = one.blind
        if name not in frame.images:
            blind.setdefault(name, NO_IMAGE)
    wide = {name: one.wide for name, one in found.items() if one.wide}
    views = Views(wrong, blind, measured=tuple(sorted(frame.depths)), fused=frame.fused)
    unsure = frozenset(doubtful) - fits.keys()
    return Examined(views, fits, shown, scores, wide, unsure)


def _by_chance(fits: Mapping[str, Fit]) -> list[str]:
    """Return the cameras that nothing speaks against but edges, and whose convention too few others share.

    Some outline or other lies on edges in many a picture; the same convention in several of a rig does not by chance.
    """
    shared = Counter(fit.convention.key for fit in fits.values())
    return [name for name, fit in fits.items() if shared[fit.convention.key] < FEWEST_BY_EDGES]


def _edges_of(frame: Frame, name: str) -> Edges:
    mask = frame.masks[name]() if name in frame.masks else None
    return Edges.of(frame.images[name](), mask)


def _doubted(frame: Frame, name: str, edges: Edges, points: npt.NDArray[np.float64]) -> bool:
    camera = next(camera for camera in frame.cameras if camera.name == name)
    grid = grid_of(edges, camera)
    return edges.doubts(edges.judge(grid)(grid.silhouette(camera, points), ""))


def _unexplained(one: _Look) -> str:
    if one.judged is not None and one.judged.score >= _GOOD:
        return f"the camera agrees with its picture as it is: {one.judged.score:.2f} ({one.shown})"
    return "no convention that is tried here fits"


def _named(blind: str, name: str) -> str:
    return blind.replace("it sees", f"camera {name} sees", 1)


@dataclass(frozen=True)
class _Look:
    """What is found about one camera: why it is wrong or blind, in words; and by what."""

    wrong: str
    blind: str
    contradicts: bool
    shown: Sighting | None
    judged: Judgement | None
    wide: float


def _look(frame: Frame, camera: Camera, points: npt.NDArray[np.float64], even: npt.NDArray[np.float64]) -> _Look:
    seen, depth = _seen(camera, points)
    blind, wide, problems, contradicts = "", 0.0, list[str](), False
    shown: Sighting | None = None
    if len(depth) < FEWEST_POINTS * len(points):
        blind = f"it sees nothing of the scan, which lies {_where(camera, points)}{_other_unit(camera, points)}"
    for look in (_check_place, _check_mask, _check_image):
        try:
            found = look(frame, camera, points, seen)
        except InputError as error:
            raise_if_passing(error)
            problems.append(str(error))
            continue
        if found.problem is not None and look is _check_mask and _is_wide(found.shown, camera, even):
            wide = 1 - found.inside
        elif found.problem is not None:
            if not problems:
                shown = None  # a mask is believed more than a picture, but for one that alone contradicts
            problems.append(str(found.problem))
            contradicts = True
        shown = shown or found.shown
    problem = (problems or [""])[0]
    if shown is None:
        return _Look(problem, blind, contradicts, None, None, wide)
    grid = grid_of(shown, camera)
    judged = shown.judge(grid)(grid.silhouette(camera, even), "")
    return _Look(problem, blind, contradicts, shown, judged, wide)


def _joined(reason: str, more: str) -> str:
    return f"{reason.rstrip('.')}. {more[0].upper()}{more[1:]}"


@dataclass(frozen=True)
class _Seen:
    """What one look at a camera gives.

    Attributes
    ----------
    shown : Sighting or None
        Where its picture shows somebody.
    problem : CameraError or None
        What contradicts it, or why it cannot be where it is said to be.
    inside : float
        Share of the scan inside the mask, where that is the problem.
    """

    shown: Sighting | None = None
    problem: CameraError | None = None
    inside: float = 0.0


def _seen(camera: Camera, points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the pixels (P, 2) that points fall on, each once, and the depth (Q,) of every point in the image."""
    pixels, z = camera.project(points)
    inside = (z > 0) & (pixels >= 0).all(axis=1) & (pixels < (camera.width, camera.height)).all(axis=1)
    column, row = pixels[inside].astype(np.int64).T
    flat = np.unique(row * camera.width + column)
    return np.stack([flat % camera.width, flat // camera.width], axis=1), z[inside]


def _where(camera: Camera, points: npt.NDArray[np.float64]) -> str:
    return "behind it" if np.median(camera.to_camera(points)[:, 2]) <= 0 else "beside its image"


def _other_unit(camera: Camera, points: npt.NDArray[np.float64]) -> str:
    """Say which factor of the camera's translation would bring the scan into its image, if one does."""
    fits = []
    for factor in FACTORS:
        pose = camera.world_to_camera.copy()
        pose[:3, 3] *= factor
        moved = replace(camera, world_to_camera=pose)
        seen, depth = _seen(moved, points)
        if len(depth) > len(points) / 2 and _extent(seen) >= SMALLEST_PX and not _inside_head(moved, points):
            fits.append((abs(np.log(np.median(depth) / USUAL_DISTANCE_M)), factor))
    if not fits:
        return ""
    return (
        f"; with {min(fits)[1]:g} times its translation it would see it: if the cameras are in another unit than the "
        "scan, state theirs as `camera_unit` in capture.json"
    )


def _extent(seen: npt.NDArray[np.int64]) -> int:
    return int(np.ptp(seen, axis=0).max()) + 1 if len(seen) else 0


def _inside_head(camera: Camera, points: npt.NDArray[np.float64]) -> bool:
    return bool(np.linalg.norm(camera.centre - np.median(points, axis=0)) < NEAREST_M)


def _check_place(frame: Frame, camera: Camera, points: npt.NDArray[np.float64], seen: npt.NDArray[np.int64]) -> _Seen:
    """Tell a camera that cannot be where it is said to be."""
    del frame
    side = max(camera.width, camera.height)
    focal = min(camera.K[0, 0], camera.K[1, 1])
    problem = None
    if _inside_head(camera, points):
        problem = CameraError(
            f"camera {camera.name} stands inside the scan" + _other_unit(camera, points),
            "a camera in front of the face",
            f"Check {_CAMERA}",
        )
    elif focal < LEAST_FOCAL * side:
        problem = CameraError(
            f"camera {camera.name} has a focal length of {focal:.3g} pixels for an image of {side} pixels",
            f"at least {LEAST_FOCAL * side:g} pixels",
            "Give K in pixels of the image, not in units of its width or in millimetres",
        )
    elif len(seen) and _extent(seen) < SMALLEST_PX:
        problem = CameraError(
            f"the scan is {_extent(seen)} pixels across in the image of camera {camera.name}"
            + _other_unit(camera, points),
            f"at least {SMALLEST_PX}",
            f"Check {_CAMERA}",
        )
    return _Seen(problem=problem)


def _check_mask(frame: Frame, camera: Camera, points: npt.NDArray[np.float64], seen: npt.NDArray[np.int64]) -> _Seen:
    """Read what there is of a mask, and tell one that contradicts where the scan is seen."""
    del points
    if camera.name not in frame.masks:
        return _Seen()
    mask = frame.masks[camera.name]()
    shown = Shown(mask, "the mask") if mask.any() and not mask.all() else None
    if not len(seen):
        return _Seen(shown)
    column, row = seen.T
    inside = float(grown(mask)[row, column].mean())
    if inside < LEAST_INSIDE:
        problem = CameraError(
            f"of the scan, as camera {camera.name} should see it, {inside:.0%} lies inside its mask"
            + ("" if mask.any() else ", which is black everywhere"),
            f"at least {LEAST_INSIDE:.0%}",
            f"Check the mask (white on the person, not turned, of this camera and frame), {_CAMERA}",
        )
        return _Seen(shown, problem, inside)
    if mask.all() and len(row) < mask.size / 2:
        white = f"the mask of camera {camera.name} is white everywhere"
        return _Seen(None, CameraError(white, "black behind the person", "Make it again"))
    return _Seen(shown)


def _check_image(frame: Frame, camera: Camera, points: npt.NDArray[np.float64], seen: npt.NDArray[np.int64]) -> _Seen:
    """Read what there is of an image, and tell one that is empty where the scan is seen."""
    del points
    if camera.name not in frame.images:
        return _Seen()
    image = frame.images[camera.name]()
    column, row = seen.T
    problem = _blank(camera, image[row, column]) if len(seen) else None
    if problem is not None:
        return _Seen(None, problem)
    colour, share = _commonest(image)
    if not EMPTY_SHARE[0] <= share <= EMPTY_SHARE[1]:
        return _Seen(Edges.of(image) if share < EMPTY_SHARE[0] else None)
    shown = Shown(_before(image, colour), "the image's foreground")
    if not len(seen):
        return _Seen(shown)
    empty = float((image[row, column] == colour).all(axis=1).mean())
    if empty <= MOST_ON_EMPTY:
        return _Seen(shown)
    problem = CameraError(
        f"of the scan, as camera {camera.name} should see it, {empty:.0%} lies where its image is empty (the "
        f"colour {tuple(colour.tolist())}, which {share:.0%} of it has)",
        f"at most {MOST_ON_EMPTY:.0%}",
        f"Check the image (of this camera and frame, not turned), {_CAMERA}",
    )
    return _Seen(shown, problem)


def _blank(camera: Camera, values: npt.NDArray[np.uint8]) -> CameraError | None:
    """Tell pixels (P, 3) of a picture that was never taken: black, or of one colour, all over the scan."""
    brightest = float(np.percentile(values.max(axis=1), 99))
    what = "black" if brightest <= BLACK else "of one colour" if (values == values[0]).all() and len(values) > 1 else ""
    if not what:
        return None
    return CameraError(
        f"the image of camera {camera.name} is {what} wherever the scan is",
        "a picture of the person",
        "Restore the picture, or take the camera's images away: it then gives no samples",
    )


def _before(image: npt.NDArray[np.uint8], colour: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return what stands before an empty background, (H, W) bool, without holes of the background's colour."""
    from scipy.ndimage import binary_fill_holes

    apart = np.abs(image.astype(np.int16) - colour.astype(np.int16)).max(axis=2) > NEAR_COLOUR
    return np.asarray(binary_fill_holes(apart))


def _is_wide(shown: Sighting | None, camera: Camera, points: npt.NDArray[np.float64]) -> bool:
    """Whether a scan fills the mask and steps back or ends where that ends: it has more than the person in it."""
    if not isinstance(shown, Shown):
        return False
    grid = Grid.of(camera)
    mask = grid.reduced(shown.mask)
    if overlap(grid.silhouette(camera, points), mask).covered < LEAST_COVERED:
        return False
    return outline_breaks(grid, camera, points, mask) >= LEAST_BREAKS


def _commonest(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], float]:
    """Return the commonest colour of an image, and its share of the pixels of an even grid."""
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / SAMPLED_PIXELS)))
    packed = image[::step, ::step].astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    values, counts = np.unique(packed, return_counts=True)
    best = int(values[counts.argmax()])
    return np.array([best >> 16, (best >> 8) & 255, best & 255], np.uint8), float(counts.max() / packed.size)
