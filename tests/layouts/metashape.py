"""Cameras as Metashape exports them, of the studio of ``tests.layouts.studio``: its scale, its p1 and p2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from datagen.geometry.lens import BrownLens, FisheyeLens
from datagen.geometry.mesh_io import ply_bytes
from tests.layouts.studio import HEIGHT, MM, WIDTH, Shot, scaled, scan, shots, taken

# From the chunk's own coordinates to the world: a scale, a turn, a move.
SCALE = 3.7
TURN = Rotation.from_euler("xyz", [0.3, -0.2, 0.9]).as_matrix()
MOVE = np.array([11.0, -7.0, 5.0])


def _text(values: object) -> str:
    return " ".join(repr(float(value)) for value in np.ravel(np.asarray(values)))


def write_metashape(workspace: Path, model: str = "OPENCV", *, component: bool = True) -> list[Shot]:
    """Write cameras.xml, pictures and a mesh in the world; return the cameras."""
    found = shots(model)
    (workspace / "images").mkdir(parents=True)
    sensors, cameras = [], []
    for k, shot in enumerate(found):
        taken(shot).save(workspace / "images" / f"{shot.camera.name}.png")
        K, lens = shot.camera.K, shot.lens
        keys = {"f": K[1, 1], "cx": K[0, 2] - WIDTH / 2, "cy": K[1, 2] - HEIGHT / 2, "b1": K[0, 0] - K[1, 1]}
        if isinstance(lens, FisheyeLens):
            keys |= dict(zip(("k1", "k2", "k3", "k4"), lens.coefficients, strict=True))
        elif isinstance(lens, BrownLens):
            keys |= dict(zip(("k1", "k2"), lens.radial, strict=False))
            keys |= {"p1": lens.tangential[1], "p2": lens.tangential[0]}
        kind = "fisheye" if isinstance(lens, FisheyeLens) else "frame"
        size = f'<resolution width="{WIDTH}" height="{HEIGHT}"/>'
        values = "".join(f"<{key}>{float(value)!r}</{key}>" for key, value in keys.items())
        adjusted = f'<calibration type="{kind}" class="adjusted">{size}{values}</calibration>'
        initial = f'<calibration type="{kind}" class="initial">{size}<f>99</f></calibration>'
        sensors.append(f'<sensor id="{k}" label="s" type="{kind}">{size}{initial}{adjusted}</sensor>')
        world = np.linalg.inv(shot.camera.world_to_camera)
        world[:3, 3] *= MM
        # The world is scale × turn × own + move.
        own = np.eye(4)
        own[:3, :3], own[:3, 3] = TURN.T @ world[:3, :3], TURN.T @ (world[:3, 3] - MOVE) / SCALE
        pose = f"<transform>{_text(own)}</transform>"
        cameras.append(f'<camera id="{k}" sensor_id="{k}" component_id="0" label="{shot.camera.name}">{pose}</camera>')
    cameras.append('<camera id="9" sensor_id="0" label="not_aligned"/>')
    parts = f"<rotation>{_text(TURN)}</rotation><translation>{_text(MOVE)}</translation><scale>{SCALE}</scale>"
    place = f"<transform>{parts}</transform>"
    components = f'<components><component id="0">{place}</component></components>' if component else place
    grouped = f"<cameras><group id='0'>{''.join(cameras)}</group></cameras>"
    chunk = f"<chunk label='c'><sensors>{''.join(sensors)}</sensors>{components}{grouped}</chunk>"
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<document version="2.0.0">{chunk}</document>'
    (workspace / "cameras.xml").write_text(text)
    (workspace / "model.ply").write_bytes(ply_bytes(scaled(scan(), MM)))
    return found
