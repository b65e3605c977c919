"""One scan warped, one warp rendered, outside any build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.audit.pictures import canonical_colours, colour_map, write_png
from datagen.audit.samples import sample_row
from datagen.audit.warp_pictures import WARP_PICTURES, write_warp_pictures
from datagen.common.errors import InputError
from datagen.common.files import (
    DISK_ERRORS,
    atomic_write_bytes,
    check_writable,
    npz_bytes,
    staged_folder,
    storage_errors,
)
from datagen.common.ownership import Owned, is_ours, listed, refuse_strangers, strangers
from datagen.common.progress import unwatched
from datagen.flows.framing import surface_of
from datagen.flows.stages.bridge import check_bridge_folder, store_bridge, stored_bridge
from datagen.flows.stages.warp import register_and_warp
from datagen.flows.surfaces import ShownFrame, scan_surface
from datagen.flows.worker import shared_head
from datagen.geometry.camera import Camera
from datagen.geometry.landmark_orders import Order
from datagen.geometry.landmarks import declared_unit, read_landmarks, states_unit
from datagen.geometry.mesh import Mesh, check_metric_scale
from datagen.geometry.mesh_io import MESH_FORMATS, mesh_bytes, read_mesh
from datagen.heads.base import HeadModel
from datagen.heads.registry import HEADS
from datagen.layout import BuildLayout
from datagen.manifest import WarpConfig
from datagen.render.contract import Renderer, SurfaceAttributes, ViewMaps
from datagen.render.maps import render_views
from datagen.render.registry import make_renderer
from datagen.shards.schema import Sample
from datagen.sources.capture_file import read_capture_file
from datagen.sources.frame import Registration
from datagen.sources.topology import Topology, read_topology, topology_of
from datagen.warp.bridge import build_bridge
from datagen.warp.engine import WARP_STEPS
from datagen.warp.result import VERDICT_FILE, WARP_FILE, Warp
from datagen.warp.storage import read_warp, write_warp
from datagen.warp.template import prepare_template

# The fitted template and the scan, both coloured by canonical coordinate, and the scan by confidence.
WARP_MESHES = ("registered", "scan_canonical", "scan_confidence")
UNKNOWN_GREY = 128
# Reading, those of the engine, writing; one more where a bridge has to be built.
STEPS = WARP_STEPS + 2
PICTURE_PX = 360
EMPTY_GREY = 40
MAPS = ("depth", "canonical", "normal", "region", "confidence", "mask", "edge")


@dataclass(frozen=True)
class RegistrationFile:
    """A registration on disk, and what topology it is in: the canonical head's unless something else is named.

    Attributes
    ----------
    head : str or None
        Head model of its topology.
    head_root : Path or None
        Folder with that model's files.
    neutral, neutral_landmarks : Path or None
        Neutral mesh of its topology and landmarks on it, where that is not a head model's.
    unit : str or None
        Length unit of the file; that of the scan if None.
    """

    path: Path
    head: str | None = None
    head_root: Path | None = None
    neutral: Path | None = None
    neutral_landmarks: Path | None = None
    unit: str | None = None

    def topology(self, canonical: str) -> Topology | None:
        """Return its topology, None if it is that of the head model ``canonical``.

        Raises
        ------
        InputError
            If what is named does not say which topology it is, or a file is missing or broken.
        """
        if self.neutral is None and self.neutral_landmarks is None:
            if self.head in (None, canonical):
                return None
            return topology_of(shared_head(str(self.head), self.head_root).template)
        if self.neutral is None or self.neutral_landmarks is None or self.head is not None:
            raise InputError(
                "the registration's topology is not named clearly",
                "a head model, or a neutral mesh together with landmarks on it",
                "Pass --registration-head, or --topology and --topology-landmarks",
            )
        return read_topology(self.neutral.stem, self.neutral, self.neutral_landmarks)


@dataclass(frozen=True)
class LandmarkFile:
    """Landmarks on disk, and what files of other programs do not say.

    Attributes
    ----------
    unit : str or None
        That of the scan if None.
    order : str or tuple of int, or None
        See :func:`datagen.geometry.landmarks.read_landmarks`.
    """

    path: Path
    unit: str | None = None
    order: Order | None = None


def warp_scan(
    scan: Path,
    out: Path,
    *,
    head: str,
    head_root: Path | None,
    unit: str | None,
    landmarks: LandmarkFile | None,
    registration: RegistrationFile | None,
    config: WarpConfig,
    mesh_format: str = "ply",
    on_step: Callable[[str], None] = unwatched,
) -> Warp:
    """Warp a scan file and write ``warp.npz``, ``verdict.json``, pictures and meshes; nothing if it cannot be done.

    Parameters
    ----------
    out : Path
        Folder; files of an earlier warp in it are replaced, others of the same names are refused.
    unit : str or None
        Of the scan; by default what the landmark file declares, or else metres.
    registration : RegistrationFile or None
        One in another topology than the head's passes a bridge, which is kept in ``out/bridges`` and used again.
    mesh_format : str
        One of :data:`datagen.geometry.mesh_io.MESH_FORMATS`, of the meshes :data:`WARP_MESHES`.
    on_step : callable
        Called with what begins, at most :data:`STEPS` times.

    Raises
    ------
    datagen.common.errors.InputError
        If a file is missing or broken, or the warp cannot start.
    datagen.common.errors.StorageError
        If a file that is not ours is in the way, or the disk refuses.
    """
    check_writable(out)
    with storage_errors(f"reading {out}"):
        refuse_strangers(strangers(out, (WARP_FILE, VERDICT_FILE, *WARP_PICTURES, *mesh_files(mesh_format))))
        earlier = listed(out) if out.is_dir() else None
    on_step("reading the scan")
    # Landmarks are marked on the scan, so the unit they declare is the scan's unless something else is said.
    stated = declared_unit(landmarks.path) if landmarks and states_unit(landmarks.path) else None
    unit = unit or stated or (landmarks.unit if landmarks else None) or "m"
    mesh = read_mesh(scan, unit, need_faces=False)
    check_metric_scale(mesh.vertices, str(scan), declare="--unit")
    marks = None
    if landmarks is not None:
        marks = read_landmarks(landmarks.path, unit=landmarks.unit or unit, order=landmarks.order)
    model = shared_head(head, head_root)
    start, topology, bridge, stored = None, None, None, None
    if registration is not None:
        topology = registration.topology(head)
        name = topology.name if topology else head
        vertices = read_mesh(registration.path, registration.unit or unit, need_faces=False).vertices
        vertices = HEADS[name].own(vertices) if name in HEADS else vertices
        check_metric_scale(vertices, str(registration.path), declare="--registration-unit")
        start = Registration(name, vertices)
    if topology is not None:
        stored = stored_bridge(BuildLayout(out).bridges, topology, model.template)
        check_bridge_folder(stored)
        if not stored.finished:
            on_step(f"building the bridge from {topology.name}")
        bridge = stored.open(model.template) if stored.finished else build_bridge(topology, model)
    warp = register_and_warp(mesh, model, config, bridge=bridge, registration=start, landmarks=marks, on_step=on_step)
    on_step("drawing pictures and writing")
    with storage_errors(f"writing {out}", only=DISK_ERRORS), staged_folder(out, replace=False) as folder:
        write_warp(folder, warp)
        write_warp_pictures(folder, warp, model.template)
        for name, data in _meshes(warp, model, config, mesh_format).items():
            atomic_write_bytes(folder / name, data)
    with storage_errors(f"writing {out}", only=DISK_ERRORS):
        _remove_other_formats(out, earlier or {}, mesh_format)
    if topology is not None and bridge is not None and stored is not None and not stored.finished:
        store_bridge(stored, topology, bridge)
    return warp


def mesh_files(mesh_format: str) -> list[str]:
    """Return the names of the meshes in a format."""
    return [f"{name}.{mesh_format}" for name in WARP_MESHES]


def _meshes(warp: Warp, head: HeadModel, config: WarpConfig, mesh_format: str) -> dict[str, bytes]:
    """Return the files of a warp's meshes: in metres, in the scan's axes; grey where a point has no counterpart."""
    template = prepare_template(head.template, config.subdivisions)
    registered = Mesh.of(warp.registered_vertices, warp.registered_faces)
    scan = Mesh.of(warp.scan_vertices, warp.scan_faces)
    known = np.isfinite(warp.canonical).all(axis=1)
    colours = (
        _rgb(canonical_colours(warp.space.normalise(template.canonical_m)))
        if len(template.canonical_m) == len(registered.vertices)
        else None,  # in another topology, that of its registration
        _rgb(canonical_colours(warp.canonical)),
        _rgb(colour_map(np.where(known, warp.confidence, np.nan), 0, 1, "viridis")),
    )
    shapes = zip(mesh_files(mesh_format), (registered, scan, scan), colours, strict=True)
    return {name: mesh_bytes(mesh, colour, mesh_format) for name, mesh, colour in shapes}


def _rgb(colours: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.where(np.isfinite(colours), np.nan_to_num(colours) * 255, UNKNOWN_GREY).round().astype(np.uint8)


def _remove_other_formats(out: Path, earlier: Owned, mesh_format: str) -> None:
    """Remove the meshes that an earlier warp left in another format: they are of another scan, or of the same."""
    for other in MESH_FORMATS:
        for name in mesh_files(other):
            if other != mesh_format and name in earlier and is_ours(out / name, earlier[name]):
                (out / name).unlink(missing_ok=True)


def render_warp(
    warp_folder: Path,
    cameras: Path,
    out: Path,
    *,
    names: Sequence[str] | None,
    backend: str,
    head_root: Path | None = None,
    frame: int | None = None,
) -> list[Path]:
    """Render a warp into the images of cameras: for each camera its maps (npz) and a picture of them (png).

    Parameters
    ----------
    head_root : Path or None
        Folder with the files of the head model of the warp's space, where it is not embedded: point clouds need it.
    frame : int or None
        Whose poses are taken, of cameras that move.

    Returns
    -------
    list of Path

    Raises
    ------
    datagen.common.errors.InputError
        If a file is missing or broken, a camera is not valid, or there is no camera of that name.
    """
    warp = read_warp(warp_folder)
    chosen = chosen_cameras(cameras, names, frame)
    refuse_strangers(strangers(out, files_of_cameras(chosen)))
    renderer = make_renderer(backend)
    maps = render_views(standalone_surface(warp, renderer, head_root), chosen, renderer, hide_back_faces=True)
    with storage_errors(f"writing {out}", only=DISK_ERRORS), staged_folder(out, replace=False) as folder:
        for camera, view in zip(chosen, maps, strict=True):
            atomic_write_bytes(folder / f"{camera.name}.npz", _maps_bytes(view, camera))
            write_png(folder / f"{camera.name}.png", sample_row(_as_sample(view, camera), tile=PICTURE_PX))
    return [out / name for name in files_of_cameras(chosen)]


def standalone_surface(warp: Warp, renderer: Renderer, head_root: Path | None) -> SurfaceAttributes:
    """Return the scan of a warp that belongs to no build, with its attributes; a point cloud as discs.

    Raises
    ------
    datagen.common.errors.InputError
        If it is a point cloud, and its head model's files are missing.
    """
    if len(warp.scan_faces):
        return surface_of(warp)
    template = shared_head(warp.space.head, head_root).template
    levels = (level for level in range(3) if len(prepare_template(template, level).faces) == len(warp.registered_faces))
    return scan_surface(ShownFrame(warp, template, WarpConfig(subdivisions=next(levels, None)), renderer))


def files_of_cameras(cameras: Sequence[Camera]) -> list[str]:
    """Return the names of what is written for cameras."""
    return [f"{camera.name}{suffix}" for camera in cameras for suffix in (".npz", ".png")]


def chosen_cameras(sequence: Path, names: Sequence[str] | None, frame: int | None = None) -> list[Camera]:
    """Return the cameras of a sequence folder's capture file, all or those named.

    Parameters
    ----------
    frame : int or None
        Whose poses are taken, of cameras that move.

    Raises
    ------
    datagen.common.errors.InputError
        If the file is missing or broken, a camera is not valid, or there is none of that name; if a camera moves, and
        the frame is not named or none of the sequence.
    """
    capture = read_capture_file(sequence)
    rig = {one.camera.name: one for one in capture.recorded(str(sequence))}
    unknown = sorted(set(names or ()) - set(rig))
    if unknown:
        raise InputError(f"{sequence} has no camera {', '.join(unknown)}", f"one of {', '.join(rig)}")
    chosen = [rig[name] for name in (names or rig)]
    if frame is None:
        moving = [one.camera.name for one in chosen if one.poses]
        if moving:
            raise InputError(
                f"camera {moving[0]} of {sequence} moves", "the frame that is meant", "Name it: --frame, or --frames"
            )
        return [one.camera for one in chosen]
    if frame not in capture.frames:
        raise InputError(
            f"{sequence} has no frame {frame}",
            f"one of its {len(capture.frames)} frames, {capture.frames[0]} to {capture.frames[-1]}",
            "Check the frame's number",
        )
    return [one.at(frame) for one in chosen]


def _maps_bytes(view: ViewMaps, camera: Camera) -> bytes:
    cameras = {"intrinsics": camera.K, "world_to_camera": camera.world_to_camera}
    return npz_bytes(cameras | {name: getattr(view, name) for name in MAPS})


def _as_sample(view: ViewMaps, camera: Camera) -> Sample:
    """Dress maps as a sample without an image, so that they are drawn as every sample is."""
    grey = np.full((3, camera.height, camera.width), EMPTY_GREY, np.uint8)
    pose = camera.world_to_camera.astype(np.float32)
    return Sample(
        image=grey,
        depth=view.depth,
        canonical=view.canonical,
        normal=view.normal,
        confidence=view.confidence,
        region=view.region,
        edge=view.edge,
        intrinsics=camera.K.astype(np.float32),
        world_to_camera=pose,
        head_to_world=np.eye(4, dtype=np.float32),
        subject="",
        sequence="",
        camera=camera.name,
        frame=0,
        time=0.0,
    )
