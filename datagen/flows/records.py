"""The record that says a result is finished, made of what, and with which bytes; and results read when needed."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Generic, TypeVar

from datagen.common.digests import FileDigest, canonical_json, digest_file, sha256_text
from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes
from datagen.flows.views import Views
from datagen.heads.base import HeadTemplate
from datagen.layout import RECORD


def content_key(inputs: Mapping[str, Any]) -> str:
    """Digest of everything that decides the bytes of a result; ``inputs`` is plain JSON data."""
    return sha256_text(canonical_json(inputs))


@dataclass(frozen=True)
class ResultRecord:
    """What is known of one finished result (a frame, a person or a bridge) without opening it.

    Attributes
    ----------
    content_key : str
        Digest of inputs, settings, template and algorithm version.
    input_digest : str
        Of a frame ``FolderCaptures.input_digest`` at that time, empty if the input could not be read; of a bridge the
        topology's; of a person empty.
    status : str
        The verdict: ``pass``, ``review`` or ``fail``; of a person ``learnt`` or ``none``.
    cameras : tuple of str
        Cameras that give a sample of a frame; empty where there is no warp of a surface to render.
    files : mapping of file name to FileDigest
    views : Views
        Of a frame: why the other cameras give none.
    """

    content_key: str
    input_digest: str
    status: str
    cameras: tuple[str, ...]
    files: Mapping[str, FileDigest]
    views: Views = field(default_factory=Views)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON data."""
        files = {name: {"bytes": digest.bytes, "sha256": digest.sha256} for name, digest in self.files.items()}
        return {
            "cameras": list(self.cameras),
            "content_key": self.content_key,
            "files": files,
            "input_digest": self.input_digest,
            "status": self.status,
            "views": asdict(self.views),
        }


def write_result_record(folder: Path, record: ResultRecord) -> None:
    """Write ``record.json`` atomically."""
    atomic_write_bytes(folder / RECORD, (canonical_json(record.to_json()) + "\n").encode())


def read_result_record(folder: Path) -> ResultRecord | None:
    """Read ``record.json``; None if it is missing or broken, which both mean "not finished"."""
    try:
        content = read_json(folder / RECORD)
        return ResultRecord(
            content_key=str(content["content_key"]),
            input_digest=str(content["input_digest"]),
            status=str(content["status"]),
            cameras=tuple(str(name) for name in content["cameras"]),
            files={name: FileDigest(str(f["sha256"]), int(f["bytes"])) for name, f in content["files"].items()},
            views=Views.from_json(content["views"]) if "views" in content else Views(),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def finished_record(folder: Path, key: str) -> ResultRecord | None:
    """Return the record of a result that is finished with this content key and whose files are whole, else None."""
    record = read_result_record(folder)
    if record is None or record.content_key != key:
        return None
    try:
        whole = all(digest_file(folder / name) == digest for name, digest in record.files.items())
    except FileNotFoundError:
        return None
    return record if whole else None


def clear_folder(folder: Path) -> None:
    """Remove everything in a result's folder, its record first, so that nothing half-new ever looks finished."""
    if not folder.is_dir():
        return
    (folder / RECORD).unlink(missing_ok=True)
    for path in sorted(folder.iterdir()):
        path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a result with its folder, its record first."""
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder)


def digest_files(folder: Path, names: Iterable[str]) -> dict[str, FileDigest]:
    """Digest the named files of a folder."""
    return {name: digest_file(folder / name) for name in names}


T = TypeVar("T")
_LOCK = Lock()


@dataclass(frozen=True)
class Stored(Generic[T]):
    """A result named by its folder and its content key; small, so that it travels to any worker.

    Attributes
    ----------
    key : str
        Content key.
    """

    folder: Path
    key: str

    what: ClassVar[str]

    @staticmethod
    @abstractmethod
    def read(folder: Path, template: HeadTemplate) -> Any:
        """Read it from its folder."""

    @property
    def finished(self) -> bool:
        """Whether it is whole on disk."""
        return finished_record(self.folder, self.key) is not None

    def open(self, template: HeadTemplate) -> T:
        """Read it, once per process.

        Raises
        ------
        datagen.common.errors.InputError
            If it is missing or broken.
        """
        with _LOCK:
            opened: T = _opened(self, template)
        return opened


@lru_cache(maxsize=24)
def _opened(stored: Stored[Any], template: HeadTemplate) -> Any:
    if not stored.finished:
        raise InputError(
            f"the {stored.what} {stored.folder} is not whole", "its record and files", "Run the same command again"
        )
    return stored.read(stored.folder, template)
