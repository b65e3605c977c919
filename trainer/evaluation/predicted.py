"""Maps that any program predicted of a dataset's samples, read from disk; and the pictures it predicts them from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import I64
from datagen.common.console import say
from datagen.common.documents import read_json, read_text
from datagen.common.errors import InputError
from datagen.common.files import read_npz, staged_folder
from datagen.shards import Dataset, Split
from trainer.evaluation.frames import Space, Truth, View
from trainer.prediction.frames import sample_names
from trainer.prediction.matching import stem

Kind = Literal["ours", "faceanything", "depthanything3"]
RAW, RESULTS, NAMES = "raw_predictions.npz", "results.npz", "names.txt"
_MARKER = "prediction.json"
_HELP = "docs/metrics.md, Predictions of other programs, says what is read"
_HELD = 4  # files whose maps are kept: runs go through one after another, pairs jump
_STEP = 0.02  # of the depth: a larger one within four neighbours is an edge, and nothing is interpolated across it
_SAME_EXTENT = 1e-6
_LEAST = 1e-9  # of a confidence: errors are held against its inverse
_TITLES = {"ours": "this package's", "faceanything": "Face Anything's", "depthanything3": "Depth Anything 3's"}
# Of each layout: what is used, and what is known but not needed, because cameras are the dataset's own.
_USED: Mapping[Kind, frozenset[str]] = {
    "ours": frozenset(
        ("depth", "canonical", "depth_confidence", "canonical_confidence", "surface", "names", "half_extent_m",
         "content_box", "image_region")
    ),
    "faceanything": frozenset(("depth", "canonical", "conf", "valid", "names")),
    "depthanything3": frozenset(("depth", "conf", "names")),
}  # fmt: skip
_CAMERAS = frozenset(("intrinsics", "extrinsics", "intrinsics_known", "extrinsics_known"))
_REST = _CAMERAS | {"image", "normal", "valid"}


@dataclass(frozen=True)
class _File:
    """Predictions of a few frames.

    Attributes
    ----------
    path : Path
    kind : Kind
    names : tuple of str
    """

    path: Path
    kind: Kind
    names: tuple[str, ...]


class StoredPredictions:
    """The predictions below a folder, matched with the samples of a split by name only.

    Parameters
    ----------
    folder : Path
        Holds ``raw_predictions.npz`` or Depth Anything 3's ``results.npz``, at any depth; frames are named in the file,
        or in a ``names.txt`` beside it or in a folder above, one a line.
    own_space : bool
        Their canonical maps are of another space than the dataset's.

    Raises
    ------
    InputError
        If there are none, one cannot be read, frames have no names, a sample is predicted twice or none at all, or
        canonical maps are of another space and nobody said so.
    """

    def __init__(self, folder: Path, dataset: Dataset, split: str, *, own_space: bool) -> None:
        self._dataset, self._split = dataset, dataset[split]
        files = [_open(path, folder) for path in _find(folder)]
        kinds = sorted({file.kind for file in files})
        if len(kinds) > 1:
            raise InputError(
                f"{folder} holds predictions in {' and '.join(_TITLES[kind] for kind in kinds)} layout",
                "those of one program",
                "Move the others elsewhere",
            )
        self.kind: Kind = kinds[0]
        self.space: Space = self._space_of(files, own_space)
        self._places = self._matched(folder, split, files)
        self.samples: I64 = np.array(sorted(self._places), np.int64)
        self._read = lru_cache(maxsize=_HELD)(self._maps)

    def _space_of(self, files: list[_File], own_space: bool) -> Space:
        if self.kind == "depthanything3":
            if own_space:
                raise InputError(
                    f"--own-space, and {files[0].path} has no canonical maps", "depth alone", "Leave it out"
                )
            return "none"
        if own_space:
            return "own"
        if self.kind == "faceanything":
            raise InputError(
                f"{files[0].path} has canonical maps of Face Anything's own space",
                f"those of the dataset's, {self._dataset.attrs.get('space', {}).get('head')}",
                "Pass --own-space: matching, tracking and depth are measured, canonical millimetres left out",
            )
        for file in files:
            _check_space(file.path, self._dataset)
        return "shared"

    def _matched(self, folder: Path, split: str, files: list[_File]) -> dict[int, tuple[_File, int]]:
        table: dict[str, int] = {}
        for index, name in enumerate(sample_names(self._split, range(len(self._split)))):
            if stem(name) in table:
                raise InputError(
                    f"two samples of {split} are called {name}", "names that differ", "Rename a subject or a sequence"
                )
            table[stem(name)] = index
        places: dict[int, tuple[_File, int]] = {}
        strangers: list[str] = []
        for file in files:
            for row, name in enumerate(file.names):
                index = table.get(stem(name), -1)
                if index < 0:
                    strangers.append(name)
                elif index in places:
                    raise InputError(
                        f"{name} is predicted twice, in {places[index][0].path} and {file.path}",
                        "each sample once",
                        "Move one of them elsewhere",
                    )
                else:
                    places[index] = file, row
        if not places:
            raise InputError(
                f"{folder} has no prediction of a sample of {split}, but of {', '.join(strangers[:3])}",
                f"names such as {next(iter(table))}",
                "Predict the pictures that --pictures writes, or give another --split",
            )
        if strangers:
            say(f"{len(strangers)} predictions are of no sample of {split}: {', '.join(strangers[:5])}", to=sys.stderr)
        if len(places) < len(table):
            left = len(table) - len(places)
            say(f"{left} of {len(table)} samples of {split} have no prediction and are left out", to=sys.stderr)
        return places

    def views(self, maps: Mapping[str, npt.NDArray[Any]], indices: I64, frames: int) -> list[View]:  # noqa: ARG002
        """Return the predictions of samples beside their truth (arrays ``TRUTH_ARRAYS`` of the split)."""
        views = []
        for k, index in enumerate(indices.tolist()):
            file, row = self._places[index]
            found = self._read(file)
            truth = Truth.of(maps, k, self._dataset.half_extent_m)
            views.append(_view(truth, {name: values[row] for name, values in found.items()}, self.space))
        return views

    def _maps(self, file: _File) -> dict[str, npt.NDArray[Any]]:
        """Read a file's maps by our names, canonical in metres where the space is shared, at the dataset's size."""
        arrays = _arrays(file.path)
        count, side = len(file.names), self._dataset.resolution
        depth = _stacked(arrays["depth"], count, f"{file.path}: depth")
        size = depth.shape[1:]
        maps: dict[str, npt.NDArray[Any]] = {"depth": np.nan_to_num(depth, nan=0.0, posinf=0.0, neginf=0.0)}
        if self.space != "none":
            canonical = _with_axes(arrays["canonical"], count, size, f"{file.path}: canonical")
            unit = self._dataset.half_extent_m if self.space == "shared" else 1.0
            maps["canonical"] = canonical * np.float32(unit)
        names = {
            "ours": {name: name for name in ("depth_confidence", "canonical_confidence", "surface")},
            "faceanything": {"depth_confidence": "conf", "surface": "valid"},
            "depthanything3": {"depth_confidence": "conf"},
        }[file.kind]
        for name, theirs in names.items():
            if theirs in arrays:
                maps[name] = _stacked(arrays[theirs], count, f"{file.path}: {theirs}")
                if "confidence" in name:
                    maps[name] = np.maximum(maps[name], _LEAST)
                if maps[name].shape != depth.shape:
                    raise InputError(
                        f"{file.path}: {theirs} is {maps[name].shape}", f"{depth.shape} as depth", "Predict it again"
                    )
        boxes = arrays.get("content_box", np.broadcast_to((0, 0, size[1], size[0]), (count, 4)))
        _check_whole(file.path, arrays.get("image_region"))
        return {name: np.stack([fit(m, b, side, d) for m, b, d in zip(v, boxes, depth, strict=True)])
                for name, v in maps.items()}  # fmt: skip


def fit(
    values: npt.NDArray[Any], box: npt.NDArray[np.integer], side: int, depth: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Take the part of a map (H, W) or (3, H, W) that shows the picture, and bring it to ``side`` pixels.

    Values are interpolated between four pixels where ``depth`` (H, W) has no edge among them; otherwise the nearest
    pixel's are taken. A map that has the size already is returned as it is.
    """
    left, top, right, bottom = (int(edge) for edge in box)
    part, z = values[..., top:bottom, left:right], depth[top:bottom, left:right]
    height, width = part.shape[-2:]
    if (height, width) == (side, side):
        return part.astype(np.float32)
    y, x = ((np.arange(side) + 0.5) * size / side - 0.5 for size in (height, width))
    nearest = part[..., np.rint(y).astype(int).clip(0, height - 1)[:, None], np.rint(x).astype(int).clip(0, width - 1)]
    rows, columns = (np.floor(at).astype(int) for at in (y, x))
    share = [(y - rows)[:, None], x - columns]
    corners = [
        ((rows + down).clip(0, height - 1)[:, None], (columns + across).clip(0, width - 1))
        for down in (0, 1)
        for across in (0, 1)
    ]
    weights = [v * u for v in (1 - share[0], share[0]) for u in (1 - share[1], share[1])]
    depths = np.stack([z[corner] for corner in corners])
    with np.errstate(invalid="ignore"):
        smooth = (depths > 0).all(0) & (np.ptp(depths, axis=0) <= _STEP * depths.min(0))
    mixed = sum(weight * part[..., corner[0], corner[1]] for weight, corner in zip(weights, corners, strict=True))
    return np.where(smooth, mixed, nearest).astype(np.float32)


