"""Warps on disk: ``warp.npz`` and ``verdict.json``, the same bytes for the same warp."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.errors import InputError
from datagen.geometry.space import CanonicalSpace
from datagen.shards.atomic import atomic_write_bytes
from datagen.warp.result import Verdict, Warp

ARRAYS = (
    "scan_vertices",
    "scan_faces",
    "canonical",
    "confidence",
    "region",
    "registered_vertices",
    "registered_faces",
    "head_to_world",
)


def warp_bytes(warp: Warp) -> bytes:
    """Return the content of ``warp.npz``: every array of :class:`Warp`, the space's ``centre`` and ``half_extent``."""
    arrays = {name: getattr(warp, name) for name in ARRAYS}
    arrays["centre"] = np.array(warp.space.centre)
    arrays["half_extent"] = np.array(warp.space.half_extent)
    arrays["space"] = np.frombuffer(json.dumps(warp.space.to_attrs(), sort_keys=True).encode(), np.uint8)
    buffer = io.BytesIO()
    # numpy.savez stamps no time today, but does not promise so: the archive is written by hand to keep its bytes fixed.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def verdict_bytes(verdict: Verdict) -> bytes:
    """Return the content of ``verdict.json``: ``verdict``, ``reasons`` and ``figures``."""
    figures = {name: round(float(value), 6) for name, value in sorted(verdict.figures.items())}
    content = {"verdict": verdict.status, "reasons": list(verdict.reasons), "figures": figures}
    return (json.dumps(content, indent=1) + "\n").encode()


def write_warp(folder: Path, warp: Warp) -> None:
    """Write ``warp.npz`` and then ``verdict.json`` into ``folder``, each atomically.

    Raises
    ------
    datagen.errors.StorageError
        If the disk refuses.
    """
    atomic_write_bytes(folder / "warp.npz", warp_bytes(warp))
    atomic_write_bytes(folder / "verdict.json", verdict_bytes(warp.verdict))


def read_verdict(folder: Path) -> Verdict:
    """Read ``verdict.json``.

    Raises
    ------
    InputError
        If it is missing or broken.
    """
    path = folder / "verdict.json"
    try:
        content = json.loads(path.read_text())
        return Verdict(content["verdict"], tuple(content["reasons"]), dict(content["figures"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a verdict", "Warp the frame again") from None


def read_warp(folder: Path) -> Warp:
    """Read what :func:`write_warp` wrote.

    Raises
    ------
    InputError
        If a file is missing or broken.
    """
    path = folder / "warp.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, npt.NDArray[np.generic]] = {name: archive[name] for name in (*ARRAYS, "space")}
        space = CanonicalSpace.from_attrs(json.loads(arrays.pop("space").tobytes()))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error})", "a warp", "Warp the frame again") from None
    return Warp(**arrays, space=space, verdict=read_verdict(folder))  # type: ignore[arg-type]
