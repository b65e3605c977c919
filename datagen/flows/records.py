"""The record that says what a result is made of, and with which bytes; and results read when needed.

A record is written before the files it names, and removed after them: whatever a kill leaves in a result's folder, its
record says what of it is ours. A result is finished when all that its record names is there.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Generic, TypeVar

from datagen.common.digests import FileDigest, canonical_json, digest_bytes, digest_file, sha256_text
from datagen.common.documents import own_json, read_json
from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes, is_temporary
from datagen.common.ownership import Owned, refuse_strangers, remove_ours, strangers
from datagen.flows.seen import Seen
from datagen.flows.state_index import StateIndex, clock_s, look, open_index, read_and_remember
from datagen.flows.views import Views
from datagen.heads.base import HeadTemplate
from datagen.layout import PERSON_FOLDER, RECORD, BuildLayout
from datagen.sources.frame import SequenceInfo


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
    own : mapping of key to value
        Settings of its own that a frame was made with.
    """

    content_key: str
    input_digest: str
    status: str
    cameras: tuple[str, ...]
    files: Mapping[str, FileDigest]
    views: Views = field(default_factory=Views)
    own: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON data."""
        files = {name: {"bytes": digest.bytes, "sha256": digest.sha256} for name, digest in self.files.items()}
        own = {"own_settings": dict(self.own)} if self.own else {}
        return {
            **own,
            "cameras": list(self.cameras),
            "content_key": self.content_key,
            "files": files,
            "input_digest": self.input_digest,
            "status": self.status,
            "views": asdict(self.views),
        }


def store_result(
    folder: Path, record: ResultRecord, contents: Mapping[str, bytes], *, root: Path | None = None
) -> None:
    """Write a result: its record first, then its files, in their order, each atomically.

    Parameters
    ----------
    record : ResultRecord
        Its ``files`` are filled in here.
    contents : mapping of file name to bytes
    root : Path, optional
        The build folder whose index is told that the result is whole.

    Raises
    ------
    StorageError
        If something that is not ours is in the way, or the disk refuses.
    """
    digests = {name: digest_bytes(data) for name, data in contents.items()}
    check_result_folder(folder, contents, digests)
    clear_folder(folder)
    stored = replace(record, files=digests)
    write_result_record(folder, stored)
    for name, data in contents.items():
        atomic_write_bytes(folder / name, data)
    if root is not None:
        _remember(root, folder, stored, whole=True, read_s=None)


def check_result_folder(
    folder: Path, names: Iterable[str], coming: Mapping[str, FileDigest] | None = None, *, look: bool = True
) -> None:
    """Refuse a folder in which one of these files, or the record, is there and not ours.

    Parameters
    ----------
    coming : mapping, optional
        What will be written: the same bytes may be there.
    look : bool
        As for :func:`datagen.common.ownership.is_ours`.

    Raises
    ------
    StorageError
        Naming them.
    """
    refuse_strangers(result_strangers(folder, names, coming, look=look))


def result_strangers(
    folder: Path, names: Iterable[str], coming: Mapping[str, FileDigest] | None = None, *, look: bool = True
) -> list[Path]:
    """Return which of these files of a result's folder, and of its record, are there and not ours."""
    ours = dict(_owned(folder))
    for name, digest in (coming or {}).items():
        ours[name] = (*ours.get(name, ()), digest)
    return strangers(folder, (*names, RECORD), ours, look=look)


def _owned(folder: Path) -> Owned:
    """Return what a result's record names, itself included; nothing if it is not one that was written here."""
    record = _read_record(folder)
    if record is None:
        return {}
    text = _text(record)
    own = digest_bytes(text)
    return {**{name: (digest,) for name, digest in record.files.items()}, RECORD: (own,)}


def _text(record: ResultRecord) -> bytes:
    return (canonical_json(record.to_json()) + "\n").encode()


def write_result_record(folder: Path, record: ResultRecord) -> None:
    """Write ``record.json`` atomically."""
    atomic_write_bytes(folder / RECORD, _text(record))


def read_result_record(folder: Path) -> ResultRecord | None:
    """Read ``record.json``; None if it is missing or broken or one of its files is missing: "not finished"."""
    record = _read_record(folder)
    return record if record is not None and all((folder / name).is_file() for name in record.files) else None


def read_results(layout: BuildLayout, info: SequenceInfo) -> Iterator[ResultRecord | None]:
    """Read the records of a sequence's frames, in their order, unless the build's index knows them."""
    contents = SequenceResults(layout, info).contents()
    return (None if content is None else record_of(content) for content in contents)


NOTE = ""  # name of what is made of all results of a sequence


class SequenceResults:
    """The results of a sequence's frames, of which more can be known than each by itself."""

    def __init__(self, layout: BuildLayout, info: SequenceInfo) -> None:
        self._root, self._folder = layout.root, layout.sequence_warps(info.key)
        self._group = _group(self._root, self._folder)
        self._names = [layout.frame_name(frame) for frame in info.frames]

    @cached_property
    def _looked(self) -> tuple[list[str | None], Seen | None]:
        """What is known of each, None where it has to be read; and all of their files, if that is known of all."""
        index = open_index(self._root)
        if index is None:
            return [None] * len(self._names), None
        known = None if index.settled else index.known(self._group, self._names)
        if known is None:
            return [
                None if text is None else _text_of(text) for text in index.all_holding(self._group, self._names)
            ], None
        held, files = index.as_one(known)
        return [_text_of(seen.told) if holds else None for seen, holds in zip(known, held, strict=True)], files

    def note(self, index: StateIndex, group: str, told: str) -> None:
        """Have the build's index remember what was made of :meth:`contents`, all of which was yielded."""
        texts, files = self._looked
        if files is None:
            known = index.known(self._group, self._names)
            # One that was made again meanwhile may be another.
            if known is None or [_text_of(seen.told) for seen in known] != texts:
                return
            files = index.as_one(known)[1]
        if files is not None:
            index.note_of(group, NOTE, told, files)

    def noted(self, index: StateIndex, seen: Seen) -> str:
        """Return what :meth:`note` was told, of which the index knows that no file of these results changed."""
        return index.told_of(seen, self._group, self._names)

    def contents(self) -> Iterator[Mapping[str, Any] | None]:
        """Yield each record as plain JSON data, None if it is missing: making objects of them takes longer."""
        texts = self._looked[0]
        # In one go: a call for each costs as much as reading it.
        known = iter(own_json(f"[{','.join(text for text in texts if text is not None)}]"))
        for place, (name, text) in enumerate(zip(self._names, texts, strict=True)):
            if text is not None:
                yield next(known)
                continue
            record = known_result(self._root, self._folder / name)
            if record is not None:
                texts[place] = _plain_text(record)
            yield None if record is None else record.to_json()


