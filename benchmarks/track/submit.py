"""``submit``: meshes of single images, as the NoW challenge and NeRSemble's single-view benchmark take them."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from datagen.commands.options import JsonOption
from datagen.common.arrays import F64
from datagen.common.console import print_json, say
from datagen.common.documents import read_text
from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes, staged_folder
from datagen.common.names import require_name
from datagen.common.ownership import check_output_file

CHALLENGES = ("multiview_neutral", "multiview_expressions", "multiview_occlusions", "selfie")  # of NoW
EXPRESSIONS = ("posed", "neutral")  # of NeRSemble
_KEY = re.compile(r"(\d{1,3})")
_FLAME = 5023
_NPY = "NoW's seven key points in the mesh's axes, (7, 3): the ends of both eyes, the point below the nose, of the lips"
_HELP = "docs/track-benchmark.md, Submissions, shows the folders"


def submit_command(
    benchmark: Annotated[Literal["now", "svfr"], typer.Argument(help="The NoW challenge, or NeRSemble's single view.")],
    meshes: Annotated[Path, typer.Argument(help="Folder of meshes, one an image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder (now) or .zip (svfr) to write.")],
    images: Annotated[
        Path | None, typer.Option(help="The benchmark's list of images, a path a line: each needs its mesh.")
    ] = None,
    unit: Annotated[str, typer.Option(help="Unit of the mesh files; metres are written.")] = "m",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the .zip if it exists.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Pack meshes of single images as a submission; each with its seven key points beside it.

    now: subject/challenge/image.ply and image.npy. svfr: posed/ or neutral/, or both, with participant/image_key.ply
    and image_key.npy, which may be missing of meshes in FLAME's topology. What is incomplete is refused.

    Example: python -m benchmarks submit svfr runs/meshes --out runs/svfr_submission.zip
    """
    found = dict(_of_now(meshes, unit) if benchmark == "now" else _of_svfr(meshes, unit))
    if not found:
        raise InputError(f"{meshes} holds no meshes in the folders of {benchmark}", "one an image", _HELP)
    if images is not None:
        _check_complete(found, images, benchmark)
    else:
        print("without --images nobody knows whether every image has its mesh", file=sys.stderr)
    if benchmark == "now":
        with staged_folder(out, replace=False) as staging:
            for name, data in found.items():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                (staging / name).write_bytes(data)
    else:
        check_output_file(out, overwrite=overwrite)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in sorted(found.items()):
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
        atomic_write_bytes(out, packed.getvalue())
    count = sum(name.endswith((".obj", ".ply")) for name in found)
    if json_output:
        print_json({"out": str(out), "meshes": count})
    else:
        say(f"{count} meshes in {out}")


def _of_now(meshes: Path, unit: str) -> Iterator[tuple[str, bytes]]:
    """Yield files of a submission to NoW: subject/challenge/image.obj and image.npy."""
    for path, parts in _meshes(meshes, 3):
        subject, challenge, image = parts
        if challenge not in CHALLENGES:
            raise InputError(f"{path} is of the challenge {challenge!r}", f"one of {', '.join(CHALLENGES)}", _HELP)
        data, keys, _ = _packed(path, unit, "obj")
        if keys is None:
            raise InputError(f"{path} has no {path.stem}.npy beside it", _NPY, _HELP)
        yield f"{subject}/{challenge}/{image}.obj", data
        yield f"{subject}/{challenge}/{image}.npy", _npy(keys)


def _of_svfr(meshes: Path, unit: str) -> Iterator[tuple[str, bytes]]:
    """Yield files of a submission to NeRSemble: 017/image_key/mesh_posed.ply, landmarks_posed.npy and so on."""
    for path, parts in _meshes(meshes, 3):
        expression, participant, key = parts
        if expression not in EXPRESSIONS or _KEY.fullmatch(participant) is None:
            raise InputError(f"{path} is {'/'.join(parts)}", "posed or neutral/participant/image_key", _HELP)
        data, keys, vertices = _packed(path, unit, "ply")
        if keys is None and vertices != _FLAME:
            raise InputError(
                f"{path} has {vertices} vertices and no {path.stem}.npy beside it",
                f"FLAME's {_FLAME}, or {_NPY}",
                _HELP,
            )
        place = f"{int(participant):03d}/{key}"
        yield f"{place}/mesh_{expression}.ply", data
        if keys is not None:
            yield f"{place}/landmarks_{expression}.npy", _npy(keys)


def _meshes(folder: Path, depth: int) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield mesh files at a depth, and the names that lead there; what lies elsewhere is said."""
    from datagen.geometry.mesh_io import MESH_KINDS

    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", "a folder of meshes", "Check the path")
    left = 0
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).with_suffix("").parts
        if path.is_dir() or path.suffix.lower() == ".npy":
            continue
        if path.suffix.lower() not in MESH_KINDS or len(parts) != depth:
            left += 1
            continue
        yield path, tuple(require_name(part, f"a part of {path}") for part in parts)
    if left:
        print(f"{folder}: {left} files left out, which are no meshes or lie elsewhere", file=sys.stderr)


def _packed(path: Path, unit: str, form: str) -> tuple[bytes, F64 | None, int]:
    """Return a mesh's file, its key points in metres, and its number of vertices."""
    from datagen.geometry.mesh_io import mesh_bytes, read_mesh
    from datagen.geometry.space import metres_per

    mesh = read_mesh(path, unit)
    beside = path.with_suffix(".npy")
    keys = None
    if beside.is_file():
        try:
            values = np.load(beside, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{beside} cannot be read ({error})", _NPY, "Save it again") from None
        if values.shape != (7, 3) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise InputError(f"{beside} is {values.shape} {values.dtype}", _NPY, "Save it again")
        keys = values.astype(np.float64) * metres_per(unit, "--unit")
        size = float(np.ptp(mesh.vertices, axis=0).max())
        inside = (keys > mesh.vertices.min(0) - size / 10) & (keys < mesh.vertices.max(0) + size / 10)
        if not inside.all():
            raise InputError(
                f"points of {beside} lie away from {path}", "points on that mesh, in its unit", "Check both"
            )
    return mesh_bytes(mesh, None, form), keys, len(mesh.vertices)


def _npy(keys: F64) -> bytes:
    stream = io.BytesIO()
    np.save(stream, keys.astype(np.float32))
    return stream.getvalue()


def _check_complete(found: dict[str, bytes], images: Path, benchmark: str) -> None:
    """Refuse a submission that lacks an image of the benchmark's list, or has one that is not in it."""
    lines = [Path(line.strip()) for line in read_text(images).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{images} names no image", "the benchmark's list, a path a line", "Check the file")
    if benchmark == "now":
        wanted = {"/".join(line.with_suffix("").parts[-3:]) for line in lines}
        given = {name.removesuffix(".obj") for name in found if name.endswith(".obj")}
    else:
        wanted = {f"{line.parts[-2]:0>3}/{line.with_suffix('').name}" for line in lines if len(line.parts) > 1}
        given = {name.rpartition("/")[0] for name in found if name.endswith(".ply")}
    lacking, strange = sorted(wanted - given), sorted(given - wanted)
    if lacking or strange:
        what = f"no mesh of {lacking[0]}" if lacking else f"a mesh of {strange[0]}, which {images} does not name"
        count = len(lacking) or len(strange)
        raise InputError(f"{what} ({count} in all)", f"one of each of {len(wanted)} images", "Complete the meshes")


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("submit")(submit_command)
