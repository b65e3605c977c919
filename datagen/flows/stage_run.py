"""One stage of a run: its units are carried, counted, left out where they may be, and the next stage begins early."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TextIO

from datagen.common.errors import UnitError
from datagen.common.json_lines import is_json
from datagen.common.progress import Progress
from datagen.flows.inquest import Inquest
from datagen.flows.planning import BuildPlan
from datagen.flows.quarantine import quarantine
from datagen.flows.runners.contract import Answer, Carrier, GivenUp, Job
from datagen.flows.runners.drive import MaxFailed, drive, error_of
from datagen.flows.runners.tracking import Tracker
from datagen.flows.stage import Stage
from datagen.layout import BuildLayout
from datagen.manifest import Needs

# The next stage is planned again when a quarter more sequences are settled: often enough, and of linear cost.
GROWTH = 1.25


class Ahead:
    """What the next stage can begin while a stage goes on.

    Parameters
    ----------
    stage, following : Stage
    units : sequence
        Of the stage that goes on.
    slots : int
        How many units can be worked at; the following stage takes few of them at a time.
    """

    def __init__(
        self,
        stage: Stage[Any, Any],
        following: Stage[Any, Any],
        plan: BuildPlan,
        layout: BuildLayout,
        units: Sequence[Any],
        slots: int,
    ) -> None:
        self._stage, self._following, self._plan, self._layout = stage, following, plan, layout
        self._most = max(1, slots // 4)
        self._left: Counter[Any] = Counter()
        for unit in units:
            self._count(unit, 1)
        self._settled = self._planned_at = 0
        self._ready: deque[Job] = deque()
        self._known: set[str] = set()
        self._held = 0
        self.results: list[Any] = []

    def _count(self, unit: Any, sign: int) -> None:
        for key, _ in self._stage.leaves_out(unit):
            self._left[key] += sign

    def settled(self, unit: Any) -> None:
        """Say that the stage is done with a unit."""
        self._count(unit, -1)
        sequences = self._plan.sequences
        while self._settled < len(sequences) and self._left[sequences[self._settled].key] <= 0:
            self._settled += 1
        if self._settled >= max(1, self._planned_at * GROWTH) and self._settled < len(sequences):
            self._planned_at = self._settled
            for early in self._following.early(self._plan, self._layout, self._settled):
                if early.name not in self._known:
                    self._known.add(early.name)
                    self._ready.append(job_of(self._following, early, self._plan))

    def next(self) -> Job | None:
        """Return what can be begun now, None if there is nothing or enough is begun."""
        if not self._ready or self._held >= self._most:
            return None
        self._held += 1
        return self._ready.popleft()

    @property
    def over(self) -> bool:
        """Whether the stage that goes on is done with all of its units."""
        return self._left.total() <= 0

    def owns(self, job: Job) -> bool:
        """Whether it is of the following stage."""
        return job.stage == self._following.name

    def ended(self, result: Any = None) -> None:
        """Say that one of them ended; what failed is tried again in its own stage."""
        self._held -= 1
        if result is not None:
            self.results.append(result)


def job_of(stage: Stage[Any, Any], unit: Any, plan: BuildPlan) -> Job:
    """Return a unit as a carrier takes it."""
    needs = getattr(plan.manifest.needs, stage.name, Needs())
    return Job(stage.name, stage.run, unit, needs, stage.split, stage.made, stage.disown)


class StageRun:
    """One stage of a run.

    Parameters
    ----------
    title : str
        Of its progress.
    units : sequence
    limit : MaxFailed
        How much of it may be given up.
    told : callable
        Told how much is done, of how much.
    ahead : Ahead, optional
    """

    def __init__(
        self,
        stage: Stage[Any, Any],
        title: str,
        plan: BuildPlan,
        layout: BuildLayout,
        units: Sequence[Any],
        limit: MaxFailed,
        tracker: Tracker,
        told: Callable[[int, int], None],
        ahead: Ahead | None = None,
    ) -> None:
        self._stage, self._title, self._plan, self._layout = stage, title, plan, layout
        self._units, self._limit, self._tracker, self._told, self._ahead = units, limit, tracker, told, ahead
        self._total = sum(unit.weight for unit in units)
        self._failed = 0
        self._frames_failed = 0
        # Of a stage that inquires: units that may still ask for more to be tried, what is, and why.
        self._unresolved = {unit.name for unit in units} if stage.inquires else set()
        self._inquests: dict[str, Inquest] = {}
        self._suspects: dict[str, Inquest] = {}
        self._more: deque[Job] = deque()
        self._lost: list[GivenUp] = []
        self._results: list[Any] = []
        self._progress: Progress | None = None

    def run(self, carrier: Carrier, stream: TextIO | None) -> list[Any]:
        """Carry the units; return the results of those that are done.

        Raises
        ------
        Exception
            As :func:`datagen.flows.runners.drive.drive`, or of a unit that the build cannot go on without.
        """
        self._told(0, self._total)
        self._tracker.planned(self._stage.name, [job_of(self._stage, unit, self._plan) for unit in self._units])
        with Progress(self._title, self._total, self._stage.counts, stream) as self._progress:
            drive(self._jobs(), carrier, self._done, self._give_up, self._say)
        if self._lost:
            raise error_of(self._lost[0])
        return self._results

    def pass_over(self, stream: TextIO | None) -> list[Any]:
        """Say that all of the units are finished, which is known; return no results."""
        self._told(0, self._total)
        jobs = [job_of(self._stage, unit, self._plan) for unit in self._units]
        self._tracker.planned(self._stage.name, jobs)
        with Progress(self._title, self._total, self._stage.counts, stream) as progress:
            progress.advance(self._total)
        for job in jobs:
            self._tracker.done(job, Answer())
        self._told(self._total, self._total)
        return []

    def _jobs(self) -> Iterator[Job | None]:
        for unit in self._units:
            if self._stage.known(unit):
                # Handing it out would cost more than this look.
                self._resolve(job_of(self._stage, unit, self._plan))
                continue
            while self._ahead is not None and (early := self._ahead.next()) is not None:
                yield early
            while self._more:
                yield self._more.popleft()
            yield job_of(self._stage, unit, self._plan)
        while self._unresolved or (self._ahead is not None and not self._ahead.over):
            if self._more:
                yield self._more.popleft()
            else:
                yield self._ahead.next() if self._ahead is not None else None

    def _done(self, job: Job, answer: Answer) -> None:
        if self._ahead is not None and self._ahead.owns(job):
            self._ahead.ended(answer.result)
            self._tracker.early(job, answer)
            return
        if job.name in self._suspects:
            self._judge(job, None)
            return
        self._results.append(answer.result)
        self._resolve(job, answer)

    def _resolve(self, job: Job, answer: Answer | None = None) -> None:
        """Be done with a unit, or with what is left of it."""
        inquest = self._inquests.pop(job.name, None)
        whole = job if inquest is None else inquest.job
        self._unresolved.discard(job.name)
        self._advance(whole)
        self._tracker.done(whole, answer or Answer())

    def _advance(self, job: Job) -> None:
        assert self._progress is not None
        self._progress.advance(job.unit.weight)
        self._told(self._progress.done, self._total)
        if self._ahead is not None:
            self._ahead.settled(job.unit)

    def _give_up(self, given_up: GivenUp) -> None:
        job = given_up.job
        if self._ahead is not None and self._ahead.owns(job):
            self._ahead.ended()
            return
        if job.name in self._suspects:
            self._judge(job, given_up)
        elif not self._inquire(given_up):
            self._fail(given_up)

    def _inquire(self, given_up: GivenUp) -> bool:
        """Have all that a unit may have failed for tried by itself; return whether there is anything."""
        job = given_up.job
        inquest = self._inquests.get(job.name) or Inquest(job, given_up)
        suspects = [s for s in self._stage.suspects(job.unit) if s.name not in inquest.cleared]
        if not suspects:
            return False
        inquest.begin(given_up, {suspect.name for suspect in suspects})
        self._inquests[job.name] = inquest
        self._say(f"{job.name} failed ({given_up.answer.reason}); which of its frames it is, is tried one by one")
        for suspect in suspects:
            self._suspects[suspect.name] = inquest
            self._more.append(job_of(self._stage, suspect, self._plan))
        return True

    def _judge(self, job: Job, failure: GivenUp | None) -> None:
        """Take what came of a suspect; after the last, leave out those to blame, and try what is left."""
        inquest = self._suspects.pop(job.name)
        if not inquest.ended(job.name, failure):
            return
        if not inquest.blames_frames:
            self._fail(inquest.failure)
            return
        failed = inquest.failure.job
        for guilty in inquest.guilty:
            self._leave_out(guilty)
        left = self._stage.without(failed.unit, [guilty.job.unit for guilty in inquest.guilty])
        if left is None:
            self._resolve(failed)
        else:
            self._more.append(job_of(self._stage, left, self._plan))

    def _leave_out(self, guilty: GivenUp) -> None:
        """Put a frame into quarantine that a larger unit failed for."""
        frames = self._stage.leaves_out(guilty.job.unit)
        self._frames_failed += len(frames)
        if self._frames_failed > self._limit.of(self._plan.frames):
            raise _too_many(guilty, self._frames_failed, self._plan.frames)
        quarantine(self._layout, self._plan.manifest, guilty, frames)
        self._say(f"{guilty.job.name} is left out, in {self._layout.quarantine}: {guilty.answer.reason}")

    def _fail(self, given_up: GivenUp) -> None:
        """Leave a unit out for good, if the build can go on without it."""
        inquest = self._inquests.pop(given_up.job.name, None)
        if inquest is not None:
            # All of it, frames that were found guilty before included.
            given_up = replace(given_up, job=inquest.job)
        job = given_up.job
        self._unresolved.discard(job.name)
        self._tracker.given_up(given_up)
        frames = self._stage.leaves_out(job.unit)
        self._failed += job.unit.weight
        if not frames:
            # The others are worth having all the same: the next run finds them.
            self._lost.append(given_up)
            self._say(f"{job.name} failed: {given_up.answer.reason}")
            if len(self._lost) > max(1, self._limit.of(len(self._units))):
                raise error_of(self._lost[0])
            return
        if self._failed > self._limit.of(self._total):
            raise _too_many(given_up, self._failed, self._total)
        quarantine(self._layout, self._plan.manifest, given_up, frames)
        self._say(f"{job.name} is left out, in {self._layout.quarantine}: {given_up.answer.reason}")
        self._advance(job)

    def _say(self, text: str) -> None:
        assert self._progress is not None
        if not is_json():
            self._progress.say(f"[{self._title}] {text}")
        self._tracker.said(text)


def _too_many(given_up: GivenUp, failed: int, total: int) -> Exception:
    """Return the error of the unit that was one too many, with what led to it."""
    error = error_of(given_up)
    if isinstance(error, UnitError):
        return UnitError(
            f"{failed} of {total} were given up; the last, {error.found[:1].lower()}{error.found[1:]}",
            "fewer failures than --max-failed allows",
            error.fix,
        )
    return error
