"""Somebody slow is told how a build goes on: the build waits for them at its end alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from datagen.common.errors import DependencyError, StorageError
from datagen.flows.runners import aside
from datagen.flows.runners.aside import BuildFailedError, told_aside
from datagen.flows.runners.contract import Answer, Job
from datagen.flows.runners.tracking import Tracker
from datagen.manifest import Needs


class _Notes(Tracker):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def planned(self, stage: str, jobs: Any) -> None:
        self.heard.append((stage, len(jobs)))

    def done(self, job: Job, answer: Answer) -> None:
        self.heard.append((job.name, answer.result))

    def said(self, text: str) -> None:
        self.heard.append(text)


def _job() -> Job:
    return Job("square", str, 1, Needs())


def test_what_was_told_before_anybody_listened_is_heard_in_its_order() -> None:
    begins, notes = threading.Event(), _Notes()

    def listen(tell: Any) -> None:
        assert begins.wait(20)
        tell(notes)

    with told_aside("pages", listen) as tracker:
        tracker.planned("square", [_job(), _job()])
        tracker.done(_job(), Answer(4))
        # The work goes on though nobody listens yet.
        assert notes.heard == []
        begins.set()
        tracker.ready()
        tracker.said("a word")
    assert notes.heard == [("square", 2), ("1", 4), "a word"]


@pytest.mark.parametrize(
    ("error", "there", "words"),
    [
        (StorageError("the disk is full", "room", "Make some"), BuildFailedError, "StorageError: the disk is full"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
    ],
)
def test_what_ends_the_build_ends_the_listening_and_stays_itself(
    error: BaseException, there: type[BaseException], words: str
) -> None:
    seen: list[BaseException] = []

    def listen(tell: Any) -> None:
        try:
            tell(Tracker())
        except BaseException as raised:
            seen.append(raised)
            raise

    with pytest.raises(type(error)) as caught, told_aside("pages", listen):
        raise error
    assert caught.value is error
    assert [type(one) for one in seen] == [there]
    assert words in str(seen[0])


def test_who_does_not_listen_is_said_once_and_harms_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def listen(tell: Any) -> None:
        raise DependencyError("the server ended", "one that answers", "Start it")

    with told_aside("pages", listen) as tracker:
        tracker.ready()
        for _ in range(3):
            tracker.said("a word")
    errors = capfd.readouterr().err
    assert errors.count("told nothing of this build (the server ended") == 1
    assert "Traceback" not in errors


def test_who_hangs_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(aside, "LAST_WORDS_S", 0.05)
    over = threading.Event()
    with told_aside("pages", lambda _: over.wait(20)):
        pass
    over.set()
    assert "not told all" in capfd.readouterr().err
