"""COLMAP workspaces: a model, the pictures it placed, and a mesh or fused cloud. One workspace is one instant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from datagen.common.errors import InputError
from datagen.sources.colmap_model import ColmapModel, colmap_intrinsics, has_colmap_model, read_colmap_model
from datagen.sources.imports.imported import (
    Found,
    ImportedCamera,
    ImportedDepth,
    ImportedFrame,
    ImportedSequence,
    ImportSettings,
)
from datagen.sources.imports.workspace import camera_names, file_inside, find_scan, listed, mask_remark, workspaces

_WANTED = "a folder with sparse/0/cameras.bin and images.bin (or .txt), or dense/0/sparse/…, and images/"
# The dense ones first: their pictures are straight already, and the scan is made of them.
_BASES = ("dense/0", "dense", "")
_MODELS = ("sparse", "sparse/0", "sparse/1", "sparse/2", "sparse/3", "")
# With faces first: a cloud gives no samples.
_SCANS = ("meshed-poisson.ply", "meshed-delaunay.ply", "meshed-advancing-front.ply", "fused.ply")
_NO_SCANS = ("points3D.ply", "sparse.ply", "points.ply")


def find_workspaces(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the workspaces at or below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    found = workspaces(root, lambda folder: bool(_models(folder)), settings.subject, _WANTED)
    return [Found(key, folder, partial(_read, folder, root, settings)) for key, folder in found]


def _models(workspace: Path) -> list[tuple[Path, Path]]:
    """Return the models of a workspace, each with the folder that its pictures lie beside; the dense ones first."""
    for base in _BASES:
        folders = [workspace / base / model for model in _MODELS]
        models = [(workspace / base, folder) for folder in folders if has_colmap_model(folder)]
        if models:
            return models
    return []


def _read(workspace: Path, root: Path, settings: ImportSettings) -> ImportedSequence:
    base, folder, model, remarks = _largest(workspace)
    if not model.pictures:
        raise InputError(f"{folder} has no picture that was placed", "cameras with poses", "Reconstruct it again")
    images = settings.images or next((p for p in (base / "images", workspace / "images") if p.is_dir()), None)
    if images is None or not images.is_dir():
        raise InputError(
            f"{images or base / 'images'} is not there", "the folder of the pictures", "Name it: --images FOLDER"
        )
    inside = settings.images or root
    names = camera_names([picture.name for picture in model.pictures])
    cameras, pictures, masks, missing = [], {}, {}, []
    for picture in model.pictures:
        name = names[picture.name]
        if picture.camera not in model.cameras:
            raise InputError(
                f"{folder} has {picture.name!r} of camera {picture.camera}, which it does not describe",
                "cameras and pictures of one model",
                "Copy or export the whole model again",
            )
        entry = model.cameras[picture.camera]
        K, lens = colmap_intrinsics(entry, name)
        cameras.append(ImportedCamera(name, K, picture.world_to_camera, entry.size, lens))
        path = file_inside(images, picture.name, inside, str(folder))
        if path.is_file():
            pictures[name] = path
        else:
            missing.append(picture.name)
        # Where the feature extraction looks for it: beside the suffix of the picture.
        mask = file_inside(workspace / "masks", f"{picture.name}.png", root, str(folder))
        if mask.is_file():
            masks[name] = mask
    if not pictures:
        raise InputError(
            f"{images} has none of the {len(missing)} pictures of {folder}, such as {missing[0]}",
            "the pictures that COLMAP placed",
            "Name their folder: --images FOLDER",
        )
    depths = _depth_maps(base / "stereo" / "depth_maps", names, root)
    places = [workspace, *({base} - {workspace})]
    scan, said = find_scan(places, _SCANS, _NO_SCANS, settings.scan, root, depths=bool(depths))
    remarks += (*said, *mask_remark(masks))
    gaps = [f"{len(missing)} of {len(names)} pictures: {listed(missing)}"] if missing else []
    if depths and len(depths) < len(pictures):
        gaps.append(f"depth maps of {len(pictures) - len(depths)} of {len(pictures)} pictures")
    frame = ImportedFrame(0, 0.0, scan, pictures, masks, depths)
    depth = ImportedDepth() if depths else None
    return ImportedSequence(tuple(cameras), (frame,), depth=depth, missing=tuple(gaps), remarks=remarks)


def _depth_maps(folder: Path, names: Mapping[str, str], root: Path) -> dict[str, Path]:
    """Return the depth maps on which several pictures agree; those of single pairs (photometric) are noise in part."""
    found = {name: folder / f"{picture}.geometric.bin" for picture, name in names.items()}
    there = {name: path for name, path in found.items() if path.is_file()}
    return {name: file_inside(folder, str(path.relative_to(folder)), root, str(folder)) for name, path in there.items()}


def _largest(workspace: Path) -> tuple[Path, Path, ColmapModel, tuple[str, ...]]:
    """Return the model with most pictures: what COLMAP could not join it writes as further ones."""
    read = [(base, folder, read_colmap_model(folder)) for base, folder in _models(workspace)]
    base, folder, model = max(read, key=lambda one: len(one[2].pictures))
    others = sum(len(one.pictures) for _, _, one in read) - len(model.pictures)
    if len(read) == 1:
        return base, folder, model, ()
    said = f"of {len(read)} models the largest, {folder.relative_to(workspace)}; {others} pictures are in the others"
    return base, folder, model, (said,)
