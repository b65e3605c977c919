"""What is true: one camera's pictures of one performance, and the whole face in each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64, I64, Bools
from datagen.common.errors import InputError
from datagen.shards import Dataset
from datagen.shards.faces import TemplateContents
from datagen.shards.meshes import MaterialPoints, to_world
from trainer.evaluation.canonical import in_region, region_labels
from trainer.evaluation.frames import SampleTable, runs_of_frames
from trainer.evaluation.shape import KEY_LANDMARKS
from trainer.evaluation.track.chart import main_chart
from trainer.inference import filled_split

# Not part of what distances are of: they are hidden, or not skin.
_INNER = ("mouth_interior", "right_eyeball", "left_eyeball")
SHOWN_M = 0.01  # a picture shows the true mesh where the stored depth is this near to it: elsewhere hair, or a hand


@dataclass(frozen=True, eq=False)
class Topology:
    """What all true meshes share.

    Attributes
    ----------
    faces : (F, 3) int
    label : (V,) uint8
    regions : mapping of name to labels
        ``face``, ``mouth``, ``nose``, ``eyes``, ``ears``, those there are.
    is_face : (V,) bool
        The vertices of the face's skin.
    is_outer : (V,) bool
        Those of the whole head's, without pockets behind the lids, the inside of the mouth, eyeballs.
    key_points : MaterialPoints
        The seven of NoW.
    """

    faces: npt.NDArray[np.integer]
    label: npt.NDArray[np.uint8]
    regions: Mapping[str, I64]
    is_face: Bools
    is_outer: Bools
    key_points: MaterialPoints

    @classmethod
    def of(cls, template: TemplateContents, labels: Mapping[str, int]) -> Topology:
        """Take a dataset's template, given its attribute ``regions``."""
        regions = region_labels(labels)
        inner = [labels[name] for name in _INNER if name in labels]
        landmarks = MaterialPoints.landmarks(template)
        if len(landmarks) <= max(KEY_LANDMARKS):
            raise InputError(
                f"the template of {template.head} has {len(landmarks)} landmarks", "68", "Use another head model"
            )
        chosen = list(KEY_LANDMARKS)
        is_face = in_region(template.region, regions["face"]) & ~np.isin(template.region, inner)
        is_outer = ~np.isin(template.region, inner)
        if len(template.uv):
            outer = np.zeros(len(is_face), bool)
            outer[template.faces[main_chart(template, is_face.astype(np.float64))]] = True
            is_outer &= outer
        return cls(
            template.faces,
            template.region,
            regions,
            is_face & is_outer,
            is_outer,
            MaterialPoints(landmarks.faces[chosen], landmarks.weights[chosen]),
        )


@dataclass(frozen=True, eq=False)
class Shot:
    """Consecutive frames of one performance before one camera, T of them.

    Attributes
    ----------
    subject, sequence, camera : str
    frames : (T,) int64
        Equally spaced numbers.
    vertices : (T, V, 3) float64
        World metres.
    intrinsics : (T, 3, 3)
        Pixels of the pictures.
    world_to_camera : (T, 4, 4)
    size : (height, width)
    topology : Topology
    depth : (T, H, W) float32, optional
        What the pictures show; the true mesh alone without it.
    """

    subject: str
    sequence: str
    camera: str
    frames: I64
    vertices: F64
    intrinsics: F64
    world_to_camera: F64
    size: tuple[int, int]
    topology: Topology
    depth: npt.NDArray[np.float32] | None = None

    @property
    def name(self) -> str:
        """``subject/sequence/camera``: the folder of its predictions."""
        return f"{self.subject}/{self.sequence}/{self.camera}"

    @cached_property
    def in_camera(self) -> F64:
        """Vertices in camera axes, (T, V, 3)."""
        return to_world(self.vertices, self.world_to_camera)

    @cached_property
    def screen(self) -> F64:
        """Homogeneous pixels of the vertices, (T, V, 3)."""
        return self.in_camera @ self.intrinsics.swapaxes(1, 2)


def shots_of(dataset: Dataset, split: str) -> Iterator[Shot]:
    """Yield the shots of a split, one after another: runs of equally spaced frames of one camera.

    Raises
    ------
    DatasetError
        If the dataset has no frame table.
    InputError
        If the split is empty.
    """
    dataset.require_faces()
    part, plan = filled_split(dataset, split), dataset.plan
    topology = Topology.of(dataset.template, dict(dataset.attrs.get("regions", {})))
    index = part.index
    table = SampleTable(index.subject, index.sequence, index.camera, index.frame)
    for run in runs_of_frames(table):
        rows = index.frame_row[run]
        maps = part.read(("intrinsics", "world_to_camera", "depth"), run)
        yield Shot(
            plan.subjects[index.subject[run[0]]],
            plan.sequences[index.sequence[run[0]]],
            plan.cameras[index.camera[run[0]]],
            index.frame[run].astype(np.int64),
            to_world(part.frames.vertices(rows), part.frames.head_to_world[rows]),
            maps["intrinsics"].astype(np.float64),
            maps["world_to_camera"].astype(np.float64),
            (dataset.resolution, dataset.resolution),
            topology,
            maps["depth"],
        )
