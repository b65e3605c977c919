"""Motion between two warped frames, outside any build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen.audit.motion_pictures import motion_row
from datagen.audit.pictures import write_png
from datagen.common.errors import InputError
from datagen.common.files import DISK_ERRORS, atomic_write_bytes, npz_bytes, staged_folder, storage_errors
from datagen.common.ownership import refuse_strangers, strangers
from datagen.flows.framing import framing_points
from datagen.flows.one_scan import PICTURE_PX, chosen_cameras, files_of_cameras, standalone_surface
from datagen.flows.worker import shared_head
from datagen.geometry.camera import Camera
from datagen.manifest import RenderConfig
from datagen.render.crop import head_crop
from datagen.render.motion import Motion, view_motion
from datagen.render.registry import make_renderer
from datagen.warp.result import Warp
from datagen.warp.storage import read_warp


@dataclass(frozen=True)
class PairCrop:
    """How both images of a pair are cut out, as a dataset's samples are.

    Attributes
    ----------
    resolution : int
        Pixels a side.
    head_root : Path or None
        Folder with the files of the head model of the warps' space, where it is not embedded.
    """

    resolution: int
    margin: float = RenderConfig().crop_margin
    head_root: Path | None = None

    def cameras(self, cameras: tuple[Camera, Camera], warps: tuple[Warp, Warp]) -> tuple[Camera, Camera]:
        """Return the camera of each crop."""
        template = shared_head(warps[0].space.head, self.head_root).template
        first, second = (
            head_crop(camera, framing_points(warp, template), self.resolution, self.margin).camera
            for camera, warp in zip(cameras, warps, strict=True)
        )
        return first, second


def motion_of_pair(
    first: Path,
    second: Path,
    cameras: Path,
    out: Path,
    *,
    names: Sequence[str] | None,
    backend: str,
    crop: PairCrop | None = None,
    frames: tuple[int, int] | None = None,
) -> list[Path]:
    """Write, for each camera, the motion from one warped frame to another (npz) and a picture of it (png).

    Parameters
    ----------
    first, second : Path
        Folders with ``warp.npz``.
    cameras : Path
        Sequence folder whose capture file holds the cameras.
    names : sequence of str or None
        Cameras; all by default.
    crop : PairCrop or None
        By default the cameras' full images.
    frames : tuple of int or None
        Whose poses are taken, of cameras that move.

    Returns
    -------
    list of Path

    Raises
    ------
    datagen.common.errors.InputError
        If a file is missing or broken, the warps are of different canonical spaces, or there is no camera of that
        name.
    """
    warps = read_warp(first), read_warp(second)
    if warps[0].space != warps[1].space:
        raise InputError(
            f"{first} and {second} are warps to different canonical spaces "
            f"({warps[0].space.head} and {warps[1].space.head})",
            "two frames warped to one space",
            "Warp both with the same head model",
        )
    renderer = make_renderer(backend)
    root = crop.head_root if crop is not None else None
    surfaces = standalone_surface(warps[0], renderer, root), standalone_surface(warps[1], renderer, root)
    chosen, then = (chosen_cameras(cameras, names, frame) for frame in frames or (None, None))
    refuse_strangers(strangers(out, files_of_cameras(chosen)))
    with storage_errors(f"writing {out}", only=DISK_ERRORS), staged_folder(out, replace=False) as folder:
        for camera, later in zip(chosen, then, strict=True):
            pair = (camera, later) if crop is None else crop.cameras((camera, later), warps)
            motion = view_motion(*surfaces, pair, warps[0].space.half_extent, renderer)
            atomic_write_bytes(folder / f"{camera.name}.npz", _motion_bytes(motion, pair))
            write_png(folder / f"{camera.name}.png", motion_row(motion, PICTURE_PX))
    return [out / name for name in files_of_cameras(chosen)]


def _motion_bytes(motion: Motion, cameras: tuple[Camera, Camera]) -> bytes:
    return npz_bytes(
        {
            "scene_flow": motion.scene,
            "optical_flow": motion.optical,
            "matched": motion.matched,
            "visible": motion.visible,
            "intrinsics": np.stack([camera.K for camera in cameras]),
            "world_to_camera": np.stack([camera.world_to_camera for camera in cameras]),
        }
    )
