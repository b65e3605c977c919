"""What a result was made of, and with which bytes: one JSON text for a value, and SHA-256 of texts and files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.common.errors import InputError

READ_BYTES = 8 << 20


@dataclass(frozen=True)
class FileDigest:
    """Digest and length of one file."""

    sha256: str
    bytes: int


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, one space of indent, ASCII, no NaN.

    Raises
    ------
    InputError
        If the value holds something JSON has no form for.
    """
    try:
        return json.dumps(value, sort_keys=True, indent=1, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"dataset attributes cannot be stored: {error}",
            "text, finite numbers, booleans, lists and mappings",
            "Convert the value before it enters the plan",
        ) from None


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_bytes(data: bytes) -> FileDigest:
    """SHA-256 and length of bytes."""
    return FileDigest(hashlib.sha256(data).hexdigest(), len(data))


def digest_file(path: Path) -> FileDigest:
    """SHA-256 and length of a file; OSError if it cannot be read."""
    digest, length = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            length += len(block)
    return FileDigest(digest.hexdigest(), length)
