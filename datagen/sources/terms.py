"""Licence and citation that captures state themselves, for the datasets that are made from them."""

from __future__ import annotations

from pathlib import Path

from datagen.sources.capture_file import CAPTURE_FILE, read_capture_file


def stated_terms(root: Path, otherwise: str) -> dict[str, str]:
    """Return the licences of all captures below a folder, and their citations where there are any.

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
    for path in root.glob(f"*/*/{CAPTURE_FILE}"):
        if any(name.startswith(".") for name in path.relative_to(root).parts):
            continue
        capture = read_capture_file(path.parent)
        licences.add(capture.licence or otherwise)
        citations |= {capture.citation} if capture.citation else set()
    terms = {"licence": "; ".join(sorted(licences)) or otherwise}
    return {**terms, "citation": "; ".join(sorted(citations))} if citations else terms
