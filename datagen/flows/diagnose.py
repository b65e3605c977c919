"""Which convention explains cameras that contradict their pictures: candidates of a table, judged by one overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from datagen.flows.conventions import CROP, EXCHANGED, Candidate, Convention, candidates, figures
from datagen.flows.sightings import Judge, Judgement, Sighting, grid_of, moved
from datagen.flows.silhouettes import surface_points
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh

F64 = npt.NDArray[np.float64]

# Conventions whose mean scores are that near are equal: the simpler one is believed.
ALIKE = 0.03
# What explains the rig is believed of a camera that something else explains a little better: where a scan lacks the
# back of the head, the right one does not always cover most.
JOINT_LOSS = 0.25
SURE_GAIN = 0.05  # over every other convention that is no more complicated, for figures to be written
COARSE_POINTS, KEPT = 3000, 12
NEAR_BEST = 0.35  # below the best on the coarse grid: not worth a closer look
FEW = 3  # doubtful cameras: of more, only what explains most is believed
CROP_ABOVE = 0.95  # a convention that explains a rig that well leaves nothing to a crop
# Measured one by one, shifts of simulated pictures are off by 1 pixel (standard deviation); their median, in whole
# pixels, is right if it is known to half of one.
CROP_SPREAD_PX = 3.0
MAD_TO_SD = 1.4826


@dataclass(frozen=True)
class Fit:
    """A convention that explains a camera's picture.

    Attributes
    ----------
    convention : Convention
    camera : Camera
        As it is then.
    score, given : float
        Agreement of scan and picture, then and as given.
    figure : str
        What that figure is.
    shift_px : (2,) tuple or None
        By how much the principal point moves, if that was measured.
    sure : bool
        Whether nothing else fits nearly as well, and the figures are exact.
    """

    convention: Convention
    camera: Camera
    score: float
    given: float
    figure: str
    shift_px: tuple[float, float] | None = None
    sure: bool = False

    def __str__(self) -> str:
        by = (
            ""
            if self.shift_px is None
            else ", its principal point moved by ({:+.0f}, {:+.0f}) pixels,".format(*self.shift_px)
        )
        return f"{self.convention.words}{by} fits: {self.score:.2f} instead of {self.given:.2f} ({self.figure})"


@dataclass(frozen=True)
class _Table:
    """The scores of one camera's candidates, those that are worth a closer look."""

    camera: Camera
    shown: Sighting
    judge: Judge
    given: Judgement
    found: Mapping[str, tuple[float, Candidate]]


def diagnose(
    scan: Mesh, rig: Sequence[Camera], shown: Mapping[str, Sighting], wrong: Sequence[str], doubtful: Sequence[str] = ()
) -> dict[str, Fit]:
    """Find what was meant by the cameras of one frame that contradict their pictures.

    What explains most of them together is believed of each that it explains about as well as anything else does.

    Parameters
    ----------
    scan : Mesh
    rig : sequence of Camera
        All of the frame.
    shown : mapping of camera name to Sighting
        Cameras that are not in it are not judged.
    wrong : sequence of str
        Cameras that contradict their pictures.
    doubtful : sequence of str
        Cameras that nothing else speaks against: only what explains them much better is believed.

    Returns
    -------
    dict of camera name to Fit
        Of those that a convention explains; also of other cameras that the rig's convention explains as well as
        what is given does, such as one in front of the face whose matrix is nearly its own inverse.
    """
    asked = [c for c in rig if c.name in shown and (c.name in wrong or c.name in doubtful)]
    if not asked:
        return {}
    coarse, fine = surface_points(scan, COARSE_POINTS), surface_points(scan)
    tables = [_table(camera, rig, shown[camera.name], coarse, fine) for camera in asked]
    tables = _mutual(tables, rig, shown, fine)
    crops = _cropped(scan, tables)
    if crops is not None:
        tables = crops
    favourite = _favourite(tables)
    fits = {}
    for table in tables:
        fit = _chosen(table, favourite, _mean(tables, favourite))
        if fit is None:
            continue
        clear = fit.score >= table.shown.clear_score and table.shown.doubts(table.given)
        if table.camera.name in wrong or (clear and (_family(fit.convention.key) == favourite or len(tables) < FEW)):
            fits[table.camera.name] = fit
    fits = _settled(fits, tables)
    for name, fit in list(fits.items()):
        other = fit.convention.key.removeprefix(EXCHANGED)
        if other != fit.convention.key and other not in fits:
            (camera,) = (one for one in rig if one.name == other)
            also = _also(camera, rig, shown[other], f"{EXCHANGED}{name}", fine)
            fits |= {} if also is None else {other: also}
    keys = Counter(fit.convention.key for fit in fits.values() if fit.sure)
    if len(keys) == 1:
        (key,) = keys
        for camera in rig:
            if camera.name in shown and camera.name not in fits and camera.name not in wrong:
                also = _also(camera, rig, shown[camera.name], key, fine)
                if also is not None:
                    fits[camera.name] = also
    return fits


