"""Exports with one folder for each performance: point tracks, meshes, and FLAME parameters."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.files import npz_bytes
from datagen.flows.export_folder import ExportPart, write_export
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes
from datagen.shards import SPLITS, Dataset, MaterialPoints, Performance, Split, Tracks, open_dataset
from datagen.shards.faces import TemplateContents
from datagen.shards.schema import VERDICTS

TRACKS_VERSION = MESHES_VERSION = FLAME_VERSION = 1
JPEG_QUALITY = 95
FLAME = "flame"
EYES_SIZE = 6  # two rotations, which the registration leaves at rest

Told = Callable[[int], None] | None
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def performance_frames(source: str | Path) -> int:
    """Return how many frames the performances of a dataset have in all; DatasetError without a frame table."""
    dataset = open_dataset(source)
    return sum(len(dataset[split].frames) for split in SPLITS)


def export_tracks(
    source: str | Path,
    out: Path,
    *,
    points: int = 1024,
    seed: int = 0,
    regions: Sequence[str] = (),
    on_frames: Told = None,
) -> dict[str, Any]:
    """Write the tracks of skin points, one ``.npz`` for each performance and camera, with the keys of TAPVid-3D.

    Parameters
    ----------
    points : int
        Drawn evenly over the template; those a camera never sees are left out of its file.
    regions : sequence of str
        Names of the dataset's regions that carry points; all by default.
    on_frames : callable, optional
        Called with the number of frames of each performance that is there.

    Returns
    -------
    dict
        What ``export.json`` says.

    Raises
    ------
    InputError
        If a region is unknown or carries nothing.
    DatasetError
        If the dataset has no frame table, or ``out`` holds something else.
    StorageError
        If the disk refuses.
    """
    dataset = open_dataset(source)
    template, table = dataset.template, dataset.plan.regions
    unknown = [name for name in regions if name not in table]
    if unknown:
        raise InputError(f"the dataset has no region {unknown[0]!r}", f"one of {', '.join(table)}", "Correct --regions")
    labels = tuple(table[name] for name in regions) or None
    chosen = MaterialPoints.spread_over(template, points, seed=seed, labels=labels)
    head = {
        "dataset": dataset.uuid,
        "export": "tracks",
        "export_version": TRACKS_VERSION,
        "points": points,
        "regions": sorted(regions),
        "seed": seed,
    }
    return write_export(out, head, _parts(dataset, partial(_write_tracks, points=chosen)), on_frames)


def export_meshes(
    source: str | Path, out: Path, kind: Literal["ply", "glb"], axes: Literal["world", "head"], on_frames: Told = None
) -> dict[str, Any]:
    """Write the registered head of every frame as PLY, or as glTF with its texture coordinates, in metres.

    Raises as :func:`export_tracks`.
    """
    dataset = open_dataset(source)
    dataset.template  # noqa: B018 — without one there is nothing to write, not even a folder
    head = {
        "axes": axes,
        "dataset": dataset.uuid,
        "export": "meshes",
        "export_version": MESHES_VERSION,
        "format": kind,
    }
    return write_export(out, head, _parts(dataset, partial(_write_meshes, kind=kind, axes=axes)), on_frames)


def export_flame(source: str | Path, out: Path, model: Path, on_frames: Told = None) -> dict[str, Any]:
    """Write the parameters of each performance as FLAME's trackers do: shape, expr, jaw, rotation and translation.

    Parameters
    ----------
    model : Path
        The FLAME file or its folder: rotations turn about its root joint.

    Raises
    ------
    InputError
        If the dataset's head is not FLAME, or the file is another model's; else as :func:`export_tracks`.
    """
    from datagen.heads.flame import find_model, read_model

    dataset = open_dataset(source)
    template = dataset.template
    if template.head != FLAME:
        raise InputError(
            f"the head model of the dataset is {template.head}, which has no FLAME parameters",
            f"a dataset built with canonical.head {FLAME}",
            "`datagen export meshes` and `tracks` write what every head has",
        )
    arrays = read_model(find_model(model))
    if not np.array_equal(arrays["f"], template.faces):
        raise InputError(
            f"the model {model} has other triangles than the dataset's head",
            "the FLAME file the dataset was built with",
            "Pass its folder as --head-root",
        )
    head = {"dataset": dataset.uuid, "export": "flame", "export_version": FLAME_VERSION}
    return write_export(out, head, _parts(dataset, partial(_write_flame, model=arrays)), on_frames)


def _parts(dataset: Dataset, write: Callable[[Split, Performance, Path], None]) -> list[ExportPart]:
    return [
        ExportPart(
            f"{name}/{performance.subject}/{performance.sequence}",
            partial(write, dataset[name], performance),
            len(performance.rows),
        )
        for name in SPLITS
        for performance in dataset[name].performances()
    ]


def _write_tracks(split: Split, performance: Performance, folder: Path, *, points: MaterialPoints) -> None:
    tracks = split.tracks(points, performance.rows)
    for c, camera in enumerate(tracks.cameras):
        arrays = _camera_tracks(split, tracks, c)
        (folder / f"{camera}.npz").write_bytes(npz_bytes(arrays, compress=False))


def _camera_tracks(split: Split, tracks: Tracks, c: int) -> dict[str, npt.NDArray[Any]]:
    """Return what one camera saw of a performance, in the frames that it has."""
    (frames,) = np.nonzero(tracks.samples[c] >= 0)
    samples = tracks.samples[c, frames]
    visible = tracks.visible[c][frames]
    (seen,) = np.nonzero(visible.any(axis=0))
    visible, pixels = visible[:, seen], tracks.pixels[c][frames][:, seen]
    views = split.read(("intrinsics", "world_to_camera"), samples)
    K, E = views["intrinsics"], views["world_to_camera"].astype(np.float64)
    positions = tracks.positions[frames][:, seen]
    there = np.einsum("fij,fpj->fpi", E[:, :3, :3], positions.astype(np.float64)) + E[:, None, :3, 3]
    first = visible.argmax(axis=0)
    lens = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=1)
    pictures = [_jpeg(split.read(("image",), [int(sample)])["image"][0]) for sample in samples]
    return {
        "images_jpeg_bytes": np.array(pictures),
        "tracks_XYZ": there.astype(np.float32),
        "visibility": visible,
        "queries_xyt": np.concatenate([pixels[first, np.arange(len(seen))], first[:, None]], axis=1).astype(np.float32),
        # Crops follow the head; where they stand still, there is one lens, as elsewhere.
        "fx_fy_cx_cy": lens[0] if len(lens) and (lens == lens[0]).all() else lens,
        "extrinsics_w2c": E.astype(np.float32),
        "tracks_xy": pixels,
        "tracks_world": positions,
        "spread_m": tracks.spread_m[frames][:, seen],
        "template_faces": tracks.points.faces[seen],
        "template_weights": tracks.points.weights[seen].astype(np.float32),
        "frame": split.index.frame[samples],
        "time_s": split.index.time[samples],
    }


def _jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1)))
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _write_meshes(split: Split, performance: Performance, folder: Path, *, kind: str, axes: str) -> None:
    template, frames = split.dataset.template, split.frames
    corners, uv, faces = _corners(template)
    for row in performance.rows.tolist():
        vertices = split.mesh(row)[0] if axes == "world" else frames.vertices([row])[0]
        path = folder / f"{int(frames.frame[row]):06d}.{kind}"
        if kind == "ply":
            path.write_bytes(ply_bytes(Mesh.of(vertices, template.faces), precision="float32"))
        else:
            path.write_bytes(_glb(vertices[corners], faces, uv))


def _corners(template: TemplateContents) -> tuple[I64, npt.NDArray[np.float32], I64]:
    """Return vertices, texture coordinates and faces as glTF wants them: a vertex for each pair of the two."""
    pairs = np.stack([template.faces.ravel(), template.uv_faces.ravel()], axis=1)
    unique, faces = np.unique(pairs, axis=0, return_inverse=True)
    return unique[:, 0].astype(np.int64), template.uv[unique[:, 1]], faces.reshape(-1, 3).astype(np.int64)


def _glb(vertices: npt.NDArray[np.float32], faces: npt.NDArray[np.int64], uv: npt.NDArray[np.float32]) -> bytes:
    import trimesh

    skin = trimesh.visual.TextureVisuals(uv=uv.astype(np.float64))
    mesh = trimesh.Trimesh(vertices, faces, visual=skin, process=False)
    return bytes(mesh.export(file_type="glb"))


def _write_flame(split: Split, performance: Performance, folder: Path, *, model: dict[str, npt.NDArray[Any]]) -> None:
    from datagen.heads.flame import EXPRESSION_SCALE, JAW_OPEN_RAD

    frames, rows = split.frames, performance.rows
    shape, expression = frames.identity[rows].astype(np.float64), frames.expression[rows].astype(np.float64)
    expr = EXPRESSION_SCALE * expression[:, 1:]
    world = frames.head_to_world[rows].astype(np.float64) @ frames.model_to_head[rows].astype(np.float64)
    rotation, translation = _about_root(world, _root_joints(model, shape, expr))
    still = np.zeros((len(rows), 3), np.float32)
    jaw = still.copy()
    jaw[:, 0] = JAW_OPEN_RAD * expression[:, 0]
    one = bool((shape == shape[:1]).all())
    arrays = {
        "shape": (shape[0] if one else shape).astype(np.float32),
        "expr": expr.astype(np.float32),
        "rotation": rotation.astype(np.float32),
        "neck_pose": still,
        "jaw_pose": jaw,
        "eyes_pose": np.zeros((len(rows), EYES_SIZE), np.float32),
        "translation": translation.astype(np.float32),
        "parameter_rms_mm": frames.parameter_rms_mm[rows],
        "frame": frames.frame[rows],
        "time_s": frames.time[rows],
        "verdict": np.array([VERDICTS[number] for number in frames.verdict[rows]]),
    }
    (folder / "flame_params.npz").write_bytes(npz_bytes(arrays))


def _root_joints(model: dict[str, npt.NDArray[Any]], shape: F64, expr: F64) -> F64:
    """Return FLAME's root joint (T, 3) of each frame, in the model's own axes: all of it turns about this point."""
    from datagen.heads.flame import EXPRESSION_SIZE, SHAPE_SIZE, SMALL_SIZE

    regressor = np.asarray(model["J_regressor"], np.float64)[0]
    directions = np.asarray(model["shapedirs"], np.float64)
    # As smplx reads them: the small model has ten directions of each.
    first = SHAPE_SIZE if directions.shape[2] >= SHAPE_SIZE + EXPRESSION_SIZE else SMALL_SIZE
    at = regressor @ np.asarray(model["v_template"], np.float64)
    bent = np.einsum("v,vcd->cd", regressor, directions)
    return np.asarray(at + shape @ bent[:, : shape.shape[1]].T + expr @ bent[:, first : first + expr.shape[1]].T)


def _about_root(world: F64, root: F64) -> tuple[F64, F64]:
    """Return rotation vectors (T, 3) and translations (T, 3) that, turning about ``root``, do what (T, 4, 4) does."""
    from scipy.spatial.transform import Rotation

    R, t = world[:, :3, :3], world[:, :3, 3]
    return Rotation.from_matrix(R).as_rotvec(), t + np.einsum("tij,tj->ti", R, root) - root
