"""Bridges on disk: ``bridge.npz`` and ``verdict.json``, the same bytes for the same bridge."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from datagen.errors import InputError
from datagen.heads.base import HeadTemplate
from datagen.shards.atomic import atomic_write_bytes
from datagen.sources.folder_writer import npz_bytes
from datagen.warp.bridge import Bridge
from datagen.warp.store import read_verdict, verdict_bytes

BRIDGE_FILE = "bridge.npz"
VERDICT_FILE = "verdict.json"
ARRAYS = ("neutral", "corners", "barycentric", "offset", "valid", "canonical", "confidence", "region")
_TEXTS = ("source", "source_digest", "template_digest")


def bridge_bytes(bridge: Bridge) -> bytes:
    """Return the content of ``bridge.npz``: the arrays of :class:`Bridge`, and what it connects."""
    arrays = {name: getattr(bridge, name) for name in ARRAYS}
    texts = (bridge.source, bridge.source_digest, bridge.template.digest)
    arrays |= {name: np.frombuffer(text.encode(), np.uint8) for name, text in zip(_TEXTS, texts, strict=True)}
    return npz_bytes(arrays)


def write_bridge(folder: Path, bridge: Bridge) -> None:
    """Write ``bridge.npz`` and then ``verdict.json`` into ``folder``, each atomically.

    Raises
    ------
    datagen.errors.StorageError
        If the disk refuses.
    """
    atomic_write_bytes(folder / BRIDGE_FILE, bridge_bytes(bridge))
    atomic_write_bytes(folder / VERDICT_FILE, verdict_bytes(bridge.verdict))


def read_bridge(folder: Path, template: HeadTemplate) -> Bridge:
    """Read what :func:`write_bridge` wrote.

    Raises
    ------
    InputError
        If a file is missing or broken, or the bridge leads to another template.
    """
    path = folder / BRIDGE_FILE
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in (*ARRAYS, *_TEXTS)}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error})", "a bridge", "Remove its folder and build again") from None
    source, source_digest, template_digest = (arrays.pop(name).tobytes().decode() for name in _TEXTS)
    if template_digest != template.digest:
        raise InputError(
            f"the bridge {path} leads to another template", f"{template.name!r}", "Remove its folder and build again"
        )
    return Bridge(template=template, source=source, source_digest=source_digest, verdict=read_verdict(folder), **arrays)
