"""What one stage stores and later tasks read, wherever they run."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Generic, TypeVar

from datagen.errors import InputError
from datagen.flows.records import finished_record
from datagen.heads.base import HeadTemplate

T = TypeVar("T")
_LOCK = Lock()


@dataclass(frozen=True)
class Stored(Generic[T]):
    """Something by where it lies and what it was made of; small, so that it travels to any worker.

    Attributes
    ----------
    folder : Path
    key : str
        Content key.
    """

    folder: Path
    key: str

    what: ClassVar[str]

    @staticmethod
    @abstractmethod
    def read(folder: Path, template: HeadTemplate) -> Any:
        """Read it from its folder."""

    @property
    def finished(self) -> bool:
        """Whether it lies whole on disk."""
        return finished_record(self.folder, self.key) is not None

    def open(self, template: HeadTemplate) -> T:
        """Read it, once per process.

        Raises
        ------
        datagen.errors.InputError
            If it is missing or broken.
        """
        with _LOCK:
            opened: T = _opened(self, template)
        return opened


@lru_cache(maxsize=24)
def _opened(stored: Stored[Any], template: HeadTemplate) -> Any:
    if not stored.finished:
        raise InputError(
            f"the {stored.what} {stored.folder} is not whole", "its record and files", "Run the same command again"
        )
    return stored.read(stored.folder, template)
