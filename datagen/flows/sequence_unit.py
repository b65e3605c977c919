"""Units that make one result of a sequence, all of its frames or some: a fit, a person."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.common.errors import InputError, raise_if_passing
from datagen.flows.known_inputs import KnownInputs
from datagen.flows.made import Made
from datagen.flows.records import finished_record, known_finished, known_result
from datagen.flows.stage import Reference, Unit
from datagen.flows.state_index import open_index
from datagen.heads.base import HeadTemplate
from datagen.sources.frame import Captures, SequenceInfo


@dataclass(frozen=True)
class SequenceUnit(Unit):
    """One result of a sequence.

    Attributes
    ----------
    sequence : SequenceInfo
    """

    sequence: SequenceInfo

    @property
    def name(self) -> str:
        """Subject and sequence."""
        return str(self.sequence.key)

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where the result goes."""

    @property
    @abstractmethod
    def frames(self) -> Sequence[int]:
        """The frames that it is made from."""

    @abstractmethod
    def key(self, source: Captures | KnownInputs, template: HeadTemplate) -> str:
        """Content key of the result: its frames, and everything that decides what is made of them."""

    def digests(self, source: Captures | KnownInputs) -> list[list[int | str]]:
        """Return frames and digests of their inputs, as they go into the key."""
        return [self._digest(source, frame) for frame in self.frames]

    def _digest(self, source: Captures | KnownInputs, frame: int) -> list[int | str]:
        try:
            return [frame, source.input_digest(self.sequence.key, frame)]
        except InputError as error:
            raise_if_passing(error)
            # Not why: the reason names the file, and all that counts is that the frame is passed over.
            return [frame, "broken"]

    @property
    def finished(self) -> bool:
        """Whether the result is whole on disk, made from what it would be made from now."""
        return finished_record(self.folder, self.key(self.inputs(), self.head().template), self.root) is not None

    @property
    def known_finished(self) -> bool:
        """Whether the build's index knows the frames, and that the result is finished; nothing is read."""
        if open_index(self.root) is None:
            return False
        source = self.inputs()
        if any(source.known_digest(self.sequence.key, frame) is None for frame in self.frames):
            return False
        return bool(known_finished(self.folder, self.key(source, self.head().template), self.root))

    @property
    def made(self) -> Made:
        """The result's key, and what the frames are read from."""
        record = known_result(self.root, self.folder)
        stamps = " ".join(self.stamp(self.sequence.key, frame) for frame in self.frames)
        return Made(self.name, record.content_key if record is not None else "", "", stamps)


@dataclass(frozen=True)
class SequenceReference(Reference):
    """A result of a planned sequence, by its number."""

    number: int

    @property
    def name(self) -> str:
        """Subject and sequence."""
        return str(self.planned.sequence(self.number).key)
