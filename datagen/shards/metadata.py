"""The Zarr v3 metadata documents of a dataset, as plain JSON data.

zarr-python makes and checks them; they are written as canonical JSON, so that their bytes depend on the plan alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.documents import parse_json
from datagen.shards.codec import BLOCK_BYTES, CODEC_NAME, COMPRESSION_LEVEL, ChunkCodec
from datagen.shards.plan import DatasetPlan
from datagen.shards.schema import (
    COMPACT,
    FORMAT,
    FORMAT_VERSION,
    FRAMES,
    TEMPLATE,
    ArraySpec,
    arrays_of,
)

PIXEL_CENTER = 0.5
ROOT_METADATA = "zarr.json"
# One name, one length in all arrays of a group: xarray takes no other.
_DIMENSIONS = {
    "H": "row",
    "W": "column",
    "V": "vertex",
    "F": "face",
    "T": "texture",
    "L": "landmark",
    "K": "identity",
    "E": "expression",
    "KB": "identity",
    "EB": "expression",
}


def is_map(spec: ArraySpec) -> bool:
    """Whether each row of an array is a chunk of its own inside the shard: images, and the vertices of a frame."""
    return "H" in spec.shape or spec.own_chunk


def array_metadata(
    group: str,
    name: str,
    rows: int,
    shape: Sequence[int],
    per_shard: int,
    *,
    codecs: str = COMPACT,
    image_error: int = 0,
) -> dict[str, Any]:
    """Return the ``zarr.json`` of one array.

    Parameters
    ----------
    group, name : str
        A key of ``schema.arrays_of(group)``.
    rows : int
        Length of the first axis, which arrays of the template lack.
    shape : sequence of int
        Of one row.
    per_shard : int
        Rows of a full shard.
    codecs : ``compact`` or ``standard``
    image_error : int
        As in the plan.
    """
    return _content(_array_document(group, name, rows, tuple(shape), per_shard, codecs, image_error))


# zarr-python takes a millisecond for an array, and all that finish, verify or push a dataset of sixty describe it anew.
@lru_cache(maxsize=512)
def _array_document(
    group: str, name: str, rows: int, row: tuple[int, ...], per_shard: int, codecs: str, image_error: int
) -> bytes:
    from zarr.core.metadata.v3 import ArrayV3Metadata
    from zarr.dtype import parse_dtype

    import datagen.shards.zarr_codecs  # noqa: F401 - registers ours

    spec = arrays_of(group)[name]
    chain = _chunk_codecs(ChunkCodec.of(spec, codecs, image_error), compressed=is_map(spec) or group == TEMPLATE)
    if is_map(spec):
        chain = [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": (1, *row),
                    "codecs": chain,
                    "index_codecs": [_little_endian(), {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ]
    alone = group == TEMPLATE
    axis = () if alone else ("frame" if group.endswith(f"/{FRAMES}") else "sample",)
    metadata = ArrayV3Metadata(
        shape=row if alone else (rows, *row),
        data_type=parse_dtype(spec.dtype, zarr_format=3),
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": row if alone else (per_shard, *row)}},
        # Dots keep all shards of an array in one folder: a shard costs one fsync of a folder, not four.
        chunk_key_encoding={"name": "default", "configuration": {"separator": "."}},
        fill_value=0,
        codecs=chain,
        attributes={},
        dimension_names=(*axis, *_dimensions(spec)),
    )
    return metadata_bytes(_content(_text(metadata.to_dict())))


def group_metadata(
    attributes: Mapping[str, Any], below: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the ``zarr.json`` of a group.

    Parameters
    ----------
    below : mapping of path to document, optional
        Everything in it, consolidated: whoever opens the group needs no other document.
    """
    from zarr.core.group import GroupMetadata

    document = _content(_text(GroupMetadata(attributes=dict(attributes)).to_dict()))
    if below is not None:
        document["consolidated_metadata"] = _content(_consolidated_text(_text(below)))
    return document


@lru_cache(maxsize=4)
def _consolidated_text(below: str) -> str:
    """Return what zarr makes of it and would write itself: a mistake in a document ends here, not at a reader."""
    from zarr.core.group import ConsolidatedMetadata

    import datagen.shards.zarr_codecs  # noqa: F401 - registers ours

    inline = {"kind": "inline", "must_understand": False, "metadata": _content(below)}
    return _text(ConsolidatedMetadata.from_dict(inline).to_dict())


def chunk_path(group: str, name: str, index: int) -> str:
    """Return the path, relative to the dataset's root, of one array's part of one shard."""
    # Arrays of the template are one chunk each, and have no axis of rows.
    zeros = ".0" * (len(arrays_of(group)[name].shape) - (group == TEMPLATE))
    return f"{group}/{name}/c.{index}{zeros}"


