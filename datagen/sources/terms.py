"""What captures state of themselves, for the datasets that are made from them: licence, citation, kind of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datagen.common.documents import own_json
from datagen.sources.capture_file import CAPTURE_FILE, read_capture_file

_TERMS = {"licence": str, "citation": str, "shaded": bool}


def stated_terms(root: Path, otherwise: str) -> dict[str, str]:
    """Return the licences of all captures below a folder, their citations, and what pictures are simulated, if any.

    Parameters
    ----------
    otherwise : str
        Licence of those that state none.

    Raises
    ------
    datagen.common.errors.InputError
        If a capture.json cannot be read.
    """
    licences, citations = set[str](), set[str]()
    shaded, count = 0, 0
    for path in root.glob(f"*/*/{CAPTURE_FILE}"):
        if any(name.startswith(".") for name in path.relative_to(root).parts):
            continue
        stated = _stated(path)
        licences.add(stated["licence"] or otherwise)
        citations |= {stated["citation"]} if stated["citation"] else set()
        shaded, count = shaded + bool(stated["shaded"]), count + 1
    terms = {"licence": "; ".join(sorted(licences)) or otherwise}
    if citations:
        terms["citation"] = "; ".join(sorted(citations))
    if shaded:
        part = "" if shaded == count else f"of {shaded} of {count} captures: "
        terms["pictures"] = f"{part}simulated shading of meshes that came without pictures"
    return terms


def _stated(path: Path) -> dict[str, Any]:
    """Return the terms in a capture.json; whether all of it is valid is asked only where they are not plain.

    Of ten thousand captures, which a build has checked before, checking each again would take most of a plan's time.
    """
    try:
        content = own_json(path.read_text())
        found = {name: content.get(name) for name in _TERMS}
    except (OSError, ValueError, AttributeError):
        found = {"licence": ...}
    if any(value is not None and type(value) is not _TERMS[name] for name, value in found.items()):
        capture = read_capture_file(path.parent)
        return {name: getattr(capture, name) for name in _TERMS}
    return found
