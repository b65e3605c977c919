"""People with known truth as the detector sees them: simulated ones, and pictures of a textured scan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen.common.arrays import F64
from datagen.geometry.camera import Camera
from datagen.heads.base import HeadModel
from datagen.simulation.capture import SimulatedCapture, SimulatedFrame
from datagen.sources.frame import Image
from datagen.sources.registry import SimulatedSource

# How far people depart from every shape of the model.
DEPARTURE_M = 1e-3
# Seconds between frames: expressions differ.
APART_S = 2.0


@dataclass(frozen=True, eq=False)
class Instant:
    """One moment of one person, photographed.

    Attributes
    ----------
    name : str
    person : int
    cameras : tuple of Camera
    images : dict of camera name to (H, W, 3) uint8 sRGB
    vertices : (V, 3) float64
        The true template, world metres.
    head_to_world : (4, 4) float64
    frame : SimulatedFrame or None
        Its scan, with the truth.
    """

    name: str
    person: int
    cameras: tuple[Camera, ...]
    images: dict[str, Image]
    vertices: F64
    head_to_world: F64
    frame: SimulatedFrame | None = None


def simulated_instants(
    head: HeadModel,
    people: range,
    *,
    seed: int,
    frames: int,
    cameras: int,
    image_size: int,
    root: Path | None = None,
    scans: bool = False,
) -> Iterator[Instant]:
    """Photograph simulated people, one instant after another.

    Parameters
    ----------
    root : Path, optional
        Folder of ``arkit_motion/``: people move as was recorded; else their expressions are random and smooth.
    scans : bool
        Whether each comes with its scan, which takes time.
    """
    config = SimulatedSource(
        kind="simulated",
        subjects=people.stop,
        frames=frames,
        fps=1 / APART_S,
        cameras=cameras,
        image_size=image_size,
        scan_vertices=25_000,
        motion="procedural" if root is None else "arkit",
        root=root,
    )
    for person in people:
        capture = SimulatedCapture(config, seed, person, head, departure_rms_m=DEPARTURE_M)
        assert capture.studio is not None
        for index in range(frames):
            surface = capture.subject.pose(capture.expressions[index], capture.poses[index])
            frame = capture.frame(index) if scans else None
            if frame is None:
                noise = np.random.default_rng([seed, person, index])
                images, _ = capture.studio.pictures(surface, capture.teeth(surface), noise)
            else:
                images = frame.images
            yield Instant(
                name=f"{head.template.name} {person} {index}",
                person=person,
                cameras=capture.cameras,
                images=images,
                vertices=surface.template_vertices,
                head_to_world=surface.head_to_world,
                frame=frame,
            )
