"""What workspaces of photogrammetry share: where they lie, which file is the scan, how cameras are called."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from datagen.common.errors import InputError
from datagen.common.names import name_problem, require_name
from datagen.geometry.mesh_io import SUFFIXES
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.archives import File

_DEPTH = 2
_SHOWN = 3
TAKE = "take"


def workspaces(
    root: Path, is_one: Callable[[Path], bool], subject: str | None, wanted: str
) -> list[tuple[SequenceKey, Path]]:
    """Return the workspaces at or below a folder, not more than two levels down, each with its names.

    ``<root>/<subject>/<sequence>``, ``<root>/<sequence>`` of the subject that is named, or else of one that is called
    as the folder, and the folder itself. Nothing is looked for inside of one.

    Raises
    ------
    InputError
        If there is none, or a folder's name cannot be that of a subject or a sequence.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", wanted, "Check the path")
    own = subject or root.resolve().name or "subject"
    found = [(path, parts) for path, parts in _folders(root, is_one)]
    if subject is not None and any(len(parts) == _DEPTH for _, parts in found):
        raise InputError(
            f"--subject {subject}, but {root} has a folder for each subject", "one of the two", "Leave --subject out"
        )
    keys = []
    for path, parts in found:
        names = {0: (own, TAKE), 1: (own, *parts), 2: parts}[len(parts)]
        keys.append((SequenceKey(*names), path))
    if not keys:
        raise InputError(f"{root} holds nothing to import, nor do the folders below it", wanted, "Check the path")
    return sorted(keys, key=lambda one: (one[0].subject, one[0].sequence))


def _folders(root: Path, is_one: Callable[[Path], bool]) -> Iterable[tuple[Path, tuple[str, ...]]]:
    level: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    for depth in range(_DEPTH + 1):
        below = []
        for path, parts in level:
            if is_one(path):
                yield path, parts
            elif depth < _DEPTH:
                entries = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
                below += [(path / name, (*parts, name)) for name in entries if not name.startswith(".")]
        level = below


def file_inside(folder: Path, name: str, root: Path, what: str) -> Path:
    """Return a file that a file of ``folder`` names, wherever below ``root`` it lies.

    Raises
    ------
    InputError
        If the name, or a link on its way, leads out of ``root``: names from files open nothing else.
    """
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"{what} names {name!r}, which lies outside of {root}",
            "files below the folder that is imported",
            "Copy them there, or name the folder above",
        )
    return path


def find_scan(
    places: Sequence[Path],
    names: Sequence[str],
    passed_over: Iterable[str],
    wanted: str | None,
    root: Path,
    *,
    depths: bool = False,
) -> tuple[Path | None, tuple[str, ...]]:
    """Return the scan of a workspace, and what is to be said of the choice.

    Parameters
    ----------
    places : sequence of Path
        Folders that are looked into, the first of them being the workspace.
    names : sequence of str
        Files that are taken, the best first; without one of them, the only mesh file of the workspace.
    passed_over : iterable of str
        Mesh files that are never the scan.
    wanted : str or None
        Path below the workspace that was named.
    depths : bool
        Whether there are depth maps, so that there may be no scan.

    Raises
    ------
    InputError
        If there is none without them, or several of which none is the best.
    """
    workspace = places[0]
    if wanted is not None:
        path = file_inside(workspace, wanted, root, "--scan")
        if not path.is_file():
            raise InputError(f"{path} is missing", "the scan that --scan names", "Check --scan")
        return path, ()
    known = [
        file_inside(place, name, root, str(workspace)) for name in names for place in places if (place / name).is_file()
    ]
    if known:
        best, *others = known
        left = [f"{other.relative_to(workspace)} is not used" for other in others]
        return best, (f"the scan is {best.relative_to(workspace)}", *left)
    other = sorted(p for p in workspace.iterdir() if p.name.lower().endswith(SUFFIXES) and p.is_file())
    other = [path for path in other if path.name not in set(passed_over)]
    if len(other) == 1:
        return file_inside(workspace, other[0].name, root, str(workspace)), (f"the scan is {other[0].name}",)
    if not other and depths:
        return None, ("there is no scan: it is fused from the depth maps",)
    listed = f"several meshes ({', '.join(path.name for path in other[:_SHOWN])}, …)" if other else "no scan"
    raise InputError(
        f"{workspace} has {listed}",
        f"a mesh, such as {names[0]}" if names else f"a mesh ({', '.join(SUFFIXES)}) beside transforms.json",
        "Name it: --scan PATH, below that folder" if other else "Reconstruct it, or name it: --scan PATH",
    )


def camera_names(pictures: Sequence[str]) -> Mapping[str, str]:
    """Return a camera's name for each picture, by its path: what tells the pictures apart.

    The file's name without its suffix; where several have the same, that with the folders before it; where all have
    the same, the folders alone.

    Raises
    ------
    InputError
        If two pictures have one name, or it cannot be one.
    """
    stems = {picture: PurePosixPath(picture.replace("\\", "/")) for picture in pictures}
    if len({path.stem for path in stems.values()}) == len(pictures):
        names = {picture: path.stem for picture, path in stems.items()}
    elif len({path.stem for path in stems.values()}) == 1:
        names = {picture: "_".join(path.parent.parts) for picture, path in stems.items()}
    else:
        names = {picture: "_".join(path.with_suffix("").parts) for picture, path in stems.items()}
    for picture, name in names.items():
        if name_problem(name) is not None:
            require_name(name, f"the camera of the picture {picture}")
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise InputError(
            f"two pictures would be of a camera {twice!r}", "a name for each picture", "Rename one of the pictures"
        )
    return names


def whole_frames(
    frames: Sequence[int], pictures: Mapping[str, Mapping[int, File]]
) -> tuple[list[int], list[str], tuple[str, ...]]:
    """Return the frames and cameras that are kept, so that each camera has a picture of each frame, as captures need.

    Cameras that lack more than half of the frames go first, then frames that one of the others lacks.

    Parameters
    ----------
    frames : sequence of int
        Those that have a surface.
    pictures : mapping of camera name to a mapping of frame to a file

    Returns
    -------
    frames : list of int
    cameras : list of str
    remarks : tuple of str
        What was left out.
    """
    seen = {name: [frame for frame in frames if frame in files] for name, files in pictures.items()}
    filled = {name: there for name, there in seen.items() if there}
    most = max(map(len, filled.values()), default=0)
    kept = [name for name, there in filled.items() if 2 * len(there) > most]
    whole = [frame for frame in frames if kept and all(frame in pictures[name] for name in kept)]
    remarks = []
    if len(kept) < len(filled):
        gone = sorted(set(filled) - set(kept))
        remarks.append(f"left out: {len(gone)} cameras, which lack most of the frames: {listed(gone)}")
    if len(whole) < len(frames):
        lost = [str(frame) for frame in frames if frame not in set(whole)]
        remarks.append(
            f"left out: {len(lost)} of {len(frames)} frames, of which a camera has no picture: {listed(lost)}"
        )
    return whole, kept, tuple(remarks)


def mask_remark(masks: Mapping[str, Path]) -> tuple[str, ...]:
    """Return what is to be said of masks, which in these layouts may be of anything that was to be left out."""
    return (f"masks of {len(masks)} cameras are taken for the person's: white on black",) if masks else ()


def listed(names: Sequence[str]) -> str:
    """Return a few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
