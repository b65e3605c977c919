"""What is ours on a disk: a file that a record of ours names with its digest, and nothing else.

Folders that a command writes hold a hidden listing of their files, :data:`LISTING`. Only what a listing (or another
record of ours) names, with the bytes it names, is ever removed or replaced; anything else is a stranger, and whoever
would have to remove it refuses instead. A listing is written before the files it names: what a kill leaves is ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from datagen.common.digests import FileDigest, canonical_json, digest_file
from datagen.common.documents import parse_json
from datagen.common.errors import StorageError

LISTING = ".canonface-files.json"
_LISTING_BYTES = 256 << 20
_FORMAT = "canonface-files"
_AT_ONCE = 8
_SHOWN = 3

# A file may have several digests: while it is replaced, the old bytes and the new are ours.
Owned = Mapping[str, tuple[FileDigest, ...]]


def listed(folder: Path) -> dict[str, tuple[FileDigest, ...]] | None:
    """Return the files that a folder's listing names, by their path in the folder; None if it has no listing of ours.

    Raises
    ------
    OSError
        If there is one that cannot be read.
    """
    path = folder / LISTING
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _LISTING_BYTES:
        return None
    data = path.read_bytes()
    try:
        files = {
            str(name): tuple(FileDigest(str(d["sha256"]), int(d["bytes"])) for d in digests)
            for name, digests in parse_json(data)["files"].items()
        }
        ours = all(map(_inside, files)) and listing_bytes(files) == data
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return files if ours else None


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and str(path) == name and name not in {"", "."}


def listing_bytes(files: Owned) -> bytes:
    """Return the one text of a listing."""
    named = {name: [{"bytes": d.bytes, "sha256": d.sha256} for d in digests] for name, digests in files.items()}
    return (canonical_json({"format": _FORMAT, "version": 1, "files": named}) + "\n").encode()


def digests_of(folder: Path) -> dict[str, tuple[FileDigest, ...]]:
    """Digest every file of a folder but its listing.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    paths = [path for path in walk(folder) if path != folder / LISTING]
    with ThreadPoolExecutor(_AT_ONCE, "digest") as pool:
        digests = pool.map(digest_file, paths)
    return {path.relative_to(folder).as_posix(): (digest,) for path, digest in zip(paths, digests, strict=True)}


def walk(folder: Path) -> Iterator[Path]:
    """Yield all of a tree that is not a folder, links to folders included, without following any; sorted."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path))
        else:
            yield Path(entry.path)


def is_ours(path: Path, digests: Iterable[FileDigest], *, look: bool = True) -> bool:
    """Whether nothing is at a path, or a plain file with one of the digests.

    Parameters
    ----------
    look : bool
        Whether its bytes are read; otherwise its length decides, which is quick and proves nothing.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    try:
        if path.is_symlink() or not path.is_file():
            return not os.path.lexists(path)
        fitting = [digest for digest in digests if digest.bytes == path.stat().st_size]
        return bool(fitting) and (not look or digest_file(path) in fitting)
    except FileNotFoundError:  # removed since by another process
        return True


def strangers(
    folder: Path, names: Iterable[str] | None = None, owned: Owned | None = None, *, look: bool = True
) -> list[Path]:
    """Return what lies in a folder and is not ours.

    Parameters
    ----------
    names : iterable of str, optional
        Paths in the folder that are wanted for something else; all of the tree by default.
    owned : mapping, optional
        What is ours besides what the listing names.
    look : bool
        As for :func:`is_ours`.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    if not os.path.lexists(folder):
        return []
    if not folder.is_dir():
        return [folder]
    listing = listed(folder)
    ours = {**(listing or {})}
    for name, digests in (owned or {}).items():
        ours[name] = (*ours.get(name, ()), *digests)
    paths = walk(folder) if names is None else (folder / name for name in (LISTING, *names))
    found = []
    for path in paths:
        if path == folder / LISTING:
            fine = listing is not None or not os.path.lexists(path)
        else:
            fine = is_ours(path, ours.get(path.relative_to(folder).as_posix(), ()), look=look)
        if not fine:
            found.append(path)
    return found


def refuse_strangers(found: Iterable[Path], fix: str = "Move it away, or choose another output") -> None:
    """Raise for files that are in the way and are not ours.

    Raises
    ------
    StorageError
        If there are any.
    """
    paths = [str(path) for path in found]
    if paths:
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        raise StorageError(
            f"{', '.join(paths[:_SHOWN])}{more}: in the way, and not what a record of this program names",
            "a place with nothing in it but what this program wrote, unchanged",
            f"{fix}; remove it if it is ours and was damaged. Nothing of it was touched",
        )


def check_output_file(path: Path, *, overwrite: bool) -> None:
    """Refuse to write a single file over another.

    Parameters
    ----------
    overwrite : bool
        Whether the user said that the file may be replaced. A file inside a folder of ours may not even so.

    Raises
    ------
    StorageError
        If something is there.
    """
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        raise StorageError(f"{path} is a folder", "the name of a file", "Choose another --out")
    if not path.is_symlink() and not path.is_file():
        raise StorageError(f"{path} is no regular file", "the name of a file", "Choose another --out")
    kept = _kept_in(path)
    if kept is not None:
        raise StorageError(
            f"{path} exists, and belongs to what this program keeps in {kept}",
            "a place of its own for the file",
            "Choose another --out",
        )
    if not overwrite:
        raise StorageError(
            f"{path} exists", "a new name", "Choose another --out, or pass --overwrite to have this file replaced"
        )


def _kept_in(path: Path) -> Path | None:
    """Return the folder around a file that is a dataset (or anybody's Zarr), a build, or has a record of the file."""
    around = path.parent.resolve()
    if (around / "record.json").exists():
        return around
    for folder in (around, *around.parents):
        named = listed(folder) or {}
        inside = (around / path.name).relative_to(folder).as_posix()
        if (folder / "zarr.json").exists() or "manifest.json" in named or inside in named:
            return folder
    return None


def remove_ours(folder: Path, owned: Owned | None = None, *, last: Iterable[str] = (LISTING,)) -> None:
    """Remove what is ours in a folder, then the folders that are empty, itself among them. Links are not followed.

    Parameters
    ----------
    owned : mapping, optional
        What is ours; by default what the folder's listing names.
    last : iterable of str
        The records that say so: they go last, and only if nothing they name is left.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    listing = listed(folder)
    ours = (listing or {}) if owned is None else owned
    proofs = [folder / name for name in last if (listing is not None if name == LISTING else name in ours)]
    for name, digests in ours.items():
        path = folder / name
        # Beyond a link lies what is not in this folder.
        if path not in proofs and path.parent.resolve().is_relative_to(folder.resolve()) and is_ours(path, digests):
            path.unlink(missing_ok=True)
    if not any(os.path.lexists(folder / name) for name in ours if folder / name not in proofs):
        for path in proofs:
            if path.name == LISTING or is_ours(path, ours[path.name]):
                path.unlink(missing_ok=True)
    folders = [Path(place) for place, _, _ in os.walk(folder)]
    for place in reversed(folders):
        if not any(place.iterdir()):
            place.rmdir()
