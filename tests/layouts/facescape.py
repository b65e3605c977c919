"""FaceScape's multi-view set as it is downloaded, of the flat scan: the layout's facts, none of its data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from datagen.geometry.mesh_io import ply_bytes
from tests.layouts.studio import HEIGHT, MM, WIDTH, Shot, scaled, scan, shots, taken

EXPRESSION = "1_neutral"
# Millimetres of a registered model for each unit of the mesh.
SCALE = 87.5


def write_facescape(root: Path, expression: str = EXPRESSION, subject: str = "122") -> list[Shot]:
    """Write one expression of a person; return its cameras, in metres, and their lenses."""
    found = shots("OPENCV")
    folder = root / "IMGS" / subject / expression
    folder.mkdir(parents=True)
    params: dict[str, object] = {}
    for view, shot in enumerate(found):
        taken(shot).save(folder / f"{view}.jpg", quality=100, subsampling=0)
        # Of pixel centres at whole numbers, as OpenCV undistorts.
        K = shot.camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
        pose = shot.camera.world_to_camera[:3].copy()
        pose[:, 3] *= MM / SCALE
        params |= {f"{view}_K": K.tolist(), f"{view}_Rt": pose.tolist()}
        params |= {f"{view}_distortion": [*shot.parameters[4:], 0.0], f"{view}_valid": True}
        params |= {f"{view}_width": WIDTH, f"{view}_height": HEIGHT, f"{view}_sn": f"s{view}", f"{view}_ori": 0}
        params[f"{view}_matches"] = 99
    params |= {key.replace("0_", "3_", 1): value for key, value in params.items() if key.startswith("0_")}
    params["3_valid"] = False
    (folder / "params.json").write_text(json.dumps(params))
    mesh = root / "MESH" / subject / f"{expression}.ply"
    mesh.parent.mkdir(parents=True, exist_ok=True)
    mesh.write_bytes(ply_bytes(scaled(scan(), MM / SCALE)))
    rows = np.eye(4)[:3].tolist()
    (root / "Rt_scale_dict.json").write_text(json.dumps({subject: {expression.partition("_")[0]: [SCALE, rows]}}))
    return found
