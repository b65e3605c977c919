"""Where captures lie: in a folder, or in an object store, from which a build brings them into its own."""

from __future__ import annotations

import re
from pathlib import Path

from datagen.common.errors import InputError

# As it was given, or as a path that one slash of it is left of.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}([^/].*)")


def url_of(path: Path | str) -> str:
    """Return the URL of an object store that a path is; empty if it is none, or there is a folder called so."""
    match = _URL.fullmatch(str(path))
    return "" if match is None or Path(path).exists() else f"{match[1]}://{match[2]}"


def refuse_url(path: Path | str) -> None:
    """Refuse captures in an object store.

    Raises
    ------
    InputError
        If it is the URL of one, and not a folder that is called so.
    """
    url = url_of(path)
    if url:
        raise InputError(
            f"the captures {url} lie in an object store",
            "a folder: captures are read from a file system, which every worker sees",
            "`datagen build` and `datagen plan --freeze` bring them into the build folder; for anything else copy them "
            f"first, as `aws s3 sync {url} captures/` does",
        )
