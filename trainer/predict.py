"""Predicting maps: of a clip of a dataset, or of one's own images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.shards import InputError, StorageError, atomic_write_bytes, open_dataset
from trainer.checkpoint import build_model, pick_device, read_checkpoint
from trainer.evaluate import check_fit
from trainer.inference import PredictedMaps, predict_clip, split_clips
from trainer.metrics import MM_PER_M
from trainer.pictures import Panel, canonical_colours, colour_map, masked, write_grid, write_image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_SURFACE = 0.5
_STRIP_ROWS = 12


@dataclass(frozen=True)
class Clip:
    """What is predicted together.

    Attributes
    ----------
    names : list of str
        Of the S frames; they become file names.
    images : (S, 3, R, R) uint8
    intrinsics : (S, 3, 3) float32 or None
        Pixels; None if unknown.
    content : (S, 4) int
        Left, top, right and bottom of the image proper within its padding, pixels.
    """

    names: list[str]
    images: npt.NDArray[np.uint8]
    intrinsics: npt.NDArray[np.float32] | None
    content: npt.NDArray[np.int64]


def predict(
    checkpoint: Path,
    source: Path,
    out: Path,
    *,
    split: str = "val",
    index: int = 0,
    frames: int = 4,
    device_name: str = "auto",
) -> list[Path]:
    """Predict a clip of a dataset, or images, and write maps and pictures.

    Parameters
    ----------
    checkpoint : Path
        A checkpoint, or a run folder (then its ``best.pt``).
    source : Path
        A dataset, an image file, or a folder of images (in the order of their names).
    out : Path
        Folder for, per frame, ``<name>_{depth,canonical,confidence}.png``; ``strip.png`` of the first ones;
        ``raw_predictions.npz``.
    split : str
    index : int
        Of a dataset: the clip that holds this sample.
    frames : int
        The most frames predicted together; a folder of more images is cut into clips of so many.
    device_name : str

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    CheckpointError, DatasetError, InputError, StorageError
        If something cannot be read or written.
    """
    content = read_checkpoint(checkpoint)
    device = pick_device(device_name)
    model, _ = build_model(content, device)
    resolution = int(content["dataset"]["resolution"])
    if (source / "zarr.json").exists() or (source / "dataset.zarr").is_dir():
        clip = _dataset_clip(content, source, split, index, frames, model.backbone.patch)
    else:
        clip = read_images(_image_files(source), resolution)
    intrinsics = clip.intrinsics
    if intrinsics is None:
        intrinsics = _usual_intrinsics(model.depth_unit.focal_over_width, resolution, len(clip.names))
    starts = range(0, len(clip.names), frames)
    parts = [predict_clip(model, clip.images[k : k + frames], intrinsics[k : k + frames], device) for k in starts]
    maps = PredictedMaps(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(PredictedMaps)))
    return _write(out, clip, maps, intrinsics, float(content["dataset"]["half_extent_m"]))


def read_images(paths: Sequence[Path], resolution: int) -> Clip:
    """Read images, each scaled to fit a square of ``resolution`` pixels and padded with grey around its centre.

    Raises
    ------
    InputError
        If one cannot be read, naming it.
    """
    from PIL import Image, ImageOps

    squares, boxes = [], []
    for path in paths:
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(
                f"{path} cannot be read as an image: {error}",
                f"an image file ({', '.join(s[1:] for s in IMAGE_SUFFIXES)})",
                "Remove or replace it",
            ) from None
        scale = resolution / max(image.size)
        width, height = (max(round(n * scale), 1) for n in image.size)
        left, top = (resolution - width) // 2, (resolution - height) // 2
        square = Image.new("RGB", (resolution, resolution), (124, 116, 104))  # the mean of ImageNet: zero to the model
        square.paste(image.resize((width, height), Image.Resampling.LANCZOS), (left, top))
        squares.append(np.asarray(square).transpose(2, 0, 1))
        boxes.append((left, top, left + width, top + height))
    return Clip([p.stem for p in paths], np.stack(squares), None, np.array(boxes, np.int64))


def _image_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source} does not exist", "a dataset, an image or a folder of images", "Check the path")
    files = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(
            f"{source} holds no images", f"files ending in {', '.join(IMAGE_SUFFIXES)}, or a dataset", "Check the path"
        )
    return files


def _dataset_clip(content: dict[str, Any], source: Path, split: str, index: int, frames: int, patch: int) -> Clip:
    dataset = open_dataset(source)
    check_fit(content, dataset, patch)
    if split not in dataset or not 0 <= index < len(dataset[split]):
        known = ", ".join(f"{name} (0 to {len(dataset[name]) - 1})" for name in dataset if len(dataset[name]))
        raise InputError(f"{dataset.path} has no sample {index} in {split!r}", f"one of {known}", "Choose another")
    chosen = next(clip for clip in split_clips(dataset[split], frames) if index in clip)
    stored = dataset[split].read(("image", "intrinsics"), chosen)
    samples = [dataset[split].sample(int(i)) for i in chosen]
    names = [f"{s.subject}_{s.sequence}_{s.camera}_{s.frame:06d}" for s in samples]
    side = dataset.resolution
    boxes = np.tile(np.array([0, 0, side, side], np.int64), (len(chosen), 1))
    return Clip(names, stored["image"], stored["intrinsics"], boxes)


def _usual_intrinsics(focal_over_width: float, resolution: int, count: int) -> npt.NDArray[np.float32]:
    """Return the training set's median focal length, for images that come without one."""
    K = np.eye(3, dtype=np.float32)
    K[0, 0] = K[1, 1] = focal_over_width * resolution
    K[:2, 2] = resolution / 2
    return np.tile(K, (count, 1, 1))