def digest_of_keys(info: SequenceInfo, contents: Iterable[Mapping[str, Any] | None]) -> str:
    """Return a digest of the content keys of a sequence's frames, of which :class:`SequenceResults` tells."""
    known = zip(info.frames, contents, strict=True)
    return sha256_text("".join([f"{frame} {content['content_key'] if content else ''}\n" for frame, content in known]))


def known_result(root: Path, folder: Path) -> ResultRecord | None:
    """Read a record as :func:`read_result_record`, unless the build's index knows it."""
    if open_index(root) is None:
        return read_result_record(folder)
    seen = look(root, *_place(root, folder))
    if seen is not None:
        return _told(seen)[1]
    began_s = clock_s()
    record = read_result_record(folder)
    if record is not None:
        _remember(root, folder, record, whole=False, read_s=began_s)
    return record


def _group(root: Path, folder: Path) -> str:
    return f"results/{str(folder).removeprefix(f'{root}{os.sep}')}"


_WHOLE, _THERE = "whole", "there"


def _place(root: Path, folder: Path) -> tuple[str, str]:
    above, _, name = str(folder).rpartition(os.sep)
    within = above.removeprefix(f"{root}{os.sep}")
    # Whoever asks for a sequence's person asks for none of its frames.
    return f"persons/{within}" if name == PERSON_FOLDER else f"results/{within}", name


def _text_of(told: str) -> str:
    return told.partition(" ")[2]  # what is known is JSON after a word


def _told(seen: Seen) -> tuple[str, ResultRecord]:
    known, _, text = seen.told.partition(" ")
    return known, record_of(json.loads(text))


def _remember(root: Path, folder: Path, record: ResultRecord, *, whole: bool, read_s: float | None) -> None:
    paths = [f"{folder}{os.sep}{name}" for name in (RECORD, *record.files)]
    told = f"{_WHOLE if whole else _THERE} {_plain_text(record)}"
    read_and_remember(root, *_place(root, folder), paths, told, read_s=read_s)


def _plain_text(record: ResultRecord) -> str:
    return json.dumps(record.to_json(), separators=(",", ":"))


def _read_record(folder: Path) -> ResultRecord | None:
    try:
        return record_of(read_json(folder / RECORD))
    except (
        FileNotFoundError,
        NotADirectoryError,
        IsADirectoryError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
    ):
        return None


def record_of(content: Mapping[str, Any]) -> ResultRecord:
    """Read what :meth:`ResultRecord.to_json` gave; an error of the kinds that such reading has for anything else."""
    return ResultRecord(
        content_key=str(content["content_key"]),
        input_digest=str(content["input_digest"]),
        status=str(content["status"]),
        cameras=tuple(str(name) for name in content["cameras"]),
        files={name: FileDigest(str(f["sha256"]), int(f["bytes"])) for name, f in content["files"].items()},
        views=Views.from_json(content["views"]) if "views" in content else Views(),
        own=dict(content.get("own_settings", {})),
    )


def finished_record(folder: Path, key: str, root: Path | None = None) -> ResultRecord | None:
    """Return the record of a result that is finished with this content key and whose files are whole, else None.

    Parameters
    ----------
    root : Path, optional
        The build folder: what its index knows to be whole is not read again.
    """
    if root is not None:
        seen = look(root, *_place(root, folder))
        known, told = _told(seen) if seen is not None else ("", None)
        if told is not None and known == _WHOLE:
            return told if told.content_key == key else None
    began_s = clock_s()
    record = read_result_record(folder)
    if record is None or record.content_key != key:
        return None
    try:
        whole = all(digest_file(folder / name) == digest for name, digest in record.files.items())
    except FileNotFoundError:
        return None
    if whole and root is not None:
        _remember(root, folder, record, whole=True, read_s=began_s)
    return record if whole else None


def known_finished(folder: Path, key: str, root: Path) -> bool | None:
    """Whether a result is finished with this content key, as the build's index knows; None if it does not.

    Of a million frames, making records of what is known would take most of the time.
    """
    seen = look(root, *_place(root, folder))
    known, _, text = seen.told.partition(" ") if seen is not None else ("", "", "")
    # Quotes inside of names would be escaped there.
    return f'"content_key":"{key}"' in text if known == _WHOLE else None


def clear_folder(folder: Path) -> None:
    """Remove a result: what its record names, with those bytes, and its record last; then the folder if it is empty.

    What a kill left half-written goes too.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    if folder.is_dir() and not folder.is_symlink():
        for path in list(folder.iterdir()):
            if is_temporary(path.name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)
        remove_ours(folder, _owned(folder), last=(RECORD,))


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
