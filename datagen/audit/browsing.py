"""What walking through a dataset asks of it: who and what there is, pictures of maps, a point of the skin followed.

Nothing here knows of pages or of servers. A point of the skin is its canonical coordinate: it is looked for in the map
of every sample that is asked for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.audit import pictures
from datagen.audit.pixel_history import pixel_history
from datagen.common.errors import CanonfaceError, InputError
from datagen.common.scales import CONFIDENCE, DEPTH
from datagen.geometry.space import MM_PER_M, CanonicalSpace
from datagen.heads.regions import REGION_NAMES
from datagen.layout import BuildLayout
from datagen.shards import Dataset, sample_provenance
from datagen.sources.frame import SequenceKey
from datagen.warp.storage import read_verdict

Picture = npt.NDArray[np.uint8]
KINDS = ("image", "depth", "canonical", "normal", "confidence", "region", "mask", "edge")
# A pixel shows a point if its coordinate is within this of it, or within what a pixel covers.
FOUND_MM = 2.0
DEPTH_SPAN_M = 0.25  # of the scale: from a head's nearest point to behind its ears


class Browsing:
    """A dataset to be walked through.

    Parameters
    ----------
    dataset : Dataset
    build : Path, optional
        Its build folder, where there is one: verdicts with their reasons are there.
    """

    def __init__(self, dataset: Dataset, build: Path | None = None) -> None:
        self.dataset, self.build = dataset, build
        self._space = CanonicalSpace.from_attrs(dict(dataset.plan.space))
        # By subject and sequence, as numbers: split, and how many frames; samples are looked up when asked for.
        self._sequences: dict[tuple[int, int], tuple[str, int]] = {}
        for split in dataset:
            index = dataset[split].index
            frames = np.unique(np.stack([index.subject, index.sequence, index.frame], axis=1), axis=0)
            keys, counts = np.unique(frames[:, :2], axis=0, return_counts=True)
            for (subject, sequence), count in zip(keys, counts, strict=True):
                self._sequences[int(subject), int(sequence)] = split, int(count)

    def contents(self) -> dict[str, Any]:
        """Return names, splits and counts, JSON-ready; samples are asked for by sequence."""
        plan = self.dataset.plan
        sequences = [
            {"subject": plan.subjects[s], "sequence": plan.sequences[q], "split": split, "frames": count}
            for (s, q), (split, count) in self._sequences.items()
        ]
        return {
            "url": self.dataset.url,
            "uuid": self.dataset.uuid,
            "resolution": self.dataset.resolution,
            "cameras": list(plan.cameras),
            "sequences": sorted(sequences, key=lambda one: (str(one["subject"]), str(one["sequence"]))),
            "samples": sum(plan.counts.values()),
            "kinds": list(KINDS),
        }

    def sequence(self, subject: str, sequence: str) -> dict[str, Any]:
        """Return split, frames, and for each frame its samples by camera number, JSON-ready.

        Raises
        ------
        InputError
            If there is none of this name.
        """
        plan = self.dataset.plan
        tables = (subject, plan.subjects), (sequence, plan.sequences)
        key = tuple(table.index(name) if name in table else -1 for name, table in tables)
        if (key[0], key[1]) not in self._sequences:
            raise InputError(f"the dataset has no sequence {subject}/{sequence}", "one that it has", "Choose another")
        split, _ = self._sequences[key[0], key[1]]
        index = self.dataset[split].index
        frames: dict[int, dict[str, int]] = {}
        for i in np.flatnonzero((index.subject == key[0]) & (index.sequence == key[1])):
            frames.setdefault(int(index.frame[i]), {})[str(int(index.camera[i]))] = int(i)
        listed = [{"frame": str(frame), "samples": frames[frame]} for frame in sorted(frames)]
        return {"split": split, "frames": listed}

    def picture(self, split: str, i: int, kind: str) -> Picture:
        """Draw a map of a sample, (H, W, 3) uint8; the plate's grey where there is nothing.

        Raises
        ------
        InputError
            If there is no such sample or map.
        """
        if kind not in KINDS:
            raise InputError(f"there is no map {kind!r}", f"one of {', '.join(KINDS)}", "Choose one of these")
        draw: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], npt.NDArray[Any]]]] = {
            "image": (("image",), lambda m: np.moveaxis(m["image"], 0, -1) / 255.0),
            "depth": (("depth",), _depth),
            "canonical": (("canonical", "confidence"), _canonical),
            "normal": (("normal", "depth"), _normal),
            "confidence": (("confidence",), _confidence),
            "region": (("region",), lambda m: pictures.label_colours(m["region"])),
            "mask": (("mask",), lambda m: np.repeat(m["mask"][..., None] / 255.0, 3, axis=-1)),
            "edge": (("edge",), lambda m: np.where(m["edge"][..., None], [0.95, 0.35, 0.1], np.nan)),
        }
        names, colours = draw[kind]
        shown = np.asarray(colours(self._maps(split, i, names)), np.float64)
        ground = np.array(pictures.BACKGROUND) / 255
        return np.rint(255 * np.clip(np.where(np.isfinite(shown), shown, ground), 0, 1)).astype(np.uint8)

    def point(self, split: str, i: int, x: float, y: float) -> dict[str, Any]:
        """Say what a pixel shows; ``canonical_mm`` is None where that is no known skin.

        Parameters
        ----------
        x, y : float
            Right and down, pixels.
        """
        maps = self._maps(split, i, ("canonical", "confidence", "depth", "region"))
        side = maps["depth"].shape[0]
        row, column = int(np.clip(y, 0, side - 1)), int(np.clip(x, 0, side - 1))
        confidence, depth = float(maps["confidence"][row, column]), float(maps["depth"][row, column])
        found: dict[str, Any] = {
            "pixel": [column, row],
            "depth_m": round(depth, 4) if depth > 0 else None,
            "region": REGION_NAMES.get(int(maps["region"][row, column]), "").replace("_", " "),
            "confidence": round(confidence, 3),
            "canonical_mm": None,
        }
        if confidence > 0:
            mm = MM_PER_M * self._space.metres(maps["canonical"][:, row, column].astype(np.float64))
            found["canonical_mm"] = [round(float(value), 2) for value in mm]
        return found

    def find(self, split: str, samples: Sequence[int], canonical_mm: Sequence[float]) -> list[dict[str, Any] | None]:
        """Find a point of the skin in samples: its pixel, how far its coordinate is from the one asked for, and more.

        None where it is not seen.
        """
        wanted = self._space.normalise(np.asarray(canonical_mm, np.float64) / MM_PER_M)
        return [self._find(split, i, wanted) for i in samples]

    def _find(self, split: str, i: int, wanted: npt.NDArray[np.float64]) -> dict[str, Any] | None:
        maps = self._maps(split, i, ("canonical", "confidence", "depth", "intrinsics"))
        known = maps["confidence"] > 0
        if not known.any():
            return None
        away = np.linalg.norm(np.moveaxis(maps["canonical"], 0, -1)[known] - wanted, axis=1)
        nearest = int(away.argmin())
        mm = float(away[nearest]) * self._space.half_extent * MM_PER_M
        row, column = (int(v[nearest]) for v in np.nonzero(known))
        depth = float(maps["depth"][row, column])
        if mm > max(FOUND_MM, 1.5 * MM_PER_M * depth / float(maps["intrinsics"][0, 0])):
            return None
        confidence = float(maps["confidence"][row, column])
        return {
            "x": column,
            "y": row,
            "mm": round(mm, 2),
            "depth_m": round(depth, 4),
            "confidence": round(confidence, 3),
        }

    def history(self, split: str, i: int) -> dict[str, Any]:
        """Say what a sample was made of, as far as the dataset and its build folder tell, JSON-ready."""
        self._check(split, i)
        told = sample_provenance(self.dataset, split, i)
        subject, sequence, frame = told["subject"], told["sequence"], told["frame"]
        shown: dict[str, Any] = {
            "sample": f"{split} {i}: {subject}/{sequence}/{frame:06d}, {told['camera']}",
            "time": f"{told['time_s']:.3f} s",
            "verdict": told["verdict"] or "none recorded",
            "shard": f"{told['shard']}, place {told['position']}, content key {told['content_key'][:16]}",
            "written by": ", ".join(f"{name} {version}" for name, version in sorted(told["software"].items())),
            "recipe": told["manifest_digest"][:16],
            "captures": "; ".join(_source_text(source) for source in told["sources"]) or "not recorded",
        }
        if self.build is None:
            return shown
        folder = BuildLayout(self.build).frame_warp(SequenceKey(subject, sequence), frame)
        try:
            verdict = read_verdict(folder)
        except CanonfaceError:
            return shown
        shown["verdict"] = f"{verdict.status}: {'; '.join(verdict.reasons) or 'every metric is within its limits'}"
        residual = verdict.metrics.get("residual_median_mm")
        if residual is not None:
            shown["surface residual"] = f"{residual:.3f} mm (median)"
        shown["warp"] = folder.relative_to(self.build).as_posix()
        return shown

    def trace(self, split: str, i: int, x: float, y: float) -> list[tuple[str, str]]:
        """Follow a pixel back through the build folder; nothing without one.

        Raises
        ------
        InputError
            If there is no such sample, or the warp is broken.
        """
        self._check(split, i)
        return [] if self.build is None else pixel_history(self.dataset, self.build, split, i, x, y)

    def name(self, split: str, i: int) -> str:
        """Return ``subject/sequence/frame/camera`` of a sample."""
        self._check(split, i)
        return self.dataset[split].sample_name(i)

    def _check(self, split: str, i: int) -> None:
        if split not in tuple(self.dataset) or not 0 <= i < len(self.dataset[split]):
            raise InputError(f"there is no sample {i} in {split!r}", "one of the dataset", "Choose another")

    def _maps(self, split: str, i: int, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        self._check(split, i)
        return {name: values[0] for name, values in self.dataset[split].read(names, [i]).items()}


def _source_text(source: Mapping[str, Any]) -> str:
    """Say in a line what captures were taken: their name, and in brackets what else is recorded of them."""
    more = [
        f"{name.replace('_', ' ')} {_value_text(value)}" for name, value in sorted(source.items()) if name != "name"
    ]
    name = str(source.get("name", "captures"))
    return f"{name} ({', '.join(more)})" if more else name


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_value_text(one)}" for name, one in value.items())
    return ", ".join(map(_value_text, value)) if isinstance(value, (list, tuple)) else str(value)


def encoded(picture: Picture) -> bytes:
    """Return a picture as a PNG, quickly."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _depth(maps: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    depth = np.where(maps["depth"] > 0, maps["depth"], np.nan)
    low = float(np.nanmin(depth)) if np.isfinite(depth).any() else 0.0
    return pictures.colour_map(depth, low, low + DEPTH_SPAN_M, DEPTH)


def _canonical(maps: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    known = maps["confidence"] > 0
    return pictures.canonical_colours(np.where(known[..., None], np.moveaxis(maps["canonical"], 0, -1), np.nan))


def _normal(maps: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    shown = (np.moveaxis(maps["normal"], 0, -1) * [1, -1, -1] + 1) / 2
    return np.asarray(np.where(maps["depth"][..., None] > 0, shown, np.nan))


def _confidence(maps: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    return pictures.colour_map(np.where(maps["confidence"] > 0, maps["confidence"], np.nan), 0, 1, CONFIDENCE)
