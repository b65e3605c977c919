"""Which files are a dataset's: those that its root document and its records name, each with its digest.

What is removed or replaced by `push`, `merge` and `subset` is named here, or is byte for byte what is written in its
place. All else at such a place belongs to someone else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datagen.common.digests import FileDigest, canonical_json, digest_bytes, sha256_text
from datagen.common.documents import parse_json
from datagen.common.errors import CorruptDatasetError, DatasetError
from datagen.shards.dataset import Dataset
from datagen.shards.ledger import read_record, record_key, unit_files
from datagen.shards.metadata import ROOT_METADATA, content_digest, metadata_bytes, plan_documents

JOURNAL = ".push.json"
_JOURNAL_FORMAT = "canonface-push"
# As datagen.common.files names what it writes before it gets its own name.
_UNFINISHED = re.compile(r"((?:.*/)?)\.([^/]+)\.tmp-\d+-[0-9a-f]{8}", re.DOTALL)


@dataclass(frozen=True)
class Contents:
    """Every file of a finished dataset.

    Attributes
    ----------
    uuid : str
    texts : mapping of key to bytes
        Root document, metadata and records.
    shards : mapping of key to FileDigest
        The files that the records name.
    """

    uuid: str
    texts: Mapping[str, bytes]
    shards: Mapping[str, FileDigest]

    def digests(self) -> dict[str, FileDigest]:
        """Return the digest of every file."""
        return {**{key: digest_bytes(data) for key, data in self.texts.items()}, **self.shards}


def contents(dataset: Dataset) -> Contents:
    """Return what a dataset consists of, as its root document and its records say; shard files are not read.

    Raises
    ------
    CorruptDatasetError
        If a record is damaged, missing, or not one of this root document.
    DatasetError
        If the dataset is no longer the one that was opened.
    """
    plan, shards = dataset.plan, dict[str, FileDigest]()
    texts = plan_documents(plan)
    for unit in plan.units:
        record = read_record(dataset.store, unit)
        # The names of a record are text from a file: only those of this very shard are paths.
        if set(record.files) != set(unit_files(unit, plan.arrays(unit.group))) or record.name != unit.name:
            raise _other_records(dataset, record_key(unit))
        shards.update(record.files)
        texts[record_key(unit)] = metadata_bytes(record.to_json())
    if content_digest(plan, {key: digest.sha256 for key, digest in shards.items()}) != dataset.attrs["content_digest"]:
        raise _other_records(dataset, "its records")
    root = dataset.store.read(ROOT_METADATA)
    try:
        same = parse_json(root)["attributes"] == dict(dataset.attrs)
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise DatasetError(
            f"{dataset.url} changed while it was read", "a dataset nobody writes", "Run the same command again"
        )
    return Contents(dataset.uuid, {**texts, ROOT_METADATA: root}, shards)


def _other_records(dataset: Dataset, what: str) -> CorruptDatasetError:
    return CorruptDatasetError(
        f"{dataset.url}: {what} and the root document are not of one dataset",
        "the records that were written with it",
        "Build again: damaged shards are rewritten",
    )


@dataclass(frozen=True)
class Journal:
    """What a push that has not ended puts and removes; with it, it can be continued, or replaced.

    Attributes
    ----------
    uuid : str
        Of the dataset that is sent.
    sends, replaces : mapping of key to FileDigest
        Its files, and those of others that were there before and may still be.
    """

    uuid: str
    sends: Mapping[str, FileDigest]
    replaces: Mapping[str, FileDigest]

    def to_bytes(self) -> bytes:
        """Return the text of the journal, which digests itself."""
        content = {
            "format": _JOURNAL_FORMAT,
            "replaces": {key: vars(digest) for key, digest in self.replaces.items()},
            "sends": {key: vars(digest) for key, digest in self.sends.items()},
            "uuid": self.uuid,
        }
        return metadata_bytes({**content, "digest": sha256_text(canonical_json(content))})

    @classmethod
    def from_bytes(cls, data: bytes) -> Journal | None:
        """Read what :meth:`to_bytes` gave; None for anything else."""
        try:
            content = parse_json(data)
            journal = cls(str(content["uuid"]), _digests(content["sends"]), _digests(content["replaces"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return journal if journal.to_bytes() == data else None


def _digests(content: Mapping[str, Any]) -> dict[str, FileDigest]:
    return {key: FileDigest(str(value["sha256"]), int(value["bytes"])) for key, value in content.items()}


def unfinished_of(key: str) -> str | None:
    """Return the key that a killed write was to make, if this is the name of what it left."""
    match = _UNFINISHED.fullmatch(key)
    return match[1] + match[2] if match else None


def is_unfinished(key: str, read: Callable[[], bytes], written: Callable[[str], bytes | None]) -> bool:
    """Whether a file is what a killed write left: by its name, and as the beginning of what is written.

    Parameters
    ----------
    read : function
        Returns the file's bytes.
    written : function of key
        Returns the bytes that are written under a key, None for one that is not.
    """
    final = unfinished_of(key)
    whole = None if final is None else written(final)
    return whole is not None and whole.startswith(read())


def refuse_strangers(url: str, strange: Iterable[str], known: Callable[[str], bool], fix: str) -> None:
    """Refuse a place that holds files of someone else.

    Parameters
    ----------
    strange : iterable of key
    known : function of key
        Whether a file of ours has this key, with other bytes.

    Raises
    ------
    DatasetError
        Naming the first.
    """
    keys = sorted(strange)
    if not keys:
        return
    shown = keys[0].encode("utf-8", "backslashreplace").decode()
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    if known(keys[0]):
        raise DatasetError(
            f"{url} holds {shown}{more}, whose bytes are not those of its record",
            "the bytes that were written, or no such file",
            f"If it is yours, move it away; if it is damaged, remove it; then {fix}",
        )
    raise DatasetError(
        f"{url} holds {shown}{more}, which belongs to no dataset",
        "an empty place, or one with the same dataset and nothing else",
        f"Choose another place, or move it away, then {fix}",
    )
