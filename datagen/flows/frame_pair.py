"""Scene flow and optical flow between two warped frames, outside any build."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen.audit.motion_pictures import flow_row
from datagen.audit.pictures import write_png
from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes, disk_refusals
from datagen.flows.framing import framing_points, surface_of
from datagen.flows.one_scan import PICTURE_PX, chosen_cameras, staged_folder
from datagen.flows.worker import shared_head
from datagen.geometry.camera import Camera
from datagen.manifest import RenderConfig
from datagen.render.crop import head_crop
from datagen.render.motion import Flow, view_flow
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
    margin : float
    head_root : Path or None
        Folder with the files of the head model of the warps' space, where it is not embedded.
    """

    resolution: int
    margin: float = RenderConfig().crop_margin
    head_root: Path | None = None

    def cameras(self, camera: Camera, warps: tuple[Warp, Warp]) -> tuple[Camera, Camera]:
        """Return the camera of each crop."""
        template = shared_head(warps[0].space.head, self.head_root).template
        first, second = (
            head_crop(camera, framing_points(warp, template), self.resolution, self.margin).camera for warp in warps
        )
        return first, second


def flow_of_pair(
    first: Path,
    second: Path,
    cameras: Path,
    out: Path,
    *,
    names: Sequence[str] | None,
    backend: str,
    crop: PairCrop | None = None,
) -> list[Path]:
    """Write, for each camera, the flow from one warped frame to another (npz) and a picture of it (png).

    Parameters
    ----------
    first, second : Path
        Folders with ``warp.npz``.
    cameras : Path
        Sequence folder whose capture file holds the cameras.
    out : Path
    names : sequence of str or None
        Cameras; all by default.
    backend : str
    crop : PairCrop or None
        By default the cameras' full images.

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
    surfaces = surface_of(warps[0]), surface_of(warps[1])
    chosen = chosen_cameras(cameras, names)
    with disk_refusals(f"writing {out}"), staged_folder(out) as folder:
        for camera in chosen:
            pair = (camera, camera) if crop is None else crop.cameras(camera, warps)
            flow = view_flow(*surfaces, pair, warps[0].space.half_extent, renderer)
            atomic_write_bytes(folder / f"{camera.name}.npz", _flow_bytes(flow, pair))
            write_png(folder / f"{camera.name}.png", flow_row(flow, PICTURE_PX))
    return [out / f"{camera.name}{suffix}" for camera in chosen for suffix in (".npz", ".png")]


def _flow_bytes(flow: Flow, cameras: tuple[Camera, Camera]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        scene_flow=flow.scene,
        optical_flow=flow.optical,
        matched=flow.matched,
        visible=flow.visible,
        intrinsics=np.stack([camera.K for camera in cameras]),
        world_to_camera=np.stack([camera.world_to_camera for camera in cameras]),
    )
    return buffer.getvalue()
