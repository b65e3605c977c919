"""Where captures may lie: in folders of a file system."""

from __future__ import annotations

import re
from pathlib import Path

from datagen.common.errors import InputError

# As it was given, or as a path that one slash of it is left of.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}([^/].*)")


def refuse_url(path: Path | str) -> None:
    """Refuse captures in an object store.

    Raises
    ------
    InputError
        If it is the URL of one, and not a folder that is called so.
    """
    match = _URL.fullmatch(str(path))
    if match is None or Path(path).exists():
        return
    url = f"{match[1]}://{match[2]}"
    raise InputError(
        f"the captures {url} lie in an object store",
        "a folder: captures are read from a file system, which every worker sees",
        f"Copy them to one first, as `aws s3 sync {url} captures/` does",
    )
