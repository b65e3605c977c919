"""Ways to spoil a file, a tree or a JSON document, drawn from a random generator."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

_NESTED = object()
_HUGE = object()
NAMES = (
    "../../outside/.bashrc",
    "/dev/zero",
    "a/../../b",
    "..",
    "",
    ".",
    "nul\0byte",
    "line\nbreak",
    "\x1b[31mred",
    "x" * 5000,
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{1}$",
    "\u202egnp.exe",
    "\ud800",
    "{frame[0]}",
    "{frame.__class__}",
    "{frame:0999999999d}",
    "{0}{camera!r}",
    "{camera}/{frame:>9999999}",
    "s3://key:secret@bucket/x",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**200,
    -(2**63),
    0.5,
    1e308,
    -1e308,
    1e-320,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    {"": None},
    "0",
    "NaN",
    "null",
    _NESTED,
    _HUGE,
    *NAMES,
)


def spoil_json(text: str, rng: Random) -> tuple[str, str]:
    """Change one place of a JSON document; return its text and what was done."""
    document = json.loads(text)
    places = _places(document)
    container, key, where = rng.choice(places)
    how = rng.choice(("replace", "replace", "replace", "remove", "rename", "add", "duplicate", "grow"))
    value = rng.choice(VALUES)
    if how == "remove":
        del container[key]
    elif how == "rename" and isinstance(container, dict):
        container[rng.choice(NAMES)] = container.pop(key)
    elif how == "add" and isinstance(container, dict):
        container[rng.choice((*NAMES, "unknown", "camera_to_world"))] = value
    elif how == "grow" and isinstance(container, list):
        container.extend([container[key]] * rng.choice((1, 7, 1000)))
    else:
        container[key] = value
    marked = json.dumps(document, default=lambda v: "@nested@" if v is _NESTED else "@huge@")
    marked = marked.replace('"@nested@"', "[" * 100_000 + "]" * 100_000).replace('"@huge@"', "9" * 5000)
    if how == "duplicate" and isinstance(container, dict) and isinstance(key, str):
        name = json.dumps(key)
        marked = marked.replace(f"{name}:", f"{name}: 0, {name}:", 1)
    shown = "nested" if value is _NESTED else "huge" if value is _HUGE else repr(value)[:60]
    return marked, f"{how} {where} {shown}"


def _places(document: Any, where: str = "$") -> list[tuple[Any, Any, str]]:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    found: list[tuple[Any, Any, str]] = []
    for key, value in items:
        here = f"{where}.{key}"
        found.append((document, key, here))
        if isinstance(value, (dict, list)) and value:
            found += _places(value, here)
    return found or [({"": document}, "", where)]


def spoil_bytes(data: bytes, rng: Random) -> tuple[bytes, str]:
    """Flip, cut, zero, insert or repeat bytes of a file; never gives back what it got."""
    content = bytearray(data)
    how = rng.choice(("flip", "flip", "cut", "zero", "insert", "repeat", "empty", "noise"))
    at = rng.randrange(len(content)) if content else 0
    if how == "flip" and content:
        for place in {at, *(rng.randrange(len(content)) for _ in range(rng.randrange(3)))}:
            content[place] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del content[at:]
    elif how == "zero" and content:
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    elif how == "insert":
        content[at:at] = rng.randbytes(rng.choice((1, 4, 1000)))
    elif how == "repeat":
        content *= 2
    elif how == "empty":
        content.clear()
    else:
        content[at : at + 256] = rng.randbytes(256)
    changed = bytes(content)
    return (changed, f"{how} at {at}") if changed != data else (data + b"\0", "append")


def spoil_file(path: Path, others: list[Path], rng: Random) -> str:
    """Spoil one file in place; return what was done."""
    how = rng.choice(("bytes", "bytes", "bytes", "json", "remove", "other", "other", "folder", "loop", "zero", "pipe"))
    if how == "json" or (how == "bytes" and path.suffix == ".json" and rng.random() < 0.5):
        try:
            text, done = spoil_json(path.read_text(), rng)
            path.write_text(text, errors="surrogatepass")
            return f"{path.name}: {done}"
        except (ValueError, AttributeError, TypeError):
            how = "bytes"
    if how == "other" and others:
        other = rng.choice(others)
        path.write_bytes(other.read_bytes())
        return f"{path.name}: replaced by {other.parent.name}/{other.name}"
    if how in {"bytes", "json", "other"}:
        data, done = spoil_bytes(path.read_bytes(), rng)
        path.write_bytes(data)
        return f"{path.name}: {done}"
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "zero":
        path.symlink_to("/dev/zero")
    elif how == "pipe":
        os.mkfifo(path)
    return f"{path.name}: {how}"


def files(folder: Path) -> list[Path]:
    """Every regular file below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def fresh(folder: Path) -> Path:
    """Return an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
