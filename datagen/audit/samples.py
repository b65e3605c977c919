"""Pictures of stored samples: one enlarged, many on a sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.audit import pictures
from datagen.audit.pictures import Picture
from datagen.audit.results import find_result, read_results, truth_reader
from datagen.common.errors import InputError
from datagen.common.scales import CONFIDENCE, DEPTH, ERROR
from datagen.geometry.camera import Camera
from datagen.shards import open_dataset
from datagen.shards.schema import Sample
from datagen.warp.storage import read_warp

TILE_PX = 320
COLUMNS = 4
ERROR_RANGE_MM = 2.0
_EDGE_COLOUR = (255, 64, 32)


def sample_sheet(sample: Sample, build: Path | None = None, tile: int = TILE_PX) -> Picture:
    """Draw a sample; errors too, if ``build`` is the folder of its build and has the truth of its frame.

    Parameters
    ----------
    tile : int
        Pixels a side of each picture.
    """
    image = np.moveaxis(sample.image, 0, -1)
    titles = ("image", "depth", "canonical", "normal", "region", "confidence")
    pixels = f"{sample.depth.shape[1]} × {sample.depth.shape[0]} px"
    titles = (f"image, {pixels}", *titles[1:])
    shown = [resize(picture, tile) for picture in map_pictures(sample)]
    legends = _legends(sample, tile)
    items = [(title, pictures.stack(one, legend)) for title, one, legend in zip(titles, shown, legends, strict=True)]
    edges = pictures.text_strip("red: a silhouette or a step in depth", tile)
    edge = resize(_marked(image, sample.edge), tile)
    items.append((f"edges, {int(sample.edge.sum())} px", pictures.stack(edge, edges)))
    error = None if build is None else sample_error_mm(sample, build)
    if error is not None:
        known = error[np.isfinite(error)]
        median = f"median {np.median(known):.2f} mm" if known.size else "nothing to compare"
        bar = pictures.colour_bar(ERROR, 0, ERROR_RANGE_MM, "true correspondence error, mm", tile)
        overlaid = resize(_overlaid(image, error), tile)
        items.append((f"error against truth, {median}", pictures.stack(overlaid, bar)))
    sheet = pictures.contact_sheet(items, COLUMNS)
    return pictures.stack(sheet, pictures.region_legend(np.unique(sample.region), sheet.shape[1]))


def _legends(sample: Sample, width: int) -> list[Picture]:
    """Return what stands below each of :func:`map_pictures`."""
    low, high = depth_range_m(sample)
    return [
        pictures.text_strip(f"{sample.subject}/{sample.sequence}, {sample.camera}, frame {sample.frame}", width),
        pictures.colour_bar(DEPTH, low, high, "m from the camera", width, open_end=False),
        pictures.text_strip("x, y, z from −1 to 1: red, green, blue", width),
        pictures.text_strip("right, up, to the camera: red, green, blue", width),
        pictures.text_strip("names below", width),
        pictures.colour_bar(CONFIDENCE, 0, 1, "confidence", width, open_end=False),
    ]


def depth_range_m(sample: Sample) -> tuple[float, float]:
    """Return the nearest and the farthest depth of a sample's surface, metres; 0 and 1 without one."""
    surface = sample.depth > 0
    depth = sample.depth[surface]
    return (float(depth.min()), float(depth.max())) if surface.any() else (0.0, 1.0)


def sample_error_mm(sample: Sample, build: Path) -> npt.NDArray[np.float32] | None:
    """Return the true correspondence error in mm at every pixel with a canonical coordinate, NaN elsewhere.

    None if the build keeps no truth that can be compared: real captures, or another canonical head than was simulated.
    """
    try:
        result = find_result(read_results(build), sample.subject, sample.sequence, sample.frame)
        warp = read_warp(result.folder)
        errors = truth_reader(build)(result, warp)
    except InputError:
        return None
    if errors is None:
        return None
    height, width = sample.depth.shape
    K, pose = sample.intrinsics.astype(np.float64), sample.world_to_camera.astype(np.float64)
    camera = Camera(sample.camera, K, pose, width, height)
    fine = pictures.render_values(warp.scan_vertices, warp.scan_faces, errors, camera).values[..., 0]
    # The finer grid holds each pixel as 2 x 2, some of which may miss the surface.
    blocks = fine.reshape(height, 2, width, 2).transpose(0, 2, 1, 3).reshape(height, width, 4)
    hits = np.isfinite(blocks)
    mean = np.where(hits, blocks, 0).sum(axis=-1) / np.maximum(hits.sum(axis=-1), 1)
    return np.where(hits.any(axis=-1) & (sample.confidence > 0), mean, np.nan).astype(np.float32)


def _marked(image: Picture, edge: npt.NDArray[np.bool_]) -> Picture:
    marked = (image * 0.5).astype(np.uint8)
    marked[edge] = _EDGE_COLOUR
    return marked


def _overlaid(image: Picture, error_mm: npt.NDArray[np.float32]) -> Picture:
    grey = np.repeat(image.mean(axis=-1, keepdims=True) * 0.5, 3, axis=-1)
    colours = pictures.colour_map(error_mm, 0, ERROR_RANGE_MM) * 255
    known = np.isfinite(error_mm)
    grey[known] = 0.2 * grey[known] + 0.8 * colours[known]
    return np.rint(np.clip(grey, 0, 255)).astype(np.uint8)


ROW_TILE_PX = 180


def sample_row(sample: Sample, tile: int = ROW_TILE_PX) -> Picture:
    """Show a sample's image, depth, canonical, normal, region and confidence side by side."""
    return np.concatenate([resize(column, tile) for column in map_pictures(sample)], axis=1)


def map_pictures(sample: Sample) -> list[Picture]:
    """Draw a sample's image, depth, canonical, normal, region and confidence at their own resolution."""
    known = sample.confidence > 0
    surface = sample.depth > 0
    depth = np.where(surface, sample.depth, np.nan)
    low, high = depth_range_m(sample)
    canonical = np.where(known[..., None], np.moveaxis(sample.canonical, 0, -1), np.nan)
    normal = np.where(surface[..., None], (np.moveaxis(sample.normal, 0, -1) * [1, -1, -1] + 1) / 2, np.nan)
    return [
        np.moveaxis(sample.image, 0, -1),
        _bytes(pictures.colour_map(depth, low, high, DEPTH)),
        _bytes(pictures.canonical_colours(canonical)),
        _bytes(normal.astype(np.float32)),
        _bytes(pictures.label_colours(sample.region)),
        _bytes(pictures.colour_map(np.where(known, sample.confidence, np.nan), 0, 1, CONFIDENCE)),
    ]


def samples_picture(dataset_path: Path, per_split: int = 4) -> Picture | None:
    """Draw evenly spread samples of every split, one a row; None if the dataset is empty.

    Raises
    ------
    datagen.common.errors.DatasetError
        If it is not a dataset, is of another version, or is corrupted.
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
    """Resize a picture to ``tile`` × ``tile`` pixels."""
    from PIL import Image

    # Nearest: a contact sheet must not invent values between regions or across a silhouette.
    return np.asarray(Image.fromarray(picture).resize((tile, tile), Image.Resampling.NEAREST))
