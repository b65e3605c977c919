"""Units that were given up: each has a file that says why, where and how often, and is left out until it is asked for.

A frame whose warp kills or hangs whatever works at it must not end a build of a million others. What is in quarantine
is tried again when it is requeued, when the settings of the warp change, and with another version of the program.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.documents import read_json
from datagen.common.files import atomic_write_bytes
from datagen.flows.runners.contract import GivenUp
from datagen.flows.runners.preflight import versions
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.sources.frame import SequenceKey

_LOG_CHARACTERS = 20_000
StoredFrame = tuple[SequenceKey, int]


@dataclass(frozen=True)
class Quarantined:
    """One unit that was given up.

    Attributes
    ----------
    stage, unit : str
    frames : tuple of (subject, sequence, frame)
        Those that are left out with it.
    reason, log : str
        In a line, and all that is known: the traceback, if there was one.
    host : str
        Where it was tried last.
    tries : int
    seconds : float
        Of the last try.
    made_by : str
        Digest of the program and of the settings it failed with.
    since : str
        Date and time, UTC.
    """

    stage: str
    unit: str
    frames: tuple[tuple[str, str, int], ...]
    reason: str
    log: str
    host: str
    tries: int
    seconds: float
    made_by: str
    since: str

    @property
    def held(self) -> set[StoredFrame]:
        """The frames that are left out with it."""
        return {(SequenceKey(subject, sequence), frame) for subject, sequence, frame in self.frames}

    def __str__(self) -> str:
        often = "once" if self.tries == 1 else f"{self.tries} times"
        where = f", last on {self.host}" if self.host else ""
        return f"{self.stage} of {self.unit}, tried {often}{where}: {self.reason}"

    @classmethod
    def read(cls, path: Path) -> Quarantined | None:
        """Read one; None if it is not one, whoever wrote it."""
        try:
            content = dict(read_json(path))
            frames = tuple((str(s), str(q), int(f)) for s, q, f in content.pop("frames"))
            return cls(frames=frames, **{k: content[k] for k in cls.__dataclass_fields__ if k != "frames"})
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Quarantine:
    """What is left out of a build now.

    Attributes
    ----------
    units : tuple of Quarantined
    """

    units: tuple[Quarantined, ...] = ()

    @cached_property
    def frames(self) -> frozenset[StoredFrame]:
        """The frames that are left out."""
        return frozenset(frame for unit in self.units for frame in unit.held)

    def frames_of(self, stage: str) -> frozenset[StoredFrame]:
        """Return the frames that are left out because of one stage."""
        return frozenset(frame for unit in self.units if unit.stage == stage for frame in unit.held)


def made_by(manifest: Manifest) -> str:
    """Return the digest of what decides whether a unit may fail again."""
    return sha256_text(
        canonical_json(
            {
                "canonical": manifest.canonical.model_dump(mode="json", exclude={"head_root"}),
                "fit": manifest.fit.model_dump(mode="json"),
                "needs": manifest.needs.model_dump(mode="json"),
                "program": versions(),
                "warp": manifest.warp.model_dump(mode="json"),
            }
        )
    )


def read_quarantine(layout: BuildLayout, manifest: Manifest) -> Quarantine:
    """Return what is left out of a build, as long as nothing changed that could help."""
    found = _all(layout)
    by = made_by(manifest) if found else ""
    return Quarantine(tuple(unit for _, unit in found if unit.made_by == by))


def quarantine(
    layout: BuildLayout, manifest: Manifest, given_up: GivenUp, frames: Sequence[StoredFrame]
) -> Quarantined:
    """Write down that a unit was given up.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    answer = given_up.answer
    unit = Quarantined(
        stage=given_up.job.stage,
        unit=given_up.job.name,
        frames=tuple((key.subject, key.sequence, frame) for key, frame in frames),
        reason=answer.reason,
        log=answer.log[-_LOG_CHARACTERS:],
        host=answer.host,
        tries=given_up.tries,
        seconds=round(answer.seconds, 3),
        made_by=made_by(manifest),
        since=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    )
    atomic_write_bytes(_path(layout, unit), (canonical_json(asdict(unit)) + "\n").encode())
    return unit


def quarantined_frames(layout: BuildLayout) -> set[StoredFrame]:
    """Return the frames of all units in quarantine, whatever changed since."""
    return {frame for _, unit in _all(layout) for frame in unit.held}


def _all(layout: BuildLayout) -> list[tuple[Path, Quarantined]]:
    if not layout.quarantine.is_dir():
        return []
    found = ((path, Quarantined.read(path)) for path in sorted(layout.quarantine.rglob("*.json")))
    return [(path, unit) for path, unit in found if unit is not None]


def release(layout: BuildLayout, frames: Iterable[StoredFrame]) -> list[str]:
    """Let the units go that hold any of these frames, so that they are tried again; return their names.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    asked, gone = set(frames), []
    for path, unit in _all(layout):
        if unit.held & asked:
            path.unlink(missing_ok=True)
            gone.append(f"{unit.stage} {unit.unit}")
    return gone


def _path(layout: BuildLayout, unit: Quarantined) -> Path:
    # Names of subjects and sequences are safe in paths; those of shards have spaces.
    return layout.quarantine / unit.stage / f"{re.sub(r'[^0-9A-Za-z._/-]', '-', unit.unit)}.json"


def plain(unit: Quarantined) -> dict[str, Any]:
    """Return a unit as plain JSON data, without its log."""
    return {name: value for name, value in asdict(unit).items() if name != "log"}
