"""What drives the units of a build: the window, second tries, what hangs, and what is given up; on every carrier."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from datagen.common.errors import DependencyError, InputError, StorageError
from datagen.flows.made import Made
from datagen.flows.runners import drive as driving
from datagen.flows.runners.contract import Answer, Carrier, GivenUp, Job, RunnerConfig
from datagen.flows.runners.drive import MaxFailed, drive, error_of
from datagen.flows.runners.here import SerialCarrier, ThreadCarrier
from datagen.flows.runners.preflight import Expected, own_code
from datagen.layout import BuildLayout
from datagen.manifest import Needs

SLOTS = 2
DUE = "0" * 64


@dataclass(frozen=True)
class Numbers:
    """A unit: some numbers, each of which is squared unless it is one of these."""

    numbers: tuple[int, ...]
    memory: Path | None = None

    @property
    def name(self) -> str:
        return "-".join(map(str, self.numbers))

    @property
    def weight(self) -> int:
        return len(self.numbers)


STALE_ONCE, STALE, FULL, MISTAKE, KILLS, HANGS, BROKEN = 101, 102, 103, 104, 105, 106, 107


def square(unit: Numbers) -> list[int]:
    for number in unit.numbers:
        if number == STALE or (number == STALE_ONCE and _first(unit)):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "somewhere")
        if number == FULL:
            raise StorageError("the disk is full", "room", "Free some space") from OSError(errno.ENOSPC, "full")
        if number == MISTAKE:
            raise ZeroDivisionError("a mistake of the program")
        if number == BROKEN:
            raise InputError("the scan is empty", "a scan", "Scan again")
        if number == KILLS:
            os._exit(9)
        if number == HANGS:
            time.sleep(8)
    return [number * number for number in unit.numbers]


def _first(unit: Numbers) -> bool:
    assert unit.memory is not None
    try:
        unit.memory.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def parted(unit: Numbers) -> list[Numbers]:
    return [replace(unit, numbers=(number,)) for number in unit.numbers]


def job(*numbers: int, memory: Path | None = None, timeout_s: float | None = None, retries: int = 2) -> Job:
    return Job("square", square, Numbers(numbers, memory), Needs(timeout_s=timeout_s, retries=retries), parted)


@pytest.fixture(scope="module")
def dask() -> Iterator[Carrier]:
    from datagen.flows.runners.dask import DaskCarrier

    with DaskCarrier(RunnerConfig("dask", workers=SLOTS)) as carrier:
        yield carrier


@pytest.fixture(params=["serial", "threads", "dask"])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Carrier]:
    monkeypatch.setattr(driving, "FIRST_PAUSE_S", 0.01)
    if request.param == "serial":
        yield SerialCarrier()
    elif request.param == "threads":
        with ThreadCarrier(SLOTS) as threads:
            yield threads
    else:
        yield request.getfixturevalue("dask")


class Driven:
    """What came of some jobs."""

    def __init__(self, jobs: list[Job], carrier: Carrier) -> None:
        self.done: dict[str, Any] = {}
        self.given_up: dict[str, GivenUp] = {}
        self.said: list[str] = []
        drive(iter(jobs), carrier, self._done, self._give_up, self.said.append)

    def _done(self, job: Job, answer: Answer) -> None:
        self.done[job.name] = answer.result

    def _give_up(self, given_up: GivenUp) -> None:
        self.given_up[given_up.job.name] = given_up


def test_every_unit_is_done_once(carrier: Carrier) -> None:
    driven = Driven([job(i) for i in range(20)], carrier)
    assert driven.done == {str(i): [i * i] for i in range(20)}
    assert not driven.given_up
    assert not driven.said


def test_only_so_many_are_asked_for_as_can_be_worked_at(carrier: Carrier) -> None:
    asked: list[int] = []
    done: list[int] = []
    most: list[int] = []

    def jobs() -> Iterator[Job]:
        for i in range(12):
            asked.append(i)
            most.append(len(asked) - len(done))
            yield job(i)

    drive(jobs(), carrier, lambda j, _: done.append(int(j.name)), pytest.fail, pytest.fail)
    assert sorted(done) == list(range(12))
    assert max(most) <= carrier.slots + carrier.spare


def test_what_is_not_known_yet_is_asked_for_again_when_something_ended(carrier: Carrier) -> None:
    done: list[str] = []

    def jobs() -> Iterator[Job | None]:
        yield job(1)
        while not done:
            yield None
        yield job(2)

    drive(jobs(), carrier, lambda j, _: done.append(j.name), pytest.fail, pytest.fail)
    assert done == ["1", "2"]


def test_a_failure_that_may_pass_is_tried_again(carrier: Carrier, tmp_path: Path) -> None:
    driven = Driven([job(STALE_ONCE, memory=tmp_path / "seen"), job(3)], carrier)
    assert set(driven.done) == {str(STALE_ONCE), "3"}
    assert len(driven.said) == 1
    assert "Stale file handle" in driven.said[0]
    assert "1 of 2" in driven.said[0]


def test_one_that_does_not_pass_is_given_up_and_the_others_are_done(carrier: Carrier) -> None:
    driven = Driven([job(STALE), job(1), job(2)], carrier)
    assert set(driven.done) == {"1", "2"}
    given_up = driven.given_up[str(STALE)]
    assert given_up.tries == 3
    assert "Stale file handle" in given_up.answer.reason
    assert "in square" in given_up.answer.log


def test_a_mistake_is_given_up_at_once_with_its_traceback(carrier: Carrier) -> None:
    driven = Driven([job(MISTAKE), job(1)], carrier)
    assert set(driven.done) == {"1"}
    error = error_of(driven.given_up[str(MISTAKE)])
    assert isinstance(error, ZeroDivisionError)
    assert any("in square" in note for note in error.__notes__)
    assert driven.given_up[str(MISTAKE)].tries == 1


def test_only_the_bad_part_of_a_unit_is_given_up(carrier: Carrier) -> None:
    driven = Driven([job(1, 2, BROKEN, 3), job(4)], carrier)
    assert driven.done == {"1": [1], "2": [4], "3": [9], "4": [16]}
    assert set(driven.given_up) == {str(BROKEN)}
    with pytest.raises(InputError, match=r"the scan is empty\. Expected a scan"):
        raise error_of(driven.given_up[str(BROKEN)])


def test_what_every_unit_would_meet_ends_everything_unchanged(carrier: Carrier) -> None:
    with pytest.raises(StorageError, match=r"the disk is full\. Expected room"):
        Driven([job(1), job(FULL), *[job(i) for i in range(2, 50)]], carrier)


def test_what_hangs_is_given_up_and_the_others_are_done(monkeypatch: pytest.MonkeyPatch, dask: Carrier) -> None:
    for carrier in (ThreadCarrier(SLOTS), dask):
        started = time.monotonic()
        driven = Driven([job(HANGS, timeout_s=1.0), *[job(i) for i in range(6)]], carrier)
        assert set(driven.done) == {str(i) for i in range(6)}
        given_up = driven.given_up[str(HANGS)]
        assert "did not end within 1 s" in given_up.answer.reason
        assert given_up.tries == 3
        assert time.monotonic() - started < 60


def test_a_unit_that_kills_its_worker_is_named_and_the_others_are_done(
    dask: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "FIRST_PAUSE_S", 0.01)
    driven = Driven([job(1, KILLS, 2, retries=1), *[job(i) for i in range(3, 9)]], dask)
    assert set(driven.done) == {str(i) for i in range(1, 9)}
    assert set(driven.given_up) == {str(KILLS)}
    assert "died" in driven.given_up[str(KILLS)].answer.reason
    assert driven.given_up[str(KILLS)].tries == 2


def test_the_processors_are_shared_out_among_threads() -> None:
    seen: list[int] = []
    from datagen.common.blas import available_cpus

    all_of_them = available_cpus()

    def look(unit: Numbers) -> None:
        seen.append(available_cpus())

    with ThreadCarrier(SLOTS) as carrier:
        drive(iter([Job("look", look, Numbers((1,)), Needs())]), carrier, lambda *_: None, pytest.fail, pytest.fail)
        drive(
            iter([Job("look", look, Numbers((1,)), Needs(cpus=7))]), carrier, lambda *_: None, pytest.fail, pytest.fail
        )
    assert seen == [max(1, all_of_them // SLOTS), 7]
    assert available_cpus() == all_of_them


def test_an_interruption_lets_running_units_end() -> None:
    ended = threading.Event()

    def slow(_unit: Numbers) -> None:
        time.sleep(0.3)
        ended.set()

    def interrupted() -> None:
        with ThreadCarrier(1) as carrier:
            carrier.begin(0, Job("slow", slow, Numbers((1,)), Needs()))
            time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ended.is_set()


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    from datagen.flows.worker import shared_head

    layout = BuildLayout(tmp_path)
    layout.run.write_text("this\n")
    return Expected(
        tmp_path, "this", None, "anny", None, shared_head("anny", None).template.digest, own_code(), "numba"
    )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda e: replace(e, root=e.root / "elsewhere"), "does not see the build folder"),
        (lambda e: replace(e, run="another"), "another run has taken over"),
        (lambda e: replace(e, captures=e.root / "captures"), "does not see the captures"),
        (lambda e: replace(e, code=own_code().replace("Python", "python")), "it runs python"),
        (lambda e: replace(e, template="0" * 64), "its template of anny is another"),
    ],
)
def test_workers_that_are_not_of_this_build_do_nothing(
    dask: Carrier,
    expected: Expected,
    spoil: Callable[[Expected], Expected],
    says: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from datagen.flows.runners import dask as dask_module
    from datagen.flows.runners.dask import DaskCarrier

    monkeypatch.setattr(dask_module, "FIT_S", 0.5)
    assert isinstance(dask, DaskCarrier)
    address = dask.scheduler_address
    with DaskCarrier(RunnerConfig("dask", dask_address=address), expected) as fits:
        assert Driven([job(i) for i in range(4)], fits).done.keys() == {"0", "1", "2", "3"}
    with (
        DaskCarrier(RunnerConfig("dask", dask_address=address), spoil(expected)) as other,
        pytest.raises(DependencyError, match=rf"none of \d Dask workers can do the square.*{says}"),
    ):
        Driven([job(i) for i in range(4)], other)
    assert "is left out of the square" in capfd.readouterr().err


def write(path: Path) -> int:
    """Write a file; the worker that is the first to write any makes what was not asked for."""
    mark = path.parent / "mark"
    with suppress(FileExistsError), open(mark, "x") as file:
        file.write(f"{os.getpid()}")
    path.write_text("another" if mark.read_text() in ("", f"{os.getpid()}") else DUE)
    return 1


def written(path: Path) -> list[Made]:
    return [Made(path.name, path.read_text(), DUE)]


def test_a_worker_that_makes_other_keys_is_left_out_and_others_do_its_work(
    expected: Expected,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from datagen.flows.runners.dask import DaskCarrier

    monkeypatch.setattr(driving, "UNSEEN_S", 0.1)
    paths, done = [tmp_path / f"{number}" for number in range(8)], list[str]()
    jobs = (Job("write", write, path, Needs(), made=written) for path in paths)
    # Workers of its own: it needs both, and tests above kill theirs.
    with DaskCarrier(RunnerConfig("dask", workers=SLOTS), expected) as carrier:
        drive(jobs, carrier, lambda job, _: done.append(job.name), lambda lost: pytest.fail(str(lost)), print)
    assert sorted(done) == [path.name for path in paths]
    assert {path.read_text() for path in paths} == {DUE}
    said = capfd.readouterr().err
    assert said.count("is left out of the write") == 1
    assert f"with the content key another, not {DUE[:12]}" in said
    assert f"(process {(tmp_path / 'mark').read_text()})" in said


def test_gpus_that_no_worker_offers_are_missed_at_once(dask: Carrier) -> None:
    asks = Job("render", square, Numbers((1,)), Needs(gpus=1))
    with pytest.raises(DependencyError, match=r"needs\.render asks for GPU 1, which none of \d workers offers"):
        Driven([asks], dask)


def test_how_many_may_fail() -> None:
    assert MaxFailed.parse("12").of(1000) == 12
    assert MaxFailed.parse("2.5%").of(1000) == 25
    assert MaxFailed.parse("5 %").of(2) == 1
    assert MaxFailed.parse("0%").of(1000) == 0
    for text in ("", "many", "-1", "101%", "1.5"):
        with pytest.raises(InputError, match="how many may fail"):
            MaxFailed.parse(text)
