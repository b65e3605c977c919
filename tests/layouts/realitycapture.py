"""Cameras as RealityCapture exports them, of the studio: .xmp beside the pictures, or one table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from datagen.geometry.lens import BrownLens
from datagen.geometry.mesh_io import ply_bytes
from tests.layouts.studio import HEIGHT, MM, WIDTH, Shot, scaled, scan, shots, taken

SIDE = max(WIDTH, HEIGHT)
NAMESPACES = 'xmlns:xcr="http://www.capturingreality.com/ns/xcr/1.1#"'
RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'


def _text(values: object) -> str:
    return " ".join(repr(float(value)) for value in np.ravel(np.asarray(values)))


def write_realitycapture(workspace: Path, model: str = "OPENCV", *, table: bool = False) -> list[Shot]:
    """Write pictures, cameras and a mesh; return the cameras. OPENCV becomes brown3t2, RADIAL brown3."""
    found = shots(model)
    (workspace / "images").mkdir(parents=True)
    rows = ["#cameras 3", "#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2"]
    for shot in found:
        camera, lens = shot.camera, shot.lens
        taken(shot).save(workspace / "images" / f"{camera.name}.png")
        assert isinstance(lens, BrownLens)
        K, R = camera.K, camera.world_to_camera[:3, :3]
        f, aspect = 36 * K[0, 0] / SIDE, K[1, 1] / K[0, 0]
        u, v = (K[0, 2] - WIDTH / 2) / SIDE, (K[1, 2] - HEIGHT / 2) / SIDE
        coefficients = [*lens.radial, *[0.0] * (4 - len(lens.radial)), *lens.tangential]
        place = camera.centre * MM
        if table:
            # The angles of a rotation, as the maker describes them: 0 looks down, its top to +y.
            roll, pitch, heading = Rotation.from_matrix(R).as_euler("YXZ", degrees=True) - [180, 0, 180]
            values = [*place, heading, pitch, roll, f, u, v, *coefficients]
            rows.append(",".join([f"{camera.name}.png", *(repr(float(value)) for value in values)]))
            continue
        kind = {"OPENCV": "brown3t2", "RADIAL": "brown3"}.get(model, "perspective")
        attributes = f'xcr:Version="3" xcr:PosePrior="exact" xcr:Coordinates="absolute" xcr:DistortionModel="{kind}" '
        attributes += f'xcr:FocalLength35mm="{float(f)!r}" xcr:Skew="0" xcr:AspectRatio="{float(aspect)!r}" '
        attributes += f'xcr:PrincipalPointU="{float(u)!r}" xcr:PrincipalPointV="{float(v)!r}"'
        parts = {"Rotation": R, "Position": place, "DistortionCoeficients": coefficients}
        inner = "".join(f"<xcr:{key}>{_text(value)}</xcr:{key}>" for key, value in parts.items())
        body = f"<rdf:RDF {RDF}><rdf:Description {attributes} {NAMESPACES}>{inner}</rdf:Description></rdf:RDF>"
        text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{body}</x:xmpmeta>'
        (workspace / "images" / f"{camera.name}.xmp").write_text(text)
    if table:
        (workspace / "cameras.csv").write_text("\n".join(rows) + "\n")
    (workspace / "model.ply").write_bytes(ply_bytes(scaled(scan(), MM)))
    return found
