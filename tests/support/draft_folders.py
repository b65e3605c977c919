"""Folders as people have them, of tiny files: what `datagen init` is to make something of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datagen.sources.capture_folders import Drafts

SQUARE = [[-0.05, -0.1, 0], [0.05, -0.1, 0], [0.05, 0.1, 0], [-0.05, 0.1, 0.1]]
K = [[100, 0, 16], [0, 100, 12], [0, 0, 1]]
POSE = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 1], [0, 0, 0, 1]]


def _scan(path: Path, scale: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, vertices=np.array(SQUARE) * scale, faces=np.array([[0, 1, 2], [0, 2, 3]]))
        return
    corners = [f"{x * scale:g} {y * scale:g} {z * scale:g}" for x, y, z in SQUARE]
    if path.suffix == ".obj":
        path.write_text("".join(f"v {corner}\n" for corner in corners) + "f 1 2 3\nf 1 3 4\n")
        return
    header = ["ply", "format ascii 1.0", "element vertex 4", *(f"property float {axis}" for axis in "xyz")]
    header += ["element face 2", "property list uchar int vertex_indices", "end_header"]
    path.write_text("\n".join([*header, *corners, "3 0 1 2", "3 0 2 3"]) + "\n")


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write(root: Path, *paths: str, scale: float = 1.0) -> Path:
    for path in paths:
        if path.endswith((".ply", ".obj", ".npz")):
            _scan(root / path, scale)
        else:
            _picture(root / path)
    return root


def only(drafts: Drafts) -> Any:
    (one,) = drafts.sequences
    assert one.problem == ""
    return json.loads((one.folder / "capture.json").read_text())
