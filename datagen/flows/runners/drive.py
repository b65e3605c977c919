"""Which unit is worked at when, how often it is tried, and what is given up.

Only so many units are in anyone's hands as there are slots for, and a few more, whatever the number of them all: the
first result comes at once, and nothing grows with the build.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from datagen.common.errors import InputError, UnitError
from datagen.common.progress import duration
from datagen.flows.made import doubt_of
from datagen.flows.runners.contract import Answer, Carrier, GivenUp, Job

FIRST_PAUSE_S = 1.0
MOST_PAUSE_S = 60.0
LOOK_S = 0.5
# So long a network file system may not show here what was written on another machine.
UNSEEN_S = 60.0


@dataclass(frozen=True)
class MaxFailed:
    """How many units of a stage may be given up before the build is.

    Attributes
    ----------
    count : int
    percent : float
        Of the units there are, rounded up; the larger of both holds.
    """

    count: int = 0
    percent: float = 0.0

    @classmethod
    def parse(cls, text: str) -> MaxFailed:
        """Read "12" or "2.5%".

        Raises
        ------
        InputError
            If it is neither.
        """
        match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)\s*%", text.strip())
        if match is None or (match[2] and float(match[2]) > 100):
            raise InputError(
                f"{text!r} says nothing of how many may fail", "a number, or a share as in 2%", "For example: 5%"
            )
        return cls(count=int(match[1])) if match[1] else cls(percent=float(match[2]))

    def of(self, units: int) -> int:
        """How many of so many."""
        return max(self.count, math.ceil(units * self.percent / 100 - 1e-9))


@dataclass(frozen=True)
class _Try:
    job: Job
    number: int


@dataclass(frozen=True)
class _Doubted:
    """What a worker told, and is not borne out here yet."""

    tried: _Try
    answer: Answer
    until: float


Done = Callable[[Job, Answer], None]
Said = Callable[[str], None]


def drive(
    jobs: Iterator[Job | None], carrier: Carrier, done: Done, give_up: Callable[[GivenUp], None], say: Said
) -> None:
    """Have every unit worked at.

    Parameters
    ----------
    jobs : iterator of Job or None
        Asked for the next whenever there is a slot for it; None where that is not known before another has ended.
    carrier : Carrier
    done : callable
        Called with each unit that is done, and what came of it.
    give_up : callable
        Called with each that failed too often; it may raise, which ends everything.
    say : callable
        Told, in a line, what a user might wonder about.

    Raises
    ------
    Exception
        The error of a unit that every other would meet too, unchanged, or what ``give_up`` raises; what is not begun
        is dropped.
    datagen.common.errors.ServiceLostError
        If nothing can be carried any more.
    """
    _Drive(jobs, carrier, done, give_up, say).run()


class _Drive:
    def __init__(
        self, jobs: Iterator[Job | None], carrier: Carrier, done: Done, give_up: Callable[[GivenUp], None], say: Said
    ) -> None:
        self._jobs, self._carrier, self._done, self._give_up, self._say = jobs, carrier, done, give_up, say
        self._tickets = itertools.count()
        self._held: dict[int, _Try] = {}
        # (when it may be tried again, order, try): by the time that has been waited, not by the clock.
        self._again: list[tuple[float, int, _Try]] = []
        self._doubted: list[_Doubted] = []
        self._looked_again = 0.0
        self._now = 0.0
        self._all_asked = False

    def run(self) -> None:
        started = time.monotonic()
        while True:
            self._now = time.monotonic() - started
            self._fill()
            if not self._held and not self._again and not self._doubted:
                if self._all_asked:
                    return
                raise RuntimeError("nothing is worked at, and nothing is ready")
            self._look_again()
            if not self._held:
                time.sleep(max(0.0, min(LOOK_S, self._again[0][0] - self._now)) if self._again else LOOK_S)
                continue
            for ticket, answer in self._carrier.ended(LOOK_S):
                tried = self._held.pop(ticket, None)
                if tried is not None:
                    self._take(tried, answer)
            self._look_for_hanging()

    def _fill(self) -> None:
        while len(self._held) < self._carrier.slots + self._carrier.spare:
            tried = self._next()
            if tried is None:
                return
            ticket = next(self._tickets)
            self._held[ticket] = tried
            self._carrier.begin(ticket, tried.job, suspect=tried.number > tried.job.needs.retries)

    def _next(self) -> _Try | None:
        if self._again and self._again[0][0] <= self._now:
            return heapq.heappop(self._again)[2]
        if self._all_asked:
            return None
        try:
            job = next(self._jobs)
        except StopIteration:
            self._all_asked = True
            return None
        return None if job is None else _Try(job, 1)

    def _take(self, tried: _Try, answer: Answer) -> None:
        if answer.trouble is None:
            if self._doubt(tried.job, answer):
                self._doubted.append(_Doubted(tried, answer, self._now + UNSEEN_S))
            else:
                self._done(tried.job, answer)
        elif answer.trouble == "build":
            raise _error(answer, tried.job, tried.number)
        elif answer.trouble in ("misfit", "bystander"):
            # It was not tried. Of a misfit, the carrier knows not to ask that worker again.
            self._later(tried, 0.0)
        else:
            self._failed(tried, answer)

    def _doubt(self, job: Job, answer: Answer) -> str:
        """Return why what a worker told is not believed; empty if it is."""
        if answer.made is None:
            return ""
        try:
            return doubt_of(answer.made, job.made(job.unit))
        except OSError as error:
            return f"what it made of {job.name} cannot be looked at here ({error.strerror or error})"

    def _look_again(self) -> None:
        """Take what is borne out by now, and have others work at what is not for too long."""
        if not self._doubted or self._now - self._looked_again < LOOK_S:
            return
        self._looked_again = self._now
        doubted, self._doubted = self._doubted, []
        for each in doubted:
            job, answer = each.tried.job, each.answer
            reason = self._doubt(job, answer)
            if not reason:
                self._done(job, answer)
            elif self._now < each.until:
                self._doubted.append(each)
            else:
                job.disown(job.unit)
                self._carrier.distrust(job.stage, replace(answer, trouble="misfit", reason=reason))
                self._later(each.tried, 0.0)

    def _failed(self, tried: _Try, answer: Answer) -> None:
        job = tried.job
        parts = job.split(job.unit)
        if len(parts) > 1:
            # Only what fails by itself counts as failed; parts that are finished are found finished.
            for part in parts:
                self._later(_Try(replace(job, unit=part), 1), 0.0)
            return
        if answer.trouble == "passing" and tried.number <= job.needs.retries:
            pause_s = min(MOST_PAUSE_S, FIRST_PAUSE_S * 4 ** (tried.number - 1))
            self._say(
                f"{job.stage} {job.name}: {answer.reason}"
                + (f", on {answer.host}" if answer.host else "")
                + f"; tried again in {duration(pause_s)} ({tried.number} of {job.needs.retries})"
            )
            self._later(replace(tried, number=tried.number + 1), pause_s)
            return
        self._give_up(GivenUp(job, answer, tried.number))

    def _later(self, tried: _Try, pause_s: float) -> None:
        heapq.heappush(self._again, (self._now + pause_s, next(self._tickets), tried))

    def _look_for_hanging(self) -> None:
        for ticket, tried in list(self._held.items()):
            limit = tried.job.timeout_s
            if limit is not None and (ran_s := self._carrier.running_s(ticket)) > limit:
                del self._held[ticket]
                host = self._carrier.abandon(ticket)
                reason = f"it did not end within {duration(limit)} (needs.{tried.job.stage}.timeout_s)"
                # What hangs once hangs again: it is tried once more at most.
                number = max(tried.number, tried.job.needs.retries)
                self._failed(replace(tried, number=number), Answer(None, "passing", None, reason, reason, host, ran_s))


def error_of(given_up: GivenUp) -> Exception:
    """Return the error of a unit that was given up, as it was raised where it was worked at if it could travel."""
    return _error(given_up.answer, given_up.job, given_up.tries)


def _error(answer: Answer, job: Job, tries: int = 1) -> Exception:
    if answer.error is not None:
        return answer.error
    often = f" {tries} times" if tries > 1 else ""
    return UnitError(
        f"the {job.stage} of {job.name} failed{often}: {answer.reason}" + (f" ({answer.host})" if answer.host else ""),
        "",
        "Mend what it names, and run the same command again; finished work is kept",
    )
