"""Makers of evidence by name: a new one is a file of this folder and an entry of :data:`MAKERS`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from datagen.common.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from datagen.evidence.contract import Maker
    from datagen.heads.base import HeadModel


@dataclass(frozen=True)
class MakerSettings:
    """What makers can be told.

    Attributes
    ----------
    detector_python : Path or None
        Python of an environment with the face detector's package; None for this one.
    """

    detector_python: Path | None = None


@dataclass(frozen=True)
class MakerEntry:
    """What is known of a maker before it is loaded.

    Attributes
    ----------
    loader : str
        ``module:function`` of a head model and :class:`MakerSettings`, which returns a context manager of the maker.
    title : str
        What it looks with, for the help.
    """

    loader: str
    title: str


MAKERS: dict[str, MakerEntry] = {
    "detector": MakerEntry("datagen.evidence.detector:open_detector", "MediaPipe's face mesh, on single pictures"),
}


def open_maker(name: str, head: HeadModel, settings: MakerSettings) -> AbstractContextManager[Maker]:
    """Load a maker.

    Raises
    ------
    InputError
        If there is no such maker, or it does not know the head model.
    DependencyError
        If what it needs is not installed.
    """
    entry = MAKERS.get(name)
    if entry is None:
        raise InputError(f"there is no maker of evidence {name!r}", f"one of {', '.join(MAKERS)}", "Choose one")
    load: Callable[[HeadModel, MakerSettings], AbstractContextManager[Maker]] = resolve_name(entry.loader)
    return load(head, settings)
