"""HEIC pictures, as pillow-heif wrote them: a ramp of 24×16 pixels, the same with a turn, and with 10 bits."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import DependencyError, InputError
from datagen.common.pictures import picture_size, read_picture

RAMP = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
    "AAAAAERAAAEAAQAAAAABoAABAAAAAAAAAO4AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/Glw"
    "cnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AA"
    "AAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABA"
    "AAAAQAAAAChjbGFwAAAAGAAAAAEAAAAQAAAAAf///9gAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYEC"
    "AwWEAAAA9m1kYXQAAADqKAGvBjIdwnhQ1YqWrvtQQwPv9PqmAHGvavUxQv5jSfLkmFg+fP9fLW3tMfI1jPtijrkXOsW99tFr2VW3uRtXpIn6"
    "YdPQ37nFJensZIB22s5kVO6eN4RZpFVjp1ft+vtx0MZDSzccgnUXoKK+pjQeMX5KbyHEUiACcuW7kAEfSRp8J5jlZK7m/V9+YRYpAdLwh9kB"
    "50ZK6qb/mngCvG1Qr9X8oJjw6r4EnZG+rPrscwiemc15pxE0L8n89E/ANgAJOhCZh99U/Jf89WCRGHz81C8oTuTjq/+6Q3dm3VqyNugy6uMc"
    "ZYcHQfTg"
)
TURNED = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAb1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9j"
    "AAAAAERAAAIAAQAAAAAB4QABAAAAAAAAAO4AAgAAAAACzwABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAA"
    "ABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA/GlwcnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNg"
    "AAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQB"
    "wXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAGAAAAAEAAAAQAAAAAf///9gAAAAC////0AAA"
    "AAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAGmlyZWYAAAAAAAAADmNkc2MAAgABAAEAAAEabWRhdAAAAOoo"
    "Aa8GMh3CeFDVipau+1BDA+/0+qYAca9q9TFC/mNJ8uSYWD58/18tbe0x8jWM+2KOuRc6xb320WvZVbe5G1ekifph09DfucUl6exkgHbazmRU"
    "7p43hFmkVWOnV+36+3HQxkNLNxyCdRegor6mNB4xfkpvIcRSIAJy5buQAR9JGnwnmOVkrub9X35hFikB0vCH2QHnRkrqpv+aeAK8bVCv1fyg"
    "mPDqvgSdkb6s+uxzCJ6ZzXmnETQvyfz0T8A2AAk6EJmH31T8l/z1YJEYfPzULyhO5OOr/7pDd2bdWrI26DLq4xxlhwdB9OAAAAAGRXhpZgAA"
    "TU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAA="
)
DEEP = (
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
    "AAAAAERAAAEAAQAAAAABoAABAAAAAAAAAI4AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/Glw"
    "cnAAAADcaXBjbwAAAHVodmNDAQQIAAAAnbgAAAAAHvAA/P36+gAADwNgAAEAF0ABDAH//wQIAAADAJ24AAADAAAeugJAYQABACpCAQEECAAA"
    "AwCduAAAAwAAHqAggQTZbqrprm4CGgwIAAADAMgAAAMACEBiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABA"
    "AAAAQAAAAChjbGFwAAAAGAAAAAEAAAAQAAAAAf///9gAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCgoKAAAAGGlwbWEAAAAAAAAAAQABBYEC"
    "AwWEAAAAlm1kYXQAAACKKAGvBjIbd1eA2j9SWA5KCF/c8SMmmpj/7zUBb+Cfas2wkbvfNZGKtYc0VEwzWsdTI/V5F2OwQ/k/x+Epkyw/K85i"
    "/vnK2/hoYTlXtSPgbnJ/MaihqbaE3cZj2mjUU+ijNyxxX3imNgIqA+4rcr/UExvDQydh/0CT90+H6oBol4iDK1eCs2pFIr+A"
)


def _write(folder: Path, content: str) -> Path:
    path = folder / "a.heic"
    path.write_bytes(base64.b64decode(content))
    return path


def test_a_picture_of_a_phone_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    path = _write(tmp_path, RAMP)
    ramp = np.rint(255 * np.linspace(0, 1, 16 * 24 * 3).reshape(16, 24, 3))
    assert picture_size(path, orientation=None, ask="say") == (24, 16)
    assert np.abs(read_picture(path, orientation=None, ask="say").pixels - ramp).mean() < 3


def test_a_turn_and_deep_values_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    path = _write(tmp_path, TURNED)
    with pytest.raises(InputError, match=r"may have been turned.*Say which"):
        read_picture(path, orientation=None, ask="Say which")
    with pytest.raises(InputError, match=r"may have been turned.*PNG"):
        read_picture(path, orientation="stored", ask="Say which")
    assert read_picture(path, orientation="upright", ask="Say which").size == (24, 16)
    with pytest.raises(InputError, match="more than 8 bits"):
        read_picture(_write(tmp_path, DEEP), orientation=None, ask="say")


def test_without_the_package_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pi_heif", None)
    with pytest.raises(DependencyError, match=r"canonface\[heic\].*convert the pictures"):
        read_picture(_write(tmp_path, RAMP), orientation=None, ask="say")
