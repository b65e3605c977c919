"""Head models by name."""

from __future__ import annotations

from pathlib import Path

from datagen.common.errors import InputError, ManifestError
from datagen.heads.base import HeadModel

HEAD_NAMES = ("anny", "ict", "flame")
WHAT_GOES_WHERE = {
    "ict": "the folder that contains ict_facekit/ict_facekit.npz",
    "flame": "a FLAME model file (.npz or the official .pkl), or the folder that holds one",
}


def load_head(name: str, root: Path | None = None) -> HeadModel:
    """Load a head model.

    Parameters
    ----------
    name : str
        ``anny`` (embedded, needs no files), ``ict`` or ``flame``.
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
    if name not in HEAD_NAMES:
        raise ManifestError(
            f"there is no head model {name!r}", f"one of {', '.join(HEAD_NAMES)}", "Choose one of them in the manifest"
        )
    # Each model pulls in heavy packages of its own.
    if name == "anny":
        from datagen.heads.anny import load_anny

        return load_anny()
    if root is None:
        raise InputError(
            f"the head model {name} is not shipped and no folder was given",
            WHAT_GOES_WHERE[name],
            "Name it as the head's root; docs/heads.md says where the files come from",
        )
    if name == "ict":
        from datagen.heads.ict import load_ict

        return load_ict(Path(root))
    from datagen.heads.flame import load_flame

    return load_flame(Path(root))
