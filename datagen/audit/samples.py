"""Contact sheets of dataset samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.audit import pictures
from datagen.audit.pictures import Picture
from datagen.shards import open_dataset
from datagen.shards.schema import Sample

TILE_PX = 180


def sample_row(sample: Sample, tile: int = TILE_PX) -> Picture:
    """Show a sample's image, depth, canonical, normal, region and confidence side by side."""
    return np.concatenate([resize(column, tile) for column in map_pictures(sample)], axis=1)


def map_pictures(sample: Sample) -> list[Picture]:
    """Draw a sample's image, depth, canonical, normal, region and confidence at their own resolution."""
    known = sample.confidence > 0
    surface = sample.depth > 0
    depth = np.where(surface, sample.depth, np.nan)
    low, high = (float(np.nanmin(depth)), float(np.nanmax(depth))) if surface.any() else (0.0, 1.0)
    canonical = np.where(known[..., None], np.moveaxis(sample.canonical, 0, -1), np.nan)
    normal = np.where(surface[..., None], (np.moveaxis(sample.normal, 0, -1) * [1, -1, -1] + 1) / 2, np.nan)
    return [
        np.moveaxis(sample.image, 0, -1),
        _bytes(pictures.colour_map(high - depth, 0, high - low, "viridis")),  # near is bright
        _bytes(pictures.canonical_colours(canonical)),
        _bytes(normal.astype(np.float32)),
        _bytes(pictures.label_colours(sample.region)),
        _bytes(pictures.colour_map(np.where(known, sample.confidence, np.nan), 0, 1, "viridis")),
    ]


def samples_picture(dataset_path: Path, per_split: int = 4) -> Picture | None:
    """Draw evenly spread samples of every split, one a row; None if the dataset is empty.

    Raises
    ------
    datagen.errors.DatasetError
        If it is no dataset, of another version, or corrupted.
    """
    dataset = open_dataset(dataset_path)
    rows = []
    for name in dataset:
        split = dataset[name]
        if not len(split):
            continue
        for i in np.unique(np.linspace(0, len(split) - 1, min(per_split, len(split))).astype(int)):
            sample = split.sample(int(i))
            title = f"{name} {i}: {sample.subject} · {sample.sequence} · {sample.camera} · frame {sample.frame}"
            rows.append((title, sample_row(sample)))
    return pictures.contact_sheet(rows, columns=1) if rows else None


def _bytes(colours: npt.NDArray[np.floating]) -> Picture:
    background = np.array(pictures.BACKGROUND) / 255
    shown = np.where(np.isfinite(colours), colours, background)
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def resize(picture: Picture, tile: int) -> Picture:
    """Bring a picture to ``tile`` × ``tile`` pixels."""
    from PIL import Image

    # Nearest: a contact sheet must not invent values between regions or across a silhouette.
    return np.asarray(Image.fromarray(picture).resize((tile, tile), Image.Resampling.NEAREST))
