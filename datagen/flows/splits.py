"""Which subjects are held out: a pure function of their names, the recipe, and what earlier runs decided."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from datagen.common.errors import InputError, ManifestError
from datagen.manifest import HELD_OUT, SplitConfig
from datagen.shards.schema import SPLITS

TRAIN = "train"
_SHOWN = 5
Splits = dict[str, tuple[str, ...]]


def assign_splits(
    subjects: Iterable[str], config: SplitConfig, earlier: Mapping[str, str] | None = None, *, seed: int = 0
) -> Splits:
    """Divide subjects into ``train``, ``val`` and ``test``.

    A subject that an earlier run put somewhere stays there, whatever the recipe says now. Of the others those are
    taken out first that the recipe names. Then, with ``by: order``, numbers take subjects from the end of the order:
    the last ones for ``test``, those before them for ``val``; held-out subjects that stay count, and where too few
    are new for both, ``val`` comes first. With ``by: hash`` the hash of each name decides alone, so that a subject's
    split never depends on who else there is.

    Parameters
    ----------
    subjects : iterable of str
        In any order; they are sorted.
    config : SplitConfig
    earlier : mapping of subject to split, optional
        What earlier runs of this build decided; may hold subjects that are gone.
    seed : int
        Of the recipe; part of the hash.

    Raises
    ------
    ManifestError
        If a name is unknown, in both, or in another split than it was; if a number is negative, or no subject is left
        for training.
    InputError
        If ``earlier`` holds what is no split.
    """
    present = sorted(set(subjects))
    where = {subject: split for subject, split in (earlier or {}).items() if subject in set(present)}
    unknown = sorted({split for split in where.values() if split not in SPLITS})
    if unknown:
        raise InputError(f"an earlier run has subjects in {', '.join(unknown)}", f"one of {', '.join(SPLITS)}")
    for split in HELD_OUT:
        _take_named(split, config, present, where)
    new = [subject for subject in present if subject not in where]
    if config.by == "hash":
        where.update((subject, _by_hash(subject, config, seed)) for subject in new)
    else:
        where.update(_by_order(new, config, where))
    if TRAIN not in where.values():
        raise ManifestError(
            f"no subject is left for training: {len(present)} subjects, "
            f"splits.val = {config.val!r}, splits.test = {config.test!r}",
            "at least one subject more than are held out",
            "Add subjects or hold out fewer (0 is allowed)",
        )
    return {split: tuple(subject for subject in present if where[subject] == split) for split in SPLITS}


def _take_named(split: str, config: SplitConfig, present: Sequence[str], where: dict[str, str]) -> None:
    """Put the subjects that the recipe names for a split into it, or refuse."""
    wanted = getattr(config, split)
    if not isinstance(wanted, tuple):
        return
    other = next(name for name in HELD_OUT if name != split)
    in_both = sorted(set(wanted) & set(named if isinstance(named := getattr(config, other), tuple) else ()))
    unknown = sorted((set(wanted) - set(present)) | set(in_both))
    if unknown:
        raise ManifestError(
            f"splits.{split} names {', '.join(unknown)}"
            + (f", of which {', '.join(in_both)} are in splits.{other} too" if in_both else ""),
            f"names among {', '.join(present) or 'no subjects'}",
            "Correct splits in the manifest, or give a number of subjects",
        )
    moved = sorted(subject for subject in wanted if where.get(subject, split) != split)
    if moved:
        listed = ", ".join(f"{subject} (in {where[subject]})" for subject in moved[:_SHOWN])
        more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        raise ManifestError(
            f"splits.{split} names {listed}{more}, whom an earlier run of this build put into another split",
            "every subject in the split it was in: a model may have been fitted to it",
            f"Take the names out of splits.{split}, or build anew: choose another --out, or pass --replace",
        )
    where.update(dict.fromkeys(wanted, split))


def _by_order(new: Sequence[str], config: SplitConfig, where: Mapping[str, str]) -> dict[str, str]:
    """Hold out the last of the new subjects, as many as the recipe's numbers still lack."""
    lack = dict.fromkeys(HELD_OUT, 0)
    for split in HELD_OUT:
        wanted = getattr(config, split)
        if isinstance(wanted, int):
            if wanted < 0:
                raise ManifestError(f"splits.{split} is {wanted}", "0 or more subjects, or a list of names")
            lack[split] = max(wanted - sum(found == split for found in where.values()), 0)
    val = min(lack["val"], len(new))
    test = min(lack["test"], len(new) - val)
    rest = len(new) - val - test
    return {subject: TRAIN if i < rest else "val" if i < rest + val else "test" for i, subject in enumerate(new)}


def _by_hash(subject: str, config: SplitConfig, seed: int) -> str:
    """Return the split of a subject: ``test`` below its share of the hash's range, ``val`` above the rest of its own.

    From both ends, so that a change of one share moves nobody between the two.
    """
    digest = hashlib.sha256(f"{seed}/{subject}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    shares = {split: value if isinstance(value := getattr(config, split), float) else 0.0 for split in HELD_OUT}
    if place < shares["test"]:
        return "test"
    return "val" if place >= 1 - shares["val"] else TRAIN


def describe_splits(splits: Splits, config: SplitConfig, earlier: Mapping[str, str] | None = None) -> str:
    """Return the policy of a build's splits in a line: how they are decided, who stays, and where numbers are missed.

    Parameters
    ----------
    splits : mapping of split to subjects
        What :func:`assign_splits` gave.
    config : SplitConfig
    earlier : mapping of subject to split, optional
        What it was given.
    """
    how = "by the hash of each name" if config.by == "hash" else "the last in order"
    parts = [f"{how} ({', '.join(f'{split} {_wish(getattr(config, split))}' for split in HELD_OUT)})"]
    held = {subject for subjects in splits.values() for subject in subjects}
    staying = len(held & set(earlier or ()))
    if staying:
        parts.append(f"{staying} of {len(held)} subjects stay where earlier runs put them")
    parts += [f"so {split} has {len(splits[split])}" for split in missed_numbers(splits, config)]
    return "; ".join(parts)


def missed_numbers(splits: Mapping[str, Sequence[str]], config: SplitConfig) -> list[str]:
    """Return the splits whose number of subjects is not the recipe's, since whoever was elsewhere stays there."""
    wanted = {split: getattr(config, split) for split in HELD_OUT}
    return [split for split, count in wanted.items() if isinstance(count, int) and len(splits[split]) != count]


def _wish(wanted: int | float | tuple[str, ...]) -> str:
    if isinstance(wanted, tuple):
        return "named"
    return f"{wanted:.3g} of them" if isinstance(wanted, float) else str(wanted)
