"""What pictures say of where points of a template are: one contract for all who look at pictures."""

from __future__ import annotations

from dataclasses import dataclass

from datagen.common.errors import InputError
from datagen.common.seen_points import SeenPoints
from datagen.geometry.camera import Camera


@dataclass(frozen=True, eq=False)
class PixelEvidence:
    """Points of a template as one camera saw them.

    Attributes
    ----------
    points : SeenPoints
    camera : Camera
        In the world of the scan, of the size of the picture.

    Raises
    ------
    InputError
        If the picture has another size than the camera.
    """

    points: SeenPoints
    camera: Camera

    def __post_init__(self) -> None:
        seen, camera = self.points, self.camera
        if (seen.width, seen.height) != (camera.width, camera.height):
            raise InputError(
                f"{seen.source} saw points in a picture of {seen.width} x {seen.height} px",
                f"one of {camera.width} x {camera.height} px, as camera {camera.name} has",
                "Look at the pictures as they are now, or leave this out",
            )