def _write(
    out: Path, clip: Clip, maps: PredictedMaps, intrinsics: npt.NDArray[np.float32], half_extent_m: float
) -> list[Path]:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out} cannot be made: {error}", "a writable folder", "Choose another --out") from None
    written, rows = [], []
    inside = np.zeros(maps.surface.shape, bool)
    for k, (left, top, right, bottom) in enumerate(clip.content.tolist()):
        inside[k, top:bottom, left:right] = True
    valid = inside & (maps.surface > _SURFACE)
    for k, name in enumerate(clip.names):
        left, top, right, bottom = clip.content[k].tolist()
        box = (slice(top, bottom), slice(left, right))
        shown = valid[k][box]
        depth_mm = maps.depth_m[k][box] * MM_PER_M
        canonical = canonical_colours(maps.canonical[k][:, *box], shown)
        confidence = np.log(maps.canonical_confidence[k][box])
        for what, pixels in (
            ("depth", colour_map(depth_mm, shown, "viridis_r")),
            ("canonical", canonical),
            ("confidence", colour_map(confidence, shown, "magma")),
        ):
            path = out / f"{k:03d}_{name}_{what}.png"
            write_image(path, pixels)
            written.append(path)
        if k >= _STRIP_ROWS:
            continue
        rows.append(
            [
                Panel(clip.images[k][:, *box].transpose(1, 2, 0), "image"),
                Panel(masked(depth_mm, shown), "depth", "mm", None, "viridis_r"),
                Panel(canonical, "canonical"),
                Panel(masked(confidence, shown), "confidence", "log c", None, "magma"),
            ]
        )
    blank = [name for name, shown in zip(clip.names, valid, strict=True) if not shown.any()]
    if blank:
        print(f"no surface was found in {len(blank)} of {len(clip.names)} frames: {', '.join(blank)}", file=sys.stderr)
    write_grid(out / "strip.png", rows)
    atomic_write_bytes(out / "raw_predictions.npz", _npz(clip, maps, intrinsics, valid, half_extent_m))
    return [*written, out / "strip.png", out / "raw_predictions.npz"]


def _npz(
    clip: Clip,
    maps: PredictedMaps,
    intrinsics: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    half_extent_m: float,
) -> bytes:
    import io

    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        names=np.array(clip.names),
        image=clip.images,
        depth=maps.depth_m,
        canonical=maps.canonical,
        depth_confidence=maps.depth_confidence,
        canonical_confidence=maps.canonical_confidence,
        surface=maps.surface,
        valid=valid,
        intrinsics=intrinsics,
        intrinsics_known=np.array(clip.intrinsics is not None),
        content_box=clip.content,
        half_extent_m=np.array(half_extent_m),
    )
    return buffer.getvalue()
