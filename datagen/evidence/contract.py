"""What every maker of evidence is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from datagen.common.seen_points import SeenPoints
from datagen.geometry.camera import Camera
from datagen.sources.frame import Image


@dataclass(frozen=True, eq=False)
class Seen:
    """What one picture says.

    Attributes
    ----------
    points : SeenPoints or None
        None if it says nothing.
    faces : int
        How many faces were found in it.
    note : str
        Why it says nothing, or what was chosen; empty if there is nothing to tell.
    """

    points: SeenPoints | None
    faces: int
    note: str = ""


class Maker(Protocol):
    """Looks at the pictures of one instant."""

    name: str

    def look(self, pictures: Mapping[str, Image], cameras: Mapping[str, Camera]) -> dict[str, Seen]:
        """Return what each picture says, by camera.

        Parameters
        ----------
        pictures : mapping of camera name to (H, W, 3) uint8 sRGB
        cameras : mapping of camera name to Camera
        """
        ...