def _table(camera: Camera, rig: Sequence[Camera], shown: Sighting, coarse: F64, fine: F64) -> _Table:
    rough, grid = grid_of(shown, camera, coarse=True), grid_of(shown, camera)
    roughly, judge = shown.judge(rough), shown.judge(grid)
    ranked = []
    for candidate in candidates(camera, rig):
        if not candidate.shifted:
            score = roughly(rough.silhouette(candidate.camera, coarse), candidate.picture).score
            ranked.append((score, candidate))
    ranked.sort(key=lambda one: -one[0])
    found = dict[str, tuple[float, Candidate]]()
    for score, candidate in ranked[:KEPT]:
        if score > max(0.0, ranked[0][0] - NEAR_BEST):
            seen = judge(grid.silhouette(candidate.camera, fine), candidate.picture)
            key = candidate.convention.key
            if seen.fits and (key not in found or found[key][0] < seen.score):
                found[key] = seen.score, candidate
    return _Table(camera, shown, judge, judge(grid.silhouette(camera, fine), ""), found)


def _mutual(tables: Sequence[_Table], rig: Sequence[Camera], shown: Mapping[str, Sighting], fine: F64) -> list[_Table]:
    """Leave out exchanges of pictures that do not fit the other camera too."""
    of, cameras = {table.camera.name: table for table in tables}, {camera.name: camera for camera in rig}

    def both(table: _Table, key: str) -> bool:
        name = key.removeprefix(EXCHANGED)
        back = f"{EXCHANGED}{table.camera.name}"
        if name in of or name not in shown:
            return name in of and back in of[name].found
        return _also(cameras[name], rig, shown[name], back, fine) is not None

    out = []
    for table in tables:
        found = {key: one for key, one in table.found.items() if not key.startswith(EXCHANGED)}
        # With whomever a picture was exchanged, it is one and the same convention of the rig.
        exchanges = [one for key, one in table.found.items() if key.startswith(EXCHANGED) and both(table, key)]
        if exchanges:
            found[EXCHANGED] = max(exchanges, key=lambda one: one[0])
        out.append(replace(table, found=found))
    return out


def _family(key: str) -> str:
    """Return what a convention's key is in a table."""
    return EXCHANGED if key.startswith(EXCHANGED) else key


def _cropped(scan: Mesh, tables: Sequence[_Table]) -> list[_Table] | None:
    """Return the tables with the shift that fits each best, where nothing else explains them together; None if it does.

    Last, since two free numbers make much fit.
    """
    best = max((_mean(tables, key) for key in {key for table in tables for key in table.found}), default=0.0)
    if best >= CROP_ABOVE:
        return None
    out = []
    for table in tables:
        place = table.shown.find(table.camera, scan)
        if place is None:
            out.append(table)
            continue
        (convention,) = (one.convention for one in candidates(table.camera) if one.shifted)
        candidate = Candidate(convention, moved(table.camera, place.shift_px), shifted=True)
        out.append(replace(table, found={**table.found, CROP: (place.score, candidate)}))
    return out


def _mean(tables: Sequence[_Table], key: str) -> float:
    return sum(table.found[key][0] if key in table.found else 0.0 for table in tables) / len(tables)


def _favourite(tables: Sequence[_Table]) -> str:
    """Return the key of the convention that explains most of a rig; of equals the simplest."""
    listed = {key: candidate for table in tables for key, (_, candidate) in table.found.items()}
    means = {key: _mean(tables, key) for key in listed}
    best = max(means.values(), default=0.0)
    equals = [key for key, mean in means.items() if mean >= best - ALIKE]
    return min(equals, key=lambda key: (listed[key].convention.changes, -means[key]), default="")


