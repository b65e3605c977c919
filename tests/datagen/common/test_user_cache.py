"""Arrays that are kept in the user's cache: made once, believed under their digest, never in the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from datagen.common.user_cache import kept_arrays, user_cache

DIGEST, OTHER = "ab" * 32, "cd" * 32


class Maker:
    """Makes the same arrays each time, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> dict[str, npt.NDArray[np.float64]]:
        self.asked += 1
        return {"points": np.arange(6.0).reshape(2, 3)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "canonface"
    return user_cache()


def test_arrays_are_made_once(cache: Path) -> None:
    make = Maker()
    for _ in range(2):
        arrays = kept_arrays("people", DIGEST, make)
        np.testing.assert_array_equal(arrays["points"], make()["points"])
    assert make.asked == 3  # two of them by the comparison
    assert len(list(cache.iterdir())) == 1


def test_another_digest_is_made_anew_and_takes_the_place_of_the_old(cache: Path) -> None:
    make = Maker()
    kept_arrays("people", DIGEST, make)
    kept_arrays("else", DIGEST, make)
    kept_arrays("people", OTHER, make)
    assert make.asked == 3
    assert sorted(path.name for path in cache.iterdir()) == [f"else-{DIGEST[:16]}.npz", f"people-{OTHER[:16]}.npz"]


def test_a_broken_file_is_made_anew(cache: Path) -> None:
    make = Maker()
    kept_arrays("people", DIGEST, make)
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert kept_arrays("people", DIGEST, make)["points"].shape == (2, 3)
    kept_arrays("people", DIGEST, make)
    assert make.asked == 2


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept_arrays("people", DIGEST, Maker())["points"].shape == (2, 3)
