"""What is made once a run: one maker, everybody else waits; an attempt that failed counts for nothing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.once import made_once


class Factory:
    """As pytest's own of one worker."""

    def __init__(self, run: Path, worker: str) -> None:
        self._base = run / worker
        self._base.mkdir(parents=True)

    def getbasetemp(self) -> Path:
        return self._base


def test_the_first_makes_it_and_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    calls = []

    def make(folder: Path) -> dict[str, Path]:
        calls.append(folder)
        time.sleep(0.2)
        (folder / "file").write_text("whole")
        return {"file": folder / "file"}

    factories = [Factory(tmp_path, f"gw{k}") for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda factory: made_once(factory, "thing", make), factories))  # type: ignore[arg-type]
    assert len(calls) == 1
    assert [result["file"].read_text() for result in made] == ["whole"] * 4
    assert made_once(factories[0], "other", lambda folder: list(folder.iterdir())) == []  # type: ignore[arg-type]


def test_without_workers_it_lies_in_the_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    factory = Factory(tmp_path, "run")
    assert made_once(factory, "thing", lambda folder: folder).is_relative_to(tmp_path / "run")  # type: ignore[arg-type]


def test_what_a_failed_attempt_left_is_not_taken(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("full")

    factory = Factory(tmp_path, "run")
    with pytest.raises(OSError, match="full"):
        made_once(factory, "thing", fail)  # type: ignore[arg-type]
    assert made_once(factory, "thing", lambda folder: list(folder.iterdir())) == []  # type: ignore[arg-type]
