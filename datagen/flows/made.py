"""What a worker says it made, held against what the driver finds: other keys, files or captures mean another build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Made(NamedTuple):
    """One result of a unit, as the process that looks at it sees it.

    Attributes
    ----------
    name : str
    key : str
        Content key in its record on the disk; empty if there is none.
    due : str
        The key that it has to have; empty where that is not known without reading its inputs.
    stamp : str
        Digest of sizes and times of the captures' files that it is made of; empty where that cannot be said.
    """

    name: str
    key: str
    due: str = ""
    stamp: str = ""


def nothing_made(_unit: object) -> tuple[Made, ...]:
    """Return nothing to compare."""
    return ()


def doubt_of(told: Sequence[Made], here: Sequence[Made]) -> str:
    """Return why what a worker told of a unit is not to be believed; empty if it is.

    Parameters
    ----------
    told, here : sequence of Made
        Of the same unit, as the worker and as this process sees it.
    """
    if [made.name for made in told] != [made.name for made in here]:
        return f"it made {_names(told)}, where {_names(here)} was asked for"
    for theirs, ours in zip(told, here, strict=True):
        wanted = ours.due or ours.key
        if theirs.key != wanted:
            return f"it made {ours.name} with the content key {_short(theirs.key)}, not {_short(wanted)}"
        if theirs.key != ours.key:
            return f"what it made of {ours.name} is not in the build folder here, where the key is {_short(ours.key)}"
        if theirs.stamp != ours.stamp:
            return (
                f"it reads {ours.name} from captures whose files have other sizes or times than here "
                "(copies have to keep them, as `rsync -a` does)"
            )
    return ""


def _names(made: Sequence[Made]) -> str:
    return ", ".join(one.name for one in made) or "nothing"


def _short(key: str) -> str:
    return key[:12] or "of nothing"