def _chosen(table: _Table, favourite: str, mean: float) -> Fit | None:
    """Return the convention of one camera, if it fits clearly better than what was given."""
    if not table.found:
        return None
    best = max(score for score, _ in table.found.values())
    equals = {key: one for key, one in table.found.items() if one[0] >= best - ALIKE}
    joint = favourite in table.found and mean >= table.shown.least_mean
    if joint and table.found[favourite][0] >= best - JOINT_LOSS:
        key, least = favourite, table.shown.least_joint
    else:
        key = min(equals, key=lambda name: (equals[name][1].convention.changes, -equals[name][0]))
        if key == favourite:
            return None  # it explains too little of the rig
        least = max(table.shown.least_score, table.shown.least_mean)
    score, candidate = table.found[key]
    if score < least or score < table.given.score + table.shown.least_gain:
        return None
    shift = candidate.camera.K[:2, 2] - table.camera.K[:2, 2]
    return Fit(
        candidate.convention,
        candidate.camera,
        score,
        table.given.score,
        table.shown.figure,
        (float(shift[0]), float(shift[1])) if candidate.shifted else None,
    )


def _settled(fits: Mapping[str, Fit], tables: Sequence[_Table]) -> dict[str, Fit]:
    """Say of each fit whether it is sure: no other convention as simple fits the same cameras nearly as well."""
    out = dict[str, Fit]()
    for name, fit in fits.items():
        key = _family(fit.convention.key)
        alike = [t for t in tables if t.camera.name in fits and _family(fits[t.camera.name].convention.key) == key]
        own = _mean(alike, key)
        rivals = {
            other
            for table in alike
            for other, (_, candidate) in table.found.items()
            if candidate.convention.changes <= fit.convention.changes
            and other != key
            and (candidate.picture or not _alike(candidate.camera, table.camera, fits))
        }
        sure = fit.convention.fixable and all(_mean(alike, other) < own - SURE_GAIN for other in rivals)
        if fit.shift_px is None:
            out[name] = replace(fit, sure=sure)
            continue
        shared = _shared([(table, fits[table.camera.name]) for table in alike])
        if shared is None:
            out[name] = replace(fit, sure=False)
        else:
            camera = moved(fit.camera, shared - np.array(fit.shift_px))
            out[name] = replace(fit, camera=camera, shift_px=(float(shared[0]), float(shared[1])), sure=sure)
    return out


def _shared(fits: Sequence[tuple[_Table, Fit]]) -> F64 | None:
    """Return the crop (2,) that all pictures share, in whole pixels; None if it is not known to half of one."""
    shifts = np.array([fit.shift_px for _, fit in fits])
    middle = np.median(shifts, axis=0)
    off = np.abs(shifts - middle)
    spread = MAD_TO_SD * np.median(off, axis=0)
    measured = all(table.shown.finds_pixels(table.camera) for table, _ in fits)
    known = len(fits) > 1 and (off <= CROP_SPREAD_PX).all() and (spread <= 0.4 * np.sqrt(len(fits))).all()
    return np.asarray(np.round(middle)) if measured and known else None


def _alike(camera: Camera, given: Camera, fits: Mapping[str, Fit]) -> bool:
    """Whether a candidate is the camera that was chosen, to a pixel."""
    chosen = fits[given.name].camera
    return figures(camera)[6:] == figures(chosen)[6:] and bool((np.abs(camera.K - chosen.K) < 1).all())


def _also(camera: Camera, rig: Sequence[Camera], shown: Sighting, key: str, fine: F64) -> Fit | None:
    """Return the rig's convention for a camera that passed, if it fits that as well as what was given."""
    grid = grid_of(shown, camera)
    judge = shown.judge(grid)
    given = judge(grid.silhouette(camera, fine), "").score
    for candidate in candidates(camera, rig):
        if candidate.convention.key == key and not candidate.shifted and not candidate.picture:
            score = judge(grid.silhouette(candidate.camera, fine), "").score
            if score >= given - ALIKE:
                return Fit(candidate.convention, candidate.camera, score, given, shown.figure, None, sure=True)
    return None