def array_of(key: str) -> tuple[str, str]:
    """Return the group and the array of the path of a chunk or of an array's document."""
    group, name, _ = key.rsplit("/", 2)
    return group, name


def _text(metadata: Mapping[str, Any]) -> str:
    """Return the JSON of metadata of zarr's: lists for tuples, text for members of enums."""
    return json.dumps(metadata, allow_nan=False)


def _content(text: str | bytes) -> dict[str, Any]:
    """Return what such JSON stands for, for the caller alone."""
    content = json.loads(text)
    assert isinstance(content, dict)
    return content


def metadata_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a metadata document."""
    return (canonical_json(document) + "\n").encode()


def parse_document(data: bytes) -> dict[str, Any]:
    """Read a machine-written JSON object; ValueError for anything else, however deep or large its numbers."""
    content = parse_json(data, finite=True)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def attributes_of(data: bytes) -> dict[str, Any]:
    """Return the attributes of a group's document, empty if it has none; ValueError as :func:`parse_document`."""
    attributes = parse_document(data).get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def plan_documents(plan: DatasetPlan) -> dict[str, bytes]:
    """Return the metadata documents of a plan by their keys, all but the root's."""
    found = {}
    for group in plan.groups:
        found[f"{group}/{ROOT_METADATA}"] = metadata_bytes(group_metadata({}))
        for name in plan.arrays(group):
            found[f"{group}/{name}/{ROOT_METADATA}"] = _array_document(
                group,
                name,
                plan.shards(group).stored_rows,
                tuple(plan.row_shape(group, name)),
                plan.samples_per_shard,
                plan.codecs,
                plan.image_error,
            )
    return found


def root_document(plan: DatasetPlan, attributes: Mapping[str, Any]) -> bytes:
    """Return the root's document: its attributes, and the metadata of everything below it."""
    below = {key.removesuffix(f"/{ROOT_METADATA}"): _content(data) for key, data in plan_documents(plan).items()}
    return metadata_bytes(group_metadata(attributes, below))


def content_digest(plan: DatasetPlan, files: Mapping[str, str]) -> str:
    """Digest of what a dataset is: its plan without software versions, and the digest of every shard file.

    Parameters
    ----------
    files : mapping of path (relative to the root) to SHA-256
    """
    content = {key: value for key, value in plan.to_json().items() if key != "software"}
    return sha256_text(canonical_json({"plan": content, "files": dict(files), "format_version": FORMAT_VERSION}))


def uuid_of(digest: str) -> str:
    """Return the UUID made of the first 128 bits of a SHA-256, marked version 8 (RFC 9562: vendor-defined)."""
    bits = int(digest[:32], 16)
    bits = bits & ~(0xF << 76) | (0x8 << 76)
    bits = bits & ~(0x3 << 62) | (0x2 << 62)
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def root_attributes(plan: DatasetPlan, files: Mapping[str, str], records: str) -> dict[str, Any]:
    """Return the attributes of the dataset's root group; the last of them digests all the others.

    Parameters
    ----------
    files : mapping of path (relative to the root) to SHA-256
    records : str
        ``ledger.record_digest`` of each shard, in order of ``plan.units``, one after another.
    """
    digest = content_digest(plan, files)
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "uuid": uuid_of(digest),
        "content_digest": digest,
        "pixel_center": PIXEL_CENTER,
        "records": records,
        **plan.to_json(),
    }
    return {**attributes, "attributes_digest": attributes_digest(attributes)}


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """Digest of the root attributes but ``attributes_digest`` itself."""
    return sha256_text(canonical_json({k: v for k, v in attributes.items() if k != "attributes_digest"}))


def _little_endian() -> dict[str, Any]:
    return {"name": "bytes", "configuration": {"endian": "little"}}


def _dimensions(spec: ArraySpec) -> list[str]:
    letters = [n for n in spec.shape if isinstance(n, str)]
    fixed = iter(["channel"] if "H" in letters else ["i", "j", "k"])
    return [
        _DIMENSIONS[n] if isinstance(n, str) else (name if (name := next(fixed)) == "channel" else f"{name}{n}")
        for n in spec.shape
    ]


def _chunk_codecs(codec: ChunkCodec, *, compressed: bool) -> list[dict[str, Any]]:
    codecs: list[dict[str, Any]] = [_little_endian() if codec.typesize > 1 else {"name": "bytes"}]
    if codec.predictor:
        codecs = [{"name": CODEC_NAME, "configuration": {"predictor": codec.predictor, "error": codec.error}}]
    if compressed:
        configuration = {
            "typesize": codec.typesize,
            "cname": "zstd",
            "clevel": COMPRESSION_LEVEL,
            "shuffle": codec.shuffle,
            "blocksize": BLOCK_BYTES,
        }
        codecs.append({"name": "blosc", "configuration": configuration})
    return [*codecs, {"name": "crc32c"}]
