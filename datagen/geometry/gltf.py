"""glTF files (.glb, and .gltf with its data inside), with the transforms of their nodes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from datagen.common.documents import DocumentError, parse_json
from datagen.common.errors import MeshError
from datagen.geometry.ply import Shape

_JSON = b"JSON"
# Extensions that say nothing of where the surface is.
_HARMLESS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "KHR_xmp")
_STRIPS = (5, 6)  # of the modes of primitives


def read_gltf(path: Path, data: bytes) -> Shape:
    """Read all triangles of a file's scene, or its points where it has none, in the scene's axes.

    Parts come in the order of the scene's graph.

    Raises
    ------
    MeshError
        If the file is no whole glTF, its data lies in other files, a skin or morph targets bend its meshes, or it needs
        an extension that is not read.
    """
    content = _document(path, data)
    _refuse_what_is_not_read(path, content)
    import trimesh

    scene = trimesh.load(
        io.BytesIO(data), file_type="glb" if data[:4] == b"glTF" else "gltf", force="scene", process=False
    )
    parts = scene.dump()
    meshes = [part for part in parts if isinstance(part, trimesh.Trimesh)]
    shapes = meshes or [part for part in parts if isinstance(part, trimesh.PointCloud)]
    vertices, faces, count = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0
    for part in shapes:
        vertices.append(np.asarray(part.vertices, np.float64))
        if meshes:
            faces.append(np.asarray(part.faces, np.int64) + count)
        count += len(vertices[-1])
    return Shape(np.concatenate(vertices), np.concatenate(faces))


def _document(path: Path, data: bytes) -> dict[str, Any]:
    if data[:4] == b"glTF":
        length, kind = int.from_bytes(data[12:16], "little"), data[16:20]
        if int.from_bytes(data[8:12], "little") != len(data) or kind != _JSON:
            raise MeshError(
                f"mesh {path} holds {len(data)} bytes, where its header declares "
                f"{int.from_bytes(data[8:12], 'little')}",
                "a complete .glb of version 2",
                "Copy or export it again",
            )
        data = data[20 : 20 + length]
    try:
        content = parse_json(data)
    except DocumentError as error:
        raise MeshError(f"mesh {path} cannot be read ({error})", "a glTF file", "Export it again") from None
    if not isinstance(content, dict) or "asset" not in content:
        raise MeshError(f"mesh {path} holds no glTF", "a glTF file", "Check what kind of file it is")
    return content


def _refuse_what_is_not_read(path: Path, content: dict[str, Any]) -> None:
    def refuse(found: str, expected: str, fix: str) -> MeshError:
        return MeshError(f"mesh {path} {found}", expected, fix)

    outside = [str(one.get("uri"))[:40] for one in _dicts(content, "buffers") if "uri" in one]
    outside = [uri for uri in outside if not uri.startswith("data:")]
    if outside:
        raise refuse(f"has its data in another file, {outside[0]!r}", "all in one file", "Save it as .glb")
    needed = [str(name) for name in content.get("extensionsRequired", ()) if not str(name).startswith(_HARMLESS)]
    if needed:
        raise refuse(f"needs the extension {needed[0]}", "plain glTF 2.0", "Export it without compression")
    primitives = [one for mesh in _dicts(content, "meshes") for one in _dicts(mesh, "primitives")]
    if any(one.get("mode", 4) in _STRIPS for one in primitives):
        raise refuse("has strips or fans of triangles", "triangles", "Export it as triangles")
    if any("skin" in node for node in _dicts(content, "nodes")):
        raise refuse("is bent by a skin (bones)", "a mesh as it is", "Apply the armature, and export it again")
    bent = [*_dicts(content, "nodes"), *_dicts(content, "meshes")]
    if any(weight for one in bent for weight in one.get("weights", ())):
        raise refuse("is bent by morph targets", "a mesh as it is", "Apply the shape keys, and export it again")


def _dicts(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    values = content.get(key, ())
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []
