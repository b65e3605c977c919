"""Fits of what a network sees in the pictures of a dataset, compared with its frame table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.fit.run import TWO
from datagen.common.arrays import F64, I64
from datagen.common.seen_points import SeenPoints
from datagen.fit.problem import FitFrame, FitSettings
from datagen.fit.refine import fit_pictures
from datagen.fit.stereo import StereoView
from datagen.geometry.camera import Camera
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.geometry.space import MM_PER_M
from datagen.heads.registry import load_head
from datagen.shards import Dataset, Split, open_dataset
from datagen.warp.similarity import fit_similarity
from datagen.warp.template import prepare_template
from trainer.align.data import FaceTruth
from trainer.inference import filled_split
from trainer.prediction.boxed import Box
from trainer.prediction.points import canonical_vertices
from trainer.run.checkpoint import pick_device


@dataclass(frozen=True)
class Looker:
    """A network that sees points of the template in pictures.

    Attributes
    ----------
    name : str
        Of its figures.
    head : str
        Name of the head model.
    dataset : Dataset
        Of its template.
    see : callable
        Picture (H, W, 3) uint8, box of the true face, and number of pictures of the instant to points.
    """

    name: str
    head: str
    dataset: Dataset
    see: Callable[[npt.NDArray[np.uint8], Box, int], SeenPoints]


def aligner(run: Path, dataset_path: Path) -> Looker:
    """Return a run of ``trainer align fit``; CheckpointError, DatasetError, InputError or StorageError if it cannot."""
    from trainer.align.predict import align_picture
    from trainer.align.store import read_aligner

    network, dataset = read_aligner(run, pick_device("cpu")), open_dataset(dataset_path)
    dataset.require_faces()
    network.check_fits(dataset)
    return Looker(
        "align",
        network.head,
        dataset,
        lambda pixels, box, together: align_picture(network, pixels, box, together=together),
    )


def joint(run: Path, dataset_path: Path) -> Looker:
    """Return a run of ``trainer fit``, which sees the dataset's pictures as they are; errors as :func:`aligner`."""
    from trainer.points import points_in_picture, points_model

    model = points_model(run, dataset_path, "cpu")

    def see(pixels: npt.NDArray[np.uint8], _box: Box, together: int) -> SeenPoints:
        return points_in_picture(model, pixels, None, together=together)

    return Looker("joint", model.head, open_dataset(dataset_path), see)


def seen_figures(looker: Looker, name: str, say: Callable[[str], None], *, stereo: bool = True) -> dict[str, float]:
    """Return how far the faces of a split are off, fitted to what a network sees in their pictures.

    Each person's frames are fitted together, as ``datagen fit`` does, from all pictures and from two of them. A network
    that looks at faces is told the box of the true one. The truth is the frame table, which has errors of its own.

    Parameters
    ----------
    name : str
        The split; people that the network has not learnt from.
    stereo : bool
        Whether the pictures also tell where the skin is.

    Raises
    ------
    InputError
        If nobody is in it.
    """
    dataset = looker.dataset
    split = filled_split(dataset, name)
    head = load_head(looker.head)
    template = prepare_template(head.template)
    wanted = canonical_vertices(dataset)
    face = wanted.vertices.numpy()
    views = {looker.name: None, f"{looker.name}_2": TWO}
    world: dict[str, list[F64]] = {view: [] for view in views}
    aligned: dict[str, list[F64]] = {view: [] for view in views}
    within: list[float] = []
    boxes_of = FaceTruth(split, wanted)
    people = np.unique(split.index.subject)
    for count, subject in enumerate(people, 1):
        say(f"person {count} of {len(people)}")
        samples = np.flatnonzero(split.index.subject == subject)
        rows = np.unique(split.index.frame_row[samples])
        true = _true_vertices(split, rows)[:, face]
        for view, chosen in views.items():
            looked = [
                _seen(looker, split, boxes_of, samples[split.index.frame_row[samples] == row], chosen) for row in rows
            ]
            frames = [FitFrame(k, float(k), evidence) for k, (evidence, _) in enumerate(looked)]
            shown = [views for _, views in looked]
            settings = FitSettings(temporal=False, stereo=stereo)
            found, _ = fit_pictures(head, template, frames, shown.__getitem__, settings)
            for frame, truth in zip(found.frames, true, strict=True):
                at = frame.vertices[face]
                world[view].append(np.linalg.norm(at - truth, axis=1) * MM_PER_M)
                moved = fit_similarity(at, truth, with_scale=False).apply(at)
                aligned[view].append(np.linalg.norm(moved - truth, axis=1) * MM_PER_M)
                if chosen is None:
                    within.append(float((world[view][-1] <= frame.spread_m[face] * MM_PER_M).mean()))
    figures = {}
    for view in views:
        figures[f"fit_{view}_median_mm"] = float(np.median(np.concatenate(world[view])))
        figures[f"fit_{view}_p95_mm"] = float(np.percentile(np.concatenate(world[view]), 95))
        figures[f"fit_{view}_aligned_mm"] = float(np.median(np.concatenate(aligned[view])))
    return figures | {f"fit_{looker.name}_within_spread": float(np.mean(within))}


def _true_vertices(split: Split, rows: I64) -> F64:
    """Return all vertices of frames, (n, V, 3) float64, world metres."""
    motion = split.frames.head_to_world[rows].astype(np.float64)
    vertices = split.frames.vertices(rows).astype(np.float64)
    return np.asarray(vertices @ motion[:, :3, :3].transpose(0, 2, 1) + motion[:, None, :3, 3])


def _seen(
    looker: Looker, split: Split, boxes_of: FaceTruth, samples: I64, chosen: tuple[int, ...] | None
) -> tuple[list[PixelEvidence], list[StereoView]]:
    """Return what the network sees in the pictures of one instant, all or some of them, and the pictures."""
    if chosen is not None:
        samples = samples[[k for k in chosen if k < len(samples)]]
    stored = split.read(("image", "intrinsics", "world_to_camera"), samples)
    cameras = [torch.from_numpy(stored[key]) for key in ("intrinsics", "world_to_camera")]
    boxes = boxes_of.seen(samples, *cameras).boxes.tolist()
    height, width = stored["image"].shape[-2:]
    found, views = [], []
    for k, box in enumerate(boxes):
        pixels = stored["image"][k].transpose(1, 2, 0)
        points = looker.see(pixels, (box[0], box[1], box[2], box[3]), len(samples))
        K, pose = (stored[key][k].astype(np.float64) for key in ("intrinsics", "world_to_camera"))
        camera = Camera(f"camera {k}", K, pose, width, height)
        found.append(PixelEvidence(points, camera))
        views.append(StereoView(camera, np.ascontiguousarray(pixels)))
    return found, views
