"""Where a pixel comes from: the scan's triangle, the registered template's, the verdict, and the code that made it."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from datagen.audit.report_tables import read_frame_record
from datagen.common.documents import read_json
from datagen.geometry.camera import Camera
from datagen.geometry.space import MM_PER_M
from datagen.heads.regions import REGION_NAMES
from datagen.layout import BuildLayout
from datagen.render.contract import NO_FACE
from datagen.render.registry import make_renderer
from datagen.shards import Dataset
from datagen.sources.frame import SequenceKey
from datagen.warp.result import PERSON_FILE, WARP_FILE, Warp
from datagen.warp.storage import read_prior, read_verdict, read_warp
from datagen.warp.surface import Surface

# A sample whose depth differs by more than this from the scan's was rendered from another surface.
SAME_SURFACE_MM = 1.0


def pixel_history(dataset: Dataset, build: Path, split: str, i: int, x: float, y: float) -> list[tuple[str, str]]:
    """Follow a pixel of a sample back through the build: what was taken, and what it says, step by step.

    Parameters
    ----------
    build : Path
        The build folder that the dataset was made in.
    x, y : float
        Right and down, pixels.

    Returns
    -------
    list of (step, what it says)
        As far as the build tells.

    Raises
    ------
    InputError
        If the warp is broken.
    """
    part = dataset[split]
    subject, sequence, frame, name = part.sample_name(i).split("/")
    layout, key = BuildLayout(build), SequenceKey(subject, sequence)
    folder = layout.frame_warp(key, int(frame))
    if not (folder / WARP_FILE).is_file():
        return [("warp", f"{folder.relative_to(build).as_posix()} is not in the build folder")]
    warp = _warp(folder, (folder / WARP_FILE).stat().st_mtime_ns)
    read = part.read(("intrinsics", "world_to_camera", "depth"), [i])
    side = read["depth"].shape[-1]
    row, column = int(np.clip(y, 0, side - 1)), int(np.clip(x, 0, side - 1))
    K, pose = (read[array][0].astype(np.float64) for array in ("intrinsics", "world_to_camera"))
    steps = [
        *_scan_steps(warp, Camera(name, K, pose, side, side), row, column, float(read["depth"][0, row, column])),
        *_record_steps(layout, key, folder, build),
    ]
    software = ", ".join(f"{name} {version}" for name, version in sorted(dataset.plan.software.items()))
    return [*steps, ("code", f"dataset written by {software}")]


def _scan_steps(warp: Warp, camera: Camera, row: int, column: int, depth_m: float) -> list[tuple[str, str]]:
    """Say which triangle of the scan a pixel shows, and which of the registered template lies nearest to it."""
    if not len(warp.scan_faces):
        return [("scan", "a cloud of points: no triangle to name")]
    # One pixel's camera: the rest of the image need not be drawn.
    seen = make_renderer("numba").rasterise(
        warp.scan_vertices, warp.scan_faces, [camera.crop(float(column), float(row), 1.0, 1)]
    )[0]
    face = int(seen.face[0, 0])
    if face == NO_FACE:
        return [("scan", "no triangle of the scan lies under the middle of this pixel")]
    corners = warp.scan_faces[face]
    point = (seen.barycentric[0, 0].astype(np.float64) @ warp.scan_vertices[corners])[None]
    apart = 0.0 if depth_m == 0 else (float(seen.depth[0, 0]) - depth_m) * MM_PER_M
    steps = [("triangle", f"{face} of the scan, vertices {', '.join(map(str, corners.tolist()))}")]
    if abs(apart) > SAME_SURFACE_MM:
        steps.append(("surface", f"the sample shows another one: it lies {-apart:+.1f} mm behind the scan here"))
    stated = warp.confidence[corners]
    steps.append(("scan", f"confidence of its vertices {', '.join(f'{value:.2f}' for value in stated)}"))
    hit = Surface(warp.registered_vertices, warp.registered_faces).closest(point)
    away = float(np.linalg.norm(hit.position - point)) * MM_PER_M
    region = REGION_NAMES.get(int(np.bincount(warp.region[corners]).argmax()), "")
    told = f"triangle {int(hit.face[0])} of the template, {region.replace('_', ' ')}, {away:.2f} mm from the scan"
    if len(warp.spread_m):
        spread = hit.barycentric[0] @ warp.spread_m[warp.registered_faces[int(hit.face[0])]]
        told += f", known to ± {float(spread) * MM_PER_M:.2f} mm"
    return [*steps, ("registration", told)]


def _record_steps(layout: BuildLayout, key: SequenceKey, folder: Path, build: Path) -> list[tuple[str, str]]:
    steps = []
    person = layout.person(key)
    if (person / PERSON_FILE).is_file():
        frames = ", ".join(str(frame) for frame in read_prior(person).frames)
        steps.append(("person", f"the frame could lean on the one learnt from frames {frames}"))
    verdict = read_verdict(folder)
    steps.append(("verdict", f"{verdict.status}: {'; '.join(verdict.reasons) or 'every metric is within its limits'}"))
    record = read_frame_record(folder)
    if record.content_key:
        steps.append(("warp", f"{folder.relative_to(build).as_posix()}, content key {record.content_key[:16]}"))
        steps.append(("input", f"digest {record.input_digest[:16] or 'none'}"))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        steps.append(("recipe", str(read_json(layout.manifest)["name"])))
    return steps


@lru_cache(maxsize=4)
def _warp(folder: Path, _written_ns: int) -> Warp:
    return read_warp(folder)
