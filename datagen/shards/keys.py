"""Keys: the names of a dataset's files relative to its root. What is none is refused before anything is opened."""

from __future__ import annotations

import re

_LONGEST = 1024  # bytes: what object stores take
_LONGEST_PART = 255  # bytes: what file systems take
# Control characters hide in listings; "\" and ":" are separators and drives elsewhere.
_PART = re.compile(r"(?!\.{1,2}$)[^\x00-\x1f\x7f-\x9f/\\:]+", re.ASCII)
_SHOWN = 80


class Key(str):
    """A relative path with "/" between its parts that stays below whatever folder or prefix it is joined to.

    Raises
    ------
    ValueError
        If the text is no such path: absolute, with an empty part, ``.`` or ``..``, a backslash, a colon or a control
        character, or longer than 255 bytes a part and 1024 in all.
    """

    __slots__ = ()

    def __new__(cls, text: object) -> Key:
        if not isinstance(text, str) or not _is_key(text):
            shown = ascii(text)
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
            raise ValueError(f"{shown} is no relative path of a file")
        return super().__new__(cls, text)


def _is_key(text: str) -> bool:
    try:
        if len(text.encode()) > _LONGEST:
            return False
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return all(_PART.fullmatch(part) and len(part.encode()) <= _LONGEST_PART for part in text.split("/"))
