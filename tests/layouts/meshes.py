"""Sets that are meshes alone: VOCASET, CoMA, FaceScape's registered models."""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np

from datagen.geometry.mesh_io import mesh_bytes, ply_bytes
from datagen.sources.imports.facescape_tu import VERTICES as FACESCAPE
from datagen.sources.imports.flame_meshes import VERTICES as FLAME
from tests.layouts.heads import head
from tests.layouts.studio import MM, scaled

PERSON = "FaceTalk_170725_00137_TA"
COMA_FRAMES = (7, 8, 10)
# Frame to row, as the set has them: a second sentence begins where the first ended.
ROWS = {"sentence01": {0: 0, 1: 1, 2: 2}, "sentence02": {0: 3, 1: 4}}


def write_vocaset(root: Path) -> None:
    """Write two sentences of one person, and the mesh that VOCA's code brings along."""
    root.mkdir(parents=True)
    frames = [frame for rows in ROWS.values() for frame in rows]
    np.save(root / "data_verts.npy", np.stack([head(FLAME, frame).vertices for frame in frames]).astype("<f4"))
    # Whatever kind of dictionary it was.
    rows = defaultdict(dict, {PERSON: {name: dict(rows) for name, rows in ROWS.items()}})
    (root / "subj_seq_to_idx.pkl").write_bytes(pickle.dumps(rows, protocol=2))
    (root / "templates.pkl").write_bytes(pickle.dumps({PERSON: head(FLAME).vertices}, protocol=2))
    (root / "FLAME_sample.ply").write_bytes(ply_bytes(scaled(head(FLAME), 1.1)))


def write_coma(root: Path) -> None:
    """Write one expression of one person, with a gap."""
    folder = root / "FaceTalk_170725_00137_TA" / "bareteeth"
    folder.mkdir(parents=True)
    for frame in COMA_FRAMES:
        path = folder / f"bareteeth.{frame:06d}.ply"
        path.write_bytes(ply_bytes(head(FLAME, frame - COMA_FRAMES[0]), precision="float32"))


def landmark_vertices() -> np.ndarray:
    """Return 68 vertices about where the landmarks of a face are."""
    k = np.arange(68)
    x, y = np.cos(k * 2.4) * 0.05, np.sin(k * 1.3) * 0.05
    for index, place in {36: (-0.04, 0.03), 45: (0.04, 0.03), 27: (0, 0.028), 30: (0, 0), 8: (0, -0.06)}.items():
        x[index], y[index] = place
    points = head(FACESCAPE).vertices
    front = np.flatnonzero(points[:, 2] > points[:, 2].mean())
    found: list[int] = []
    for place in zip(x, y, strict=True):
        order = np.argsort(np.linalg.norm(points[front, :2] - points.mean(0)[:2] - place, axis=1))
        found.append(next(int(front[k]) for k in order if int(front[k]) not in found))
    return np.array(found)


def write_facescape_tu(root: Path) -> np.ndarray:
    """Write two expressions of one person in millimetres, and the toolkit's landmarks; return the latter."""
    folder = root / "122" / "models_reg"
    folder.mkdir(parents=True)
    for frame, name in enumerate(("1_neutral", "2_smile")):
        (folder / f"{name}.obj").write_bytes(mesh_bytes(scaled(head(FACESCAPE, frame), MM), None, "obj"))
        (folder / f"{name}.jpg").write_bytes(b"")
    indices = landmark_vertices()
    (root / "landmark_indices.txt").write_text("\n".join(map(str, indices)) + "\n")
    return indices
