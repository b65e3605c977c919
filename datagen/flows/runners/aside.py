"""Telling somebody who is slow to begin: what there is to tell waits for them, and the build for nothing."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

from datagen.common.progress import announce
from datagen.flows.runners.contract import Answer, GivenUp, Job
from datagen.flows.runners.tracking import Tracker

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

Told = Callable[[Tracker], None]
# A server may hang while it is told the last words.
LAST_WORDS_S = 60.0
# Whoever interrupts a build does not want to wait for that.
INTERRUPTED_S = 5.0


class BuildFailedError(Exception):
    """Why a build ended, in the words of its error, for a page that shows it."""


class _Aside(Tracker):
    """Keeps what it is told, in its order, until somebody takes it."""

    def __init__(self) -> None:
        self._told = SimpleQueue[Told | None]()
        self._ended: BaseException | None = None
        self._heard = True
        self._listening = threading.Event()

    def ready(self) -> None:
        """Wait for somebody to listen, or for it to be known that nobody will."""
        self._listening.wait()

    def planned(self, stage: str, jobs: Sequence[Job]) -> None:
        """Keep it."""
        self._keep(lambda tracker: tracker.planned(stage, jobs))

    def done(self, job: Job, answer: Answer) -> None:
        """Keep it."""
        self._keep(lambda tracker: tracker.done(job, answer))

    def early(self, job: Job, answer: Answer) -> None:
        """Keep it."""
        self._keep(lambda tracker: tracker.early(job, answer))

    def given_up(self, given_up: GivenUp) -> None:
        """Keep it."""
        self._keep(lambda tracker: tracker.given_up(given_up))

    def said(self, text: str) -> None:
        """Keep it."""
        self._keep(lambda tracker: tracker.said(text))

    def finished(self, result: BuildResult) -> None:
        """Keep it."""
        self._keep(lambda tracker: tracker.finished(result))

    def _keep(self, told: Told) -> None:
        if self._heard:
            self._told.put(told)

    def end(self, error: BaseException | None) -> None:
        """Say that nothing more will come, and why."""
        self._ended = error
        self._told.put(None)

    def pass_on(self, tracker: Tracker) -> None:
        """Tell a tracker everything, until the end; raise there what ended the build.

        Raises
        ------
        BuildFailedError
            In place of the build's own error, which belongs to another thread.
        """
        self._listening.set()
        while (told := self._told.get()) is not None:
            told(tracker)
        if self._ended is not None and not isinstance(self._ended, Exception):
            raise type(self._ended)
        if self._ended is not None:
            raise BuildFailedError(f"{type(self._ended).__name__}: {self._ended}")

    def drop(self) -> None:
        """Keep nothing any more: nobody takes it."""
        self._heard = False
        self._listening.set()
        while not self._told.empty():
            self._told.get()


@contextmanager
def told_aside(name: str, listen: Callable[[Told], object]) -> Iterator[Tracker]:
    """Yield who may be told everything at once, while somebody is told it in a thread of their own, at their pace.

    Parameters
    ----------
    name : str
        Whoever listens, as messages have it.
    listen : callable
        Takes what tells a tracker everything, and calls it once. What goes wrong in it is said, and does no more harm.
    """
    aside = _Aside()

    def listening() -> None:
        try:
            listen(aside.pass_on)
        except BuildFailedError:
            pass
        except Exception as error:
            announce(name, f"its pages are told nothing of this build ({error})")
        except BaseException:
            # What interrupted the build; it goes its way in the build's own thread.
            pass
        finally:
            aside.drop()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(listening,), name=name, daemon=True)
    thread.start()
    patience_s = LAST_WORDS_S
    try:
        yield aside
    except BaseException as error:
        if not isinstance(error, Exception):
            patience_s = INTERRUPTED_S
        aside.end(error)
        raise
    else:
        aside.end(None)
    finally:
        thread.join(patience_s)
        if thread.is_alive():
            announce(name, f"its pages were not told all in {patience_s:.0f} s")
