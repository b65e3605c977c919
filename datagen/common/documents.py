"""JSON and YAML that anyone may have written: read with a bound on their size, nesting and numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from datagen.common.names import shown

MOST_BYTES = 256 << 20
_MOST_DEPTH = 64
_MOST_INTEGER = 2**63


class DocumentError(ValueError):
    """A document cannot be read; its text is the reason, to follow "… cannot be read:"."""


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a file whole, at most ``most`` bytes: a device has no end.

    Raises
    ------
    DocumentError
        If it is longer.
    OSError
        If it cannot be read.
    """
    # A pipe that nobody writes to is empty instead of waited for; one that somebody does is waited for as usual.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    with open(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise DocumentError(f"it is longer than {most} bytes")
    return data


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; raises as :func:`read_bytes`, or if it is not."""
    return _decoded(read_bytes(path, most))


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """Read a JSON file; see :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path, most))


def parse_json(document: bytes | str, *, finite: bool = False) -> Any:
    """Return the content of a JSON document.

    Parameters
    ----------
    finite : bool
        Whether NaN and infinities are refused, which Python writes and JSON does not have.

    Raises
    ------
    DocumentError
        If it is not JSON in UTF-8, a key is given twice (Python would silently keep the last), a number does not fit 64
        bits, or it is nested too deeply.
    """
    text = document if isinstance(document, str) else _decoded(document)
    try:
        content = json.loads(
            text, object_pairs_hook=_once, parse_int=_whole, parse_constant=_refuse if finite else None
        )
    except json.JSONDecodeError as error:
        raise DocumentError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise DocumentError("it is nested too deeply") from None
    check_depth(content)
    return content


def own_json(document: str) -> Any:
    """Return the content of JSON that this program wrote, in a sixth of the time and unchecked.

    Raises
    ------
    ValueError
        If it is not JSON.
    """
    import orjson  # readers of datasets do without it

    try:
        return orjson.loads(document)
    except ValueError:  # what Python writes of numbers that are not finite is no JSON
        return json.loads(document)


def check_depth(content: object) -> None:
    """Refuse data that is nested more deeply than anything of ours.

    Raises
    ------
    DocumentError
        If it is.
    """
    level = [content]
    for _ in range(_MOST_DEPTH):
        holders = [value for value in level if isinstance(value, (dict, list))]
        if not holders:
            return
        level = [value for holder in holders for value in (holder.values() if isinstance(holder, dict) else holder)]
    raise DocumentError("it is nested too deeply")


def _decoded(data: bytes) -> str:
    try:
        return str(data, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8 text (byte {error.start + 1})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for k, key in enumerate(keys) if key in keys[:k])
        raise DocumentError(f"the key {shown(twice)} is given twice")
    return content


def _refuse(constant: str) -> Any:
    raise DocumentError(f"{constant} is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -_MOST_INTEGER <= int(digits) < _MOST_INTEGER:
        raise DocumentError(f"the number {shown(digits)[1:-1]} is too large")
    return int(digits)