def write_pictures(dataset: Dataset, split: str, out: Path) -> int:
    """Write a split's pictures for other programs: a folder for each camera of a performance, ``names.txt`` in each.

    Returns
    -------
    The number of pictures.

    Raises
    ------
    StorageError, InputError
        If the folder cannot be written, or something else is in it.
    """
    from PIL import Image

    part = dataset[split]
    count = 0
    with staged_folder(out, replace=False) as staging:
        for folder, indices in _clips(part):
            (staging / folder).mkdir()
            names = sample_names(part, indices)
            for index, name in zip(indices, names, strict=True):
                picture = part.read(("image",), [index])["image"][0]
                Image.fromarray(picture.transpose(1, 2, 0)).save(staging / folder / f"{name}.png")
                count += 1
            (staging / folder / NAMES).write_text("".join(f"{name}\n" for name in names))
    return count


def _clips(split: Split) -> Iterator[tuple[str, list[int]]]:
    clips: dict[str, list[int]] = {}
    for index, name in enumerate(sample_names(split, range(len(split)))):
        clips.setdefault(name.rpartition("_")[0], []).append(index)
    yield from clips.items()


def _find(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", f"a folder with {RAW} or {RESULTS}", "Check the path")
    found = sorted(path for name in (RAW, RESULTS) for path in folder.rglob(name) if path.is_file())
    if not found:
        raise InputError(f"{folder} holds no {RAW} and no {RESULTS}", "predictions of a program that is known", _HELP)
    return found


def _open(path: Path, folder: Path) -> _File:
    with np.load(path, allow_pickle=False) if _is_archive(path) else _refused(path) as archive:
        present = set(archive.files)
        names = [str(name) for name in archive["names"].tolist()] if "names" in present else None
    kind: Kind = "depthanything3" if path.name == RESULTS else "ours" if "half_extent_m" in present else "faceanything"
    needed = ("depth",) if kind == "depthanything3" else ("depth", "canonical")
    missing = [name for name in needed if name not in present]
    if missing:
        raise InputError(f"{path} has no array {missing[0]!r}", f"{_TITLES[kind]} {', '.join(needed)}", _HELP)
    unknown = sorted(present - _USED[kind] - _REST)
    if unknown:
        say(f"{path}: not used: {', '.join(unknown)}", to=sys.stderr)
    if names is None:
        names = _names_beside(path, folder)
    return _File(path, kind, tuple(names))


def _is_archive(path: Path) -> bool:
    try:
        with np.load(path, allow_pickle=False):
            return True
    except Exception:  # noqa: BLE001, RUF100 - numpy and zipfile raise many kinds on other files
        return False


def _refused(path: Path) -> Any:
    raise InputError(f"{path} cannot be read", "a whole npz file", "Predict or copy it again")


def _names_beside(path: Path, folder: Path) -> list[str]:
    """Read ``names.txt`` from the file's folder, or the nearest one above it, up to the predictions' own."""
    top = folder.resolve()
    for place in path.resolve().parents:
        if (place / NAMES).is_file():
            return [line.strip() for line in read_text(place / NAMES).splitlines() if line.strip()]
        if place == top:
            break
    raise InputError(
        f"{path} does not name its frames",
        f"a {NAMES} beside it, a name a line, in the order of its frames",
        f"Copy the {NAMES} of the pictures that were predicted (--pictures wrote it)",
    )


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    wanted = set().union(*_USED.values())
    with np.load(path, allow_pickle=False) as archive:
        names = [name for name in archive.files if name in wanted]
    return read_npz(path, names, expected="predicted maps", fix="Predict or copy it again")


def _check_space(path: Path, dataset: Dataset) -> None:
    """Refuse canonical coordinates that mean something else than the dataset's."""
    space = dataset.attrs.get("space", {})
    marker = path.parent / _MARKER
    said: Mapping[str, Any] = {}
    if marker.is_file():
        try:
            content = read_json(marker)
        except (OSError, ValueError) as error:
            raise InputError(f"{marker} cannot be read ({error})", "what was predicted", "Predict it again") from None
        said = content.get("space", {}) if isinstance(content, dict) else {}
    extent = float(read_npz(path, ["half_extent_m"], expected="predicted maps", fix=_HELP)["half_extent_m"])
    differing = sorted(key for key in said if key in space and space[key] != said[key])
    if abs(extent - dataset.half_extent_m) > _SAME_EXTENT:
        differing = sorted({*differing, "half_extent"})
    if differing:
        raise InputError(
            f"{path} has canonical maps of another space: {', '.join(differing)} differ",
            f"the dataset's, {space.get('head')}",
            "Evaluate on a dataset of that space, or pass --own-space",
        )


def _stacked(values: npt.NDArray[Any], count: int, what: str) -> npt.NDArray[np.float32]:
    """Return maps as (S, H, W) float32."""
    if values.ndim == 4 and 1 in {values.shape[1], values.shape[-1]}:
        values = values[:, 0] if values.shape[1] == 1 else values[..., 0]
    if values.ndim != 3 or len(values) != count or values.dtype.kind not in "biuf" or 0 in values.shape:
        raise InputError(f"{what} is {values.shape} {values.dtype}", f"({count}, H, W) numbers", _HELP)
    return values.astype(np.float32)


def _with_axes(values: npt.NDArray[Any], count: int, size: tuple[int, ...], what: str) -> npt.NDArray[np.float32]:
    """Return maps of coordinates as (S, 3, H, W) float32, whichever way round."""
    if values.shape == (count, *size, 3):
        values = np.moveaxis(values, -1, 1)
    if values.shape != (count, 3, *size) or values.dtype.kind != "f":
        raise InputError(
            f"{what} is {values.shape} {values.dtype}", f"({count}, 3, {size[0]}, {size[1]}) numbers, as depth", _HELP
        )
    return values.astype(np.float32)


def _check_whole(path: Path, regions: npt.NDArray[Any] | None) -> None:
    """Refuse predictions of a part of the picture: its maps cannot be laid on the sample."""
    if regions is None:
        return
    whole = (regions[:, :2] <= 0.5).all() and (np.abs(regions[:, 2] - regions[:, 3]) <= 0.5).all()
    cameras = path.parent / "cameras.npz"
    if whole and cameras.is_file():
        sizes = read_npz(cameras, ["image_size"], expected="the prediction's cameras", fix=_HELP)["image_size"]
        whole = sizes.shape == regions[:, 2:].shape and bool((np.abs(regions[:, 2:] - sizes) <= 0.5).all())
    if not whole:
        raise InputError(f"{path} was predicted of a part of the pictures", "whole ones", "Predict without --crop")


def _view(truth: Truth, found: Mapping[str, npt.NDArray[Any]], space: Space) -> View:
    canonical = found.get("canonical")
    if canonical is None:
        canonical = np.full((3, *truth.depth_m.shape), np.nan, np.float32)
    return View(
        truth,
        found["depth"],
        canonical,
        found.get("depth_confidence"),
        found.get("canonical_confidence"),
        found.get("surface"),
        space,
    )
