"""What captures state of themselves, for the datasets that are made from them: licence, citation, kind of pictures."""

from __future__ import annotations

from pathlib import Path

from datagen.sources.capture_file import CAPTURE_FILE, read_capture_file


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
        capture = read_capture_file(path.parent)
        licences.add(capture.licence or otherwise)
        citations |= {capture.citation} if capture.citation else set()
        shaded, count = shaded + bool(capture.shaded), count + 1
    terms = {"licence": "; ".join(sorted(licences)) or otherwise}
    if citations:
        terms["citation"] = "; ".join(sorted(citations))
    if shaded:
        part = "" if shaded == count else f"of {shaded} of {count} captures: "
        terms["pictures"] = f"{part}simulated shading of meshes that came without pictures"
    return terms
