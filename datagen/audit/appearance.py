"""Whether pictures agree with where the warp puts the skin: each picture laid on the template, against all others.

The same skin looks alike in all pictures of a person. So every picture is spread over the template by its pixels' own
canonical coordinates, and what one camera, or one frame, saw there is held against what the others saw. Where it fits
better a few millimetres aside, a camera is not where it is said to be, or a part of the face has slipped along the
surface: neither shows in a distance to the scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.geometry.space import CanonicalSpace
from datagen.heads.regions import FACE_REGIONS, REGIONS
from datagen.shards import Dataset

F64 = npt.NDArray[np.float64]
# A cell of the unrolled face; pictures of less resolution than that are spread over several.
FINEST_MM = 1.0
RADIUS_MM = 80.0  # of the cylinder that the face is unrolled from
REACH_MM = 9.0
# Light varies slowly over a face and from frame to frame: of each picture only what is finer than this is compared.
COARSEST_MM = 15.0
FEWEST_CELLS = 60
# Of two views of the same skin of simulated faces, laid right, 0.6 and more; of different skin 0.1.
LEAST_LIKENESS = 0.3
MOST_NEIGHBOURS = 6
SURE = 0.5  # confidence of pixels that are compared


@dataclass(frozen=True)
class Fit:
    """How two pictures of the same skin fit.

    Attributes
    ----------
    shift_mm : float
        By how much one has to be moved along the skin to fit best; NaN if it is not like the other anywhere.
    likeness : float
        Correlation there, −1 to 1.
    likeness_unmoved : float
        Correlation as they lie.
    """

    shift_mm: float
    likeness: float
    likeness_unmoved: float


@dataclass(frozen=True)
class CameraFit:
    """One camera's pictures of a sequence against those of its other cameras, one by one.

    Attributes
    ----------
    sequence : str
        As ``subject/sequence``.
    camera : str
    frames : tuple of str
        Whose pictures they are.
    fit : Fit
        Medians over the other cameras, the lower of two: a right camera fits the other right ones, a wrong one none.
    others : int
        Cameras that it was held against; of two, nobody knows which is wrong.
    """

    sequence: str
    camera: str
    frames: tuple[str, ...]
    fit: Fit
    others: int


@dataclass(frozen=True)
class RegionFit:
    """One region of one frame, in all its cameras, against the other frames of the subject."""

    frame: str
    region: str
    fit: Fit


@dataclass(frozen=True)
class Appearance:
    """What pictures say of a dataset.

    Attributes
    ----------
    cameras : tuple of CameraFit
    regions : tuple of RegionFit
    subjects, frames : int
        Looked at.
    cell_mm : float
        How finely.
    """

    cameras: tuple[CameraFit, ...] = ()
    regions: tuple[RegionFit, ...] = ()
    subjects: int = 0
    frames: int = 0
    cell_mm: float = FINEST_MM


@dataclass(frozen=True)
class _Laid:
    """A picture spread over the cells of the unrolled face: sums and counts (H, W), and the region of each cell."""

    total: F64
    count: F64
    region: npt.NDArray[np.uint8]


def appearance(dataset: Dataset, most_subjects: int = 24, frames_each: int = 6, also: Sequence[str] = ()) -> Appearance:
    """Compare the pictures of some frames of some subjects.

    Parameters
    ----------
    most_subjects : int
        Evenly spread over the dataset, beside those of ``also``.
    frames_each : int
        Evenly spread over each subject's, beside those of ``also``.
    also : sequence of str
        Frames that are looked at in any case, as ``subject/sequence/000000``.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If the dataset is damaged.
    """
    space = CanonicalSpace.from_attrs(dict(dataset.plan.space))
    splits = {
        dataset.plan.subjects[number]: split for split in dataset for number in np.unique(dataset[split].index.subject)
    }
    wanted = {name.partition("/")[0] for name in also}
    subjects = sorted(wanted & splits.keys()) + _spread(sorted(splits.keys() - wanted), most_subjects)
    cell_mm = FINEST_MM
    cameras: list[CameraFit] = []
    regions: list[RegionFit] = []
    looked_at = 0
    for k, subject in enumerate(subjects):
        samples = _samples_of(dataset, splits[subject], subject)
        if k == 0:
            cell_mm = _cell_mm(dataset, splits[subject], samples[0][2])
        all_frames = sorted({frame for frame, _, _ in samples})
        kept = {*_spread(all_frames, frames_each), *(set(also) & set(all_frames))}
        laid = {
            (frame, camera): _lay(dataset, splits[subject], i, space, cell_mm)
            for frame, camera, i in samples
            if frame in kept
        }
        looked_at += len(kept)
        cameras += _camera_fits(laid, cell_mm)
        regions += _region_fits(laid, cell_mm)
    return Appearance(tuple(cameras), tuple(regions), len(subjects), looked_at, cell_mm)


def _samples_of(dataset: Dataset, split: str, subject: str) -> list[tuple[str, str, int]]:
    """Return frame, camera and number of every sample of a subject."""
    index, plan = dataset[split].index, dataset.plan
    chosen = np.flatnonzero(index.subject == list(plan.subjects).index(subject))
    return [
        (
            f"{subject}/{plan.sequences[index.sequence[i]]}/{int(index.frame[i]):06d}",
            plan.cameras[index.camera[i]],
            int(i),
        )
        for i in chosen
    ]


def _spread(names: Sequence[str], most: int) -> list[str]:
    places = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))
    return [names[i] for i in places] if names else []


def _cell_mm(dataset: Dataset, split: str, i: int) -> float:
    """Return how large a pixel is on the face, at least :data:`FINEST_MM`, from one sample."""
    read = dataset[split].read(("depth", "intrinsics"), [i])
    depth, focal = read["depth"][0], float(read["intrinsics"][0][0, 0])
    surface = depth > 0
    return max(FINEST_MM, 1000 * float(np.median(depth[surface])) / focal) if surface.any() else FINEST_MM


def _lay(dataset: Dataset, split: str, i: int, space: CanonicalSpace, cell_mm: float) -> _Laid:
    maps = {
        name: values[0]
        for name, values in dataset[split].read(("image", "canonical", "confidence", "region", "edge"), [i]).items()
    }
    known = (maps["confidence"] >= SURE) & ~maps["edge"] & np.isin(maps["region"], [REGIONS[n] for n in FACE_REGIONS])
    mm = 1000 * space.metres(np.moveaxis(maps["canonical"], 0, -1)[known].astype(np.float64))
    light = maps["image"].astype(np.float64).mean(axis=0)[known]
    # Unrolled around the vertical axis, so that cheeks are not squeezed.
    angle = np.arctan2(mm[:, 0], np.maximum(mm[:, 2] - _axis_mm(space), 1.0))
    half = int(np.ceil(np.pi / 2 * RADIUS_MM / cell_mm)) + 1
    tall = int(np.ceil(150 / cell_mm))
    column = np.clip(np.rint(angle * RADIUS_MM / cell_mm).astype(int) + half, 0, 2 * half)
    row = np.clip(np.rint((mm[:, 1] - 1000 * space.centre[1]) / cell_mm).astype(int) + tall, 0, 2 * tall)
    shape = (2 * tall + 1, 2 * half + 1)
    flat = row * shape[1] + column
    size = shape[0] * shape[1]
    total = np.asarray(np.bincount(flat, weights=light, minlength=size), np.float64).reshape(shape)
    count = np.bincount(flat, minlength=size).reshape(shape).astype(np.float64)
    region = np.zeros(size, np.uint8)
    region[flat] = maps["region"][known]
    return _Laid(total, count, region.reshape(shape))


def _axis_mm(space: CanonicalSpace) -> float:
    """Where the cylinder's axis lies in depth: its radius behind the front of the canonical cube's middle."""
    return 1000 * float(space.centre[2])


def _camera_fits(laid: dict[tuple[str, str], _Laid], cell_mm: float) -> list[CameraFit]:
    found = []
    for sequence in sorted({frame.rpartition("/")[0] for frame, _ in laid}):
        of_sequence = {key: one for key, one in laid.items() if key[0].rpartition("/")[0] == sequence}
        cameras = sorted({camera for _, camera in of_sequence})
        summed = {c: _sum([one for (_, camera), one in of_sequence.items() if camera == c]) for c in cameras}
        fits: dict[str, list[Fit]] = {camera: [] for camera in cameras}
        for k, a in enumerate(cameras):
            # Of large rigs only some pairs: each camera meets as many others as tell it apart.
            for b in cameras[k + 1 : k + 1 + MOST_NEIGHBOURS]:
                both = (summed[a].count > 0) & _grown(summed[b].count > 0, 2)
                fit = _fit(summed[a], summed[b], both, cell_mm)
                if np.isfinite(fit.shift_mm):
                    fits[a].append(fit)
                    fits[b].append(fit)
        for camera in cameras:
            if fits[camera]:
                frames = tuple(sorted(frame for frame, c in of_sequence if c == camera))
                found.append(CameraFit(sequence, camera, frames, _lower_median(fits[camera]), len(fits[camera])))
    return found


def _lower_median(fits: Sequence[Fit]) -> Fit:
    return sorted(fits, key=lambda fit: fit.shift_mm)[(len(fits) - 1) // 2]


def _region_fits(laid: dict[tuple[str, str], _Laid], cell_mm: float) -> list[RegionFit]:
    found = []
    for frame in sorted({frame for frame, _ in laid}):
        own = _sum([one for (f, _), one in laid.items() if f == frame])
        others = [one for (f, _), one in laid.items() if f != frame]
        if not others:
            continue
        rest = _sum(others)
        for name in FACE_REGIONS:
            inside = _grown(own.region == REGIONS[name], 1)
            found.append(RegionFit(frame, name, _fit(own, rest, inside, cell_mm)))
    return found


def _sum(parts: Sequence[_Laid]) -> _Laid:
    region = np.zeros_like(parts[0].region)
    for part in parts:
        region = np.where(region == 0, part.region, region)
    return _Laid(sum((p.total for p in parts), start=np.zeros(1)), sum((p.count for p in parts), np.zeros(1)), region)


def _grown(mask: npt.NDArray[np.bool_], cells: int) -> npt.NDArray[np.bool_]:
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(mask, iterations=cells), bool)


def _fine(laid: _Laid, cell_mm: float) -> tuple[F64, npt.NDArray[np.bool_]]:
    """Return what is finer than :data:`COARSEST_MM` of a picture, smoothed over a cell, and where it is known."""
    from scipy.ndimage import gaussian_filter

    near = gaussian_filter(laid.count, 0.7)
    wide = COARSEST_MM / 2 / cell_mm
    far = gaussian_filter(laid.count, wide)
    known = near > 0.15
    smooth = gaussian_filter(laid.total, 0.7) / np.maximum(near, 1e-9)
    light = gaussian_filter(laid.total, wide) / np.maximum(far, 1e-9)
    return np.where(known, smooth / np.maximum(light, 1) - 1, 0.0), known


def _fit(own: _Laid, rest: _Laid, inside: npt.NDArray[np.bool_], cell_mm: float) -> Fit:
    """Move one picture over the other and find where they are most alike."""
    (a, known_a), (b, known_b) = _fine(own, cell_mm), _fine(rest, cell_mm)
    reach = max(round(REACH_MM / cell_mm), 1)
    known_a = known_a & inside
    rows, columns = np.nonzero(known_a)
    if len(rows) < FEWEST_CELLS:
        return Fit(float("nan"), float("nan"), float("nan"))
    values = a[rows, columns]
    height, width = b.shape
    best, shift, unmoved = -2.0, float("nan"), float("nan")
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if np.hypot(dx, dy) > reach:
                continue
            y, x = np.clip(rows + dy, 0, height - 1), np.clip(columns + dx, 0, width - 1)
            seen = known_b[y, x]
            if seen.sum() < max(FEWEST_CELLS, 0.6 * len(rows)):
                continue
            likeness = _correlation(values[seen], b[y, x][seen])
            if dx == dy == 0:
                unmoved = likeness
            if likeness > best:
                best, shift = likeness, float(np.hypot(dx, dy) * cell_mm)
    if best < LEAST_LIKENESS:
        return Fit(float("nan"), best if best > -2 else float("nan"), unmoved)
    return Fit(shift, best, unmoved)


def _correlation(a: F64, b: F64) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0
