"""ICT-FaceKit (MIT, USC ICT): a linear face model, read from the packed file of its shapes."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.files import read_npz
from datagen.heads.base import HeadTemplate, LinearHead
from datagen.heads.labelling import compact, label_regions

FILE = Path("ict_facekit") / "ict_facekit.npz"
# Tear film, blend, occlusion and lashes are transparent shells around the eyes: no scanner sees them.
KEPT_PARTS = (
    "Face",
    "Head and Neck",
    "Mouth socket",
    "Eye socket left",
    "Eye socket right",
    "Gums and tongue",
    "Teeth",
    "Eyeball left",
    "Eyeball right",
)
INTERIOR_PARTS = ("Mouth socket", "Gums and tongue", "Teeth")
KEYS = (
    "neutral",
    "identity_deltas",
    "expression_deltas",
    "expression_names",
    "faces",
    "faces_quad",
    "part_names",
    "part_ranges",
)


def load_ict(root: Path) -> LinearHead:
    """Read the model from ``root/ict_facekit/ict_facekit.npz``.

    Raises
    ------
    InputError
        If the file is missing, cannot be read or lacks an array.
    """
    data = _read(root / FILE)
    spans = {str(n): (int(r[0]), int(r[1]), int(r[2]), int(r[3])) for n, r in _pairs(data)}
    missing = [name for name in KEPT_PARTS if name not in spans]
    if missing:
        raise InputError(
            f"{root / FILE} has no part {', '.join(missing)}",
            f"the parts {', '.join(KEPT_PARTS)}",
            "Pack the model as docs/heads.md describes",
        )
    quad = data["faces_quad"]
    keep = np.zeros(len(quad), bool)
    for name in KEPT_PARTS:
        keep |= (quad >= spans[name][2]) & (quad < spans[name][3])
    kept, faces = compact(keep, data["faces"])
    neutral = data["neutral"][kept].astype(np.float64)
    names = tuple(str(name) for name in data["expression_names"])
    expressions = np.ascontiguousarray(data["expression_deltas"][:, kept])

    def of(*parts: str) -> npt.NDArray[np.bool_]:
        masks = [(kept >= spans[p][0]) & (kept < spans[p][1]) for p in parts]
        return np.asarray(np.any(masks, axis=0))

    carriers, weights = _read_marks(root / FILE, kept, faces)
    regions = label_regions(
        neutral,
        np.einsum("lc,lcd->ld", weights, neutral[faces[carriers]]),
        opening=-expressions[names.index("jawOpen"), :, 1].astype(np.float64),
        faces=faces,
        eyeballs=(of("Eyeball right"), of("Eyeball left")),
        interior=of(*INTERIOR_PARTS),
    )
    return LinearHead(
        template=HeadTemplate("ict", neutral, faces, regions, carriers, weights),
        identity_modes=np.ascontiguousarray(data["identity_deltas"][:, kept]),
        expression_shapes=expressions,
        expression_names=names,
    )


def _read_marks(
    path: Path, kept: npt.NDArray[np.int64], faces: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Return the triangle (68,) and weights (68, 3) of each landmark, which are stored by the file's own vertices.

    The file's own landmarks follow one hand's habits, its jaw the silhouette of a picture; these are a consensus.
    """
    stored = json.loads((files("datagen.heads") / "data" / "ict_marks.json").read_text())["landmarks"]
    corners = np.array([mark["vertices"] for mark in stored], np.int64)
    weights = np.array([mark["barycentric"] for mark in stored], np.float64)
    of_corners = {tuple(face): index for index, face in enumerate(kept[faces].tolist())}
    carriers = [of_corners.get(tuple(mark)) for mark in corners.tolist()]
    lost = [index for index, carrier in enumerate(carriers) if carrier is None]
    if lost:
        raise InputError(
            f"{path} has no triangle {corners[lost[0]].tolist()}, which carries landmark {lost[0]}",
            "the vertices and triangles of ICT-FaceKit in their own order",
            "Pack the model as docs/heads.md describes",
        )
    return np.array(carriers, np.int32), weights / weights.sum(axis=1, keepdims=True)


def _pairs(data: dict[str, npt.NDArray[Any]]) -> list[tuple[np.generic, npt.NDArray[Any]]]:
    return list(zip(data["part_names"], data["part_ranges"], strict=True))


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise InputError(
            f"{path} does not exist",
            "the ICT-FaceKit shapes packed in one file",
            f"Put the file at {FILE} under the head's root; docs/heads.md says where it comes from",
        )
    data = read_npz(path, expected="a NumPy .npz archive", fix="Copy the file again; it seems truncated")
    missing = [key for key in KEYS if key not in data]
    if missing:
        raise InputError(
            f"{path} lacks the arrays {', '.join(missing)}", f"the arrays {', '.join(KEYS)}", "See docs/heads.md"
        )
    return data
