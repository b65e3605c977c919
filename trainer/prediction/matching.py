"""Which camera or mask belongs to which frame: by name, and in order only where there are no names to go by."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from datagen.common.console import say
from datagen.common.errors import InputError

# What is a suffix at the end of a name and not a part of it: "scan.0001" and "scan.0002" are two frames.
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_OTHERS = (".jpe", ".jfif", ".heic", ".heif", ".avif", ".gif", ".jp2", ".exr", ".dng", ".ppm", ".pgm", ".tga")
_SHOWN = 5


def assign(
    frames: Sequence[str], wanted: Sequence[int], names: Sequence[str], what: str, holder: str, *, in_order: bool
) -> dict[int, int]:
    """Return which entry each wanted frame takes, {number of the frame: index of the entry}.

    A name matches without its folder and without the suffix of a picture, by case; the whole name comes first:
    "a.jpg" is for a.jpg, not for a.png. Entries that no wanted frame takes are named on standard error.

    Parameters
    ----------
    frames : sequence of str
        Names of all frames of the source.
    wanted : sequence of int
        Numbers of those that are predicted.
    names : sequence of str
        Of the entries.
    what : str
        As in "camera".
    holder : str
        What holds the entries, for messages.
    in_order : bool
        Take the entries one after another: they have no names, or the frames have none.

    Raises
    ------
    InputError
        If a wanted frame has no entry or several, two frames have the same, or there are too few or too many to be
        taken in order.
    """
    if in_order:
        if len(names) not in {len(frames), wanted[-1] + 1 if wanted else 0}:
            raise InputError(
                f"{holder} has {len(names)} {what}s without names of frames, and there are {len(frames)} frames",
                f"one {what} for each frame, in order",
                "Give as many, or name them like the frames",
            )
        return {number: number for number in wanted}
    tables = [_table(key, names) for key, _ in _WAYS]
    found: dict[int, int] = {}
    taken: dict[int, int] = {}
    for number in wanted:
        ways = zip(tables, _WAYS, strict=True)
        entries = next((hits for table, (_, key) in ways if (hits := table.get(key(frames[number])))), [])
        if not entries:
            raise InputError(
                f"no {what} for {_short(frames[number])}; {holder} has {_some(names)}",
                f"a {what} of that name for each frame",
                "Add it, or correct the names",
            )
        if len(entries) > 1:
            several = _some([names[k] for k in entries])
            raise InputError(
                f"{len(entries)} {what}s for {_short(frames[number])} in {holder}: {several}",
                "one for each frame",
                "Remove the others, or give names with their suffix",
            )
        (entry,) = entries
        if entry in taken:
            both = _some([frames[taken[entry]], frames[number]])
            raise InputError(
                f"the {what} {_short(names[entry])} of {holder} matches several frames: {both}",
                "frames whose names differ in more than their suffix, or names with their suffix",
                "Rename them",
            )
        found[number], taken[entry] = entry, number
    left = [name for k, name in enumerate(names) if k not in taken]
    if left:
        verb = "are" if len(left) > 1 else "is"
        say(f"{_count(len(left), what)} of {holder} {verb} of no frame here: {_some(left)}", to=sys.stderr)
    return found


def belongs(entry: str, frame: str) -> bool:
    """Whether the name of an entry is that of a frame, in any of the ways that names match."""
    return any(of_entry(entry) == of_frame(frame) for of_entry, of_frame in _WAYS)


def without_suffix(name: str) -> str:
    """Return a name without the suffix of a picture."""
    return name[: -len(name.rpartition(".")[2]) - 1] if _suffix(name) in (*PICTURES, *_OTHERS) else name


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Order frame_2 before frame_10, and f1 and f01 always the same way."""
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts], path.name


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of their names, numbers in them by value.

    Hidden files are passed over; what else is left out is said on standard error.

    Raises
    ------
    InputError
        If there are none, or one of them is no file: a folder, a broken link, a pipe.
    """
    seen = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=natural_key)
    files = [path for path in seen if _suffix(path.name) in PICTURES]
    for path in files:
        check_regular(path)
    left = [path for path in seen if _suffix(path.name) not in PICTURES]
    kinds = list(dict.fromkeys("folders" if path.is_dir() else _suffix(path.name) or path.name for path in left))
    about = f"{_count(len(left), 'file')} left out: {_some(kinds, 12)}" if left else ""
    if not files:
        raise InputError(
            f"{folder} holds no images{f' ({about})' if about else ''}",
            f"files ending in {', '.join(PICTURES)}",
            "Check the path, or convert them",
        )
    if about:
        say(f"{folder}: {about}", to=sys.stderr)
    return files


def check_regular(path: Path) -> None:
    """Refuse what is no file: to open a pipe or a device may never end.

    Raises
    ------
    InputError
        If it is missing, a folder, a broken link, or a special file.
    """
    try:
        if path.is_file():
            return
        kind = "a folder" if path.is_dir() else "a pipe or a device" if path.exists() else "does not exist"
        if path.is_symlink() and not path.exists():
            kind = "a link that leads nowhere"
    except OSError as error:  # a name that is too long, a folder that may not be searched
        kind = f"cannot be read: {error.strerror}"
    verb = "" if kind.startswith(("does", "cannot")) else "is "
    raise InputError(f"{path} {verb}{kind}", "a file", "Check the path")


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _base(name: str) -> str:
    return unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def stem(name: str) -> str:
    """Return a name without its folder and without the suffix of a picture."""
    return without_suffix(_base(name))


# How an entry's name and a frame's are compared, the strictest way first. The third is for masks called "a.jpg.png".
_WAYS: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
    (str, str),
    (_base, _plain),
    (stem, _plain),
    (_base, stem),
    (stem, stem),
)


def _table(key: Callable[[str], str], names: Sequence[str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = defaultdict(list)
    for k, name in enumerate(names):
        table[key(name)].append(k)
    return dict(table)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _some(names: Sequence[str], most: int = _SHOWN) -> str:
    return ", ".join(map(_short, names[:most])) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _short(name: str) -> str:
    """Return a name as a message can hold it: characters that would break its line are spelt out."""
    shown = name if name.isprintable() else repr(name)[1:-1]
    return shown if len(shown) <= 80 else f"{shown[:40]}...{shown[-30:]}"
