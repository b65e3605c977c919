"""Importers by name: a new one is a file of this folder that finds captures, and an entry of :data:`IMPORTERS`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from datagen.common.errors import InputError

if TYPE_CHECKING:
    from datagen.sources.imports.imported import Found, ImportSettings


@dataclass(frozen=True)
class Importer:
    """What is known of a layout before anything of it is read.

    Attributes
    ----------
    place : str
        ``module:name`` of a function of the root and the settings that returns what it found.
    title : str
        What it reads, as help says it.
    takes : frozenset of str
        Names of the settings that mean something to it; any other that is given is refused.
    licence, citation : str or None
        Of a public set; None for layouts in which anyone's captures may lie.
    """

    place: str
    title: str
    takes: frozenset[str]
    licence: str | None = None
    citation: str | None = None

    def find(self, root: Path, settings: ImportSettings) -> Sequence[Found]:
        """Return the captures below a folder, ordered by subject and sequence.

        Raises
        ------
        InputError
            If there are none: with what was looked for.
        """
        found: Sequence[Found] = resolve_name(self.place)(root, settings)
        return found


# Axes that may come out of the faces of meshes that came without pictures.
FACINGS = ("+z", "-z", "+x", "-x")
# Of cameras, by whose convention.
AXES = ("opengl", "opencv")
# What simulated pictures are drawn with.
_DRAWN = frozenset({"unit", "cameras", "image_size", "facing"})
# Whose captures these are, and how long their unit is, only their owner knows.
_ANYONES = frozenset({"unit", "metres_per_unit", "scan", "subject", "licence", "citation"})

_NERSEMBLE = (
    "Kirschstein et al., NeRSemble: Multi-view Radiance Field Reconstruction of Human Heads, ACM Transactions on "
    "Graphics 42(4), 2023"
)

IMPORTERS: dict[str, Importer] = {
    "colmap": Importer(
        "datagen.sources.imports.colmap:find_workspaces",
        "COLMAP workspaces, one instant each",
        _ANYONES | {"images"},
    ),
    "nerfstudio": Importer(
        "datagen.sources.imports.transforms:find_workspaces",
        "transforms.json of nerfstudio and instant-ngp, one instant each",
        _ANYONES | {"original_world", "depth_unit"},
    ),
    "metashape": Importer(
        "datagen.sources.imports.metashape:find_workspaces",
        "cameras.xml of Metashape, one instant each",
        _ANYONES | {"images"},
    ),
    "realitycapture": Importer(
        "datagen.sources.imports.realitycapture:find_workspaces",
        "RealityCapture's .xmp or table of cameras, one instant each",
        _ANYONES | {"images"},
    ),
    "facescape": Importer(
        "datagen.sources.imports.facescape:find_expressions",
        "FaceScape, multi-view",
        frozenset({"metres_per_unit", "scales", "pixel_center"}),
        "FaceScape licence agreement (non-commercial research)",
        "Yang et al., FaceScape: a Large-scale High Quality 3D Face Dataset and Detailed Riggable 3D Face Prediction, "
        "CVPR 2020",
    ),
    "facescape-tu": Importer(
        "datagen.sources.imports.facescape_tu:find_expressions",
        "FaceScape, registered models (meshes only)",
        _DRAWN | {"landmarks"},
        "FaceScape licence agreement (non-commercial research)",
        "Yang et al., FaceScape: a Large-scale High Quality 3D Face Dataset and Detailed Riggable 3D Face Prediction, "
        "CVPR 2020",
    ),
    "ava256": Importer(
        "datagen.sources.imports.ava:find_segments",
        "Ava-256, decoder assets as they are downloaded",
        frozenset({"fps", "pixel_center", "distorted", "topology", "landmarks"}),
        "CC-BY-NC-4.0 (Ava-256)",
        "Martinez et al., Codec Avatar Studio: Paired Human Captures for Complete, Driveable, and Generalizable "
        "Avatars, NeurIPS 2024",
    ),
    "famos": Importer(
        "datagen.sources.imports.famos:find_sequences",
        "FaMoS, as TEMPEH's data are downloaded",
        frozenset({"fps", "pixel_center"}),
        "FaMoS (TEMPEH) licence (non-commercial research)",
        "Bolkart et al., Instant Multi-View Head Capture through Learnable Registration, CVPR 2023",
    ),
    "vocaset": Importer(
        "datagen.sources.imports.vocaset:find_sentences",
        "VOCASET (meshes only)",
        _DRAWN | {"topology", "fps"},
        "VOCASET licence (non-commercial research)",
        "Cudeiro et al., Capture, Learning, and Synthesis of 3D Speaking Styles, CVPR 2019",
    ),
    "coma": Importer(
        "datagen.sources.imports.coma:find_expressions",
        "CoMA (meshes only)",
        _DRAWN | {"fps"},
        "CoMA licence (non-commercial research)",
        "Ranjan et al., Generating 3D Faces using Convolutional Mesh Autoencoders, ECCV 2018",
    ),
    "vhap": Importer(
        "datagen.sources.imports.vhap:find_exports",
        "VHAP's exports, FLAME as parameters or meshes",
        frozenset({"subject", "axes", "fps", "pixel_center", "licence", "citation"}),
    ),
    "nersemble": Importer(
        "datagen.sources.imports.nersemble:find_sequences",
        "NeRSemble 2 and its benchmark: videos, clouds, tracked FLAME",
        frozenset({"unit", "fps", "pixel_center", "tracking"}),
        "NeRSemble terms of use (non-commercial research)",
        _NERSEMBLE,
    ),
    "nersemble-v1": Importer(
        "datagen.sources.imports.nersemble_v1:find_sequences",
        "NeRSemble 1: pictures and depth maps",
        frozenset({"unit", "fps", "pixel_center"}),
        "NeRSemble terms of use (non-commercial research)",
        _NERSEMBLE,
    ),
    "multiface": Importer(
        "datagen.sources.imports.multiface:find_segments",
        "Multiface, as it is downloaded",
        frozenset({"fps", "pixel_center", "distorted", "landmarks"}),
        "CC-BY-NC-4.0 (Multiface)",
        "Wuu et al., Multiface: A Dataset for Neural Face Rendering, arXiv:2207.11243, 2022",
    ),
}


def importer_of(name: str, settings: ImportSettings) -> Importer:
    """Return an importer by name, after a look at what it was given.

    Raises
    ------
    InputError
        If there is none of this name, or it does not take one of the settings.
    """
    importer = IMPORTERS.get(name)
    if importer is None:
        raise InputError(f"there is no importer {name!r}", f"one of {', '.join(IMPORTERS)}", "Check the name")
    given = {key for key, value in vars(settings).items() if value is not None and value is not False}
    others = sorted(given - importer.takes)
    if others:
        options = ", ".join(f"--{other.replace('_', '-')}" for other in others)
        raise InputError(
            f"{options} given for {name}, which does not take it",
            ", ".join(f"--{one.replace('_', '-')}" for one in sorted(importer.takes)),
            "Leave it out",
        )
    if settings.unit is not None and settings.metres_per_unit is not None:
        raise InputError("--unit and --metres-per-unit exclude each other", "one of them", "Leave one of them out")
    return importer
