"""A folder that a dataset is exported into: claimed first, filled part by part, each whole or not at all.

``export.json`` says what the folder holds. It is there from the first moment, and says ``finished`` at the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.common.digests import canonical_json
from datagen.common.documents import read_json
from datagen.common.errors import DatasetError
from datagen.common.files import DISK_ERRORS, is_temporary, staged_folder, storage_errors, write_owned_bytes
from datagen.common.ownership import LISTING as OWN_LISTING
from datagen.common.ownership import listed, refuse_strangers, strangers

LISTING = "export.json"


@dataclass(frozen=True)
class ExportPart:
    """A folder of an export that appears under its name only when it is whole.

    Attributes
    ----------
    name : str
        Relative to the export, such as ``train/anna/smile``.
    write : callable
        Writes its files into the folder it is given.
    weight : int
        How much of the work it is.
    """

    name: str
    write: Callable[[Path], None]
    weight: int


def claim_export(out: Path, head: Mapping[str, Any]) -> None:
    """Begin or continue an export.

    Parameters
    ----------
    head : mapping
        What makes it this export and no other: dataset, kind, version, settings.

    Raises
    ------
    DatasetError
        If the folder holds another export, or other files.
    """
    listing = out / LISTING
    if listing.is_file():
        try:
            found = read_json(listing)
        except ValueError:
            found = {}
        if not isinstance(found, dict) or {key: found.get(key) for key in head} != head:
            raise DatasetError(
                f"{out} holds the export of another dataset, or one with other settings",
                "an empty folder, or this export unfinished",
                "Choose another --out",
            )
        return
    strange = sorted(path.name for path in out.iterdir() if not _ours(path)) if out.is_dir() else []
    if strange:
        raise DatasetError(
            f"{out} holds {strange[0]}, which is not part of an export", "an empty folder", "Choose another --out"
        )
    write_owned_bytes(listing, export_text({**head, "finished": False}))


def _ours(path: Path) -> bool:
    """Whether it is what a kill left before the listing was there."""
    return path.name == OWN_LISTING or is_temporary(path.name)


def finish_export(out: Path, head: Mapping[str, Any], contents: Mapping[str, Any]) -> dict[str, Any]:
    """Write what the finished export holds, and return it."""
    content = {**head, "finished": True, **contents}
    write_owned_bytes(out / LISTING, export_text(content))
    return content


def export_text(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON document of an export."""
    return (canonical_json(dict(content)) + "\n").encode()


def write_export(
    out: Path, head: Mapping[str, Any], parts: Iterable[ExportPart], on_part: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Write an export made of folders; run again after an interruption, it continues with the next.

    Parameters
    ----------
    out : Path
        Made if missing.
    on_part : callable, optional
        Called with the weight of each part, for progress.

    Returns
    -------
    dict
        What ``export.json`` says: ``files`` has the length and SHA-256 of each.

    Raises
    ------
    DatasetError
        If ``out`` holds another export or other files.
    StorageError
        If something that is not ours is in the way, or the disk refuses.
    """
    files: dict[str, dict[str, Any]] = {}
    planned = list(parts)
    with storage_errors(f"exporting to {out}", only=DISK_ERRORS):
        refuse_strangers(strangers(out, [LISTING]))
        # A quick look at all of them before the first is written; each is read before it is replaced.
        refuse_strangers(path for part in planned for path in strangers(out / part.name, look=False))
        claim_export(out, head)
        for part in planned:
            folder = out / part.name
            if not _is_whole(folder):
                with staged_folder(folder, replace=True) as staging:
                    part.write(staging)
            for name, digests in (listed(folder) or {}).items():
                files[f"{part.name}/{name}"] = {"bytes": digests[0].bytes, "sha256": digests[0].sha256}
            if on_part is not None:
                on_part(part.weight)
        return finish_export(out, head, {"files": dict(sorted(files.items()))})


def _is_whole(folder: Path) -> bool:
    """Whether a part is there as it was written: it was renamed into place as a whole, with its listing."""
    named = listed(folder) if folder.is_dir() else None
    return bool(named) and not strangers(folder) and all((folder / name).is_file() for name in named or ())
