"""Which subjects are held out."""

from __future__ import annotations

from collections.abc import Sequence

from datagen.errors import ManifestError
from datagen.manifest import SplitConfig


def assign_splits(subjects: Sequence[str], config: SplitConfig) -> dict[str, tuple[str, ...]]:
    """Divide subjects into ``train``, ``val`` and ``test``.

    A number k takes subjects from the end of the order: the last ones for ``test``, those before them for ``val``.
    Named subjects are taken out first.

    Parameters
    ----------
    subjects : sequence of str
        In any order; they are sorted.
    config : SplitConfig

    Raises
    ------
    ManifestError
        If a name is unknown or in both, a number is negative, or no subject is left for training.
    """
    rest = sorted(set(subjects))
    chosen: dict[str, tuple[str, ...]] = {}
    for split, wanted in (("test", config.test), ("val", config.val)):
        if isinstance(wanted, int):
            continue
        unknown = sorted(set(wanted) - set(rest))
        if unknown:
            taken = sorted(set(unknown) & set(chosen.get("test", ())))
            raise ManifestError(
                f"splits.{split} names {', '.join(unknown)}"
                + (f", of which {', '.join(taken)} are in splits.test too" if taken else ""),
                f"names among {', '.join(rest) or 'no subjects'}",
                "Correct splits in the manifest, or give a number of subjects",
            )
        chosen[split] = tuple(sorted(set(wanted)))
        rest = [subject for subject in rest if subject not in wanted]
    for split, wanted in (("test", config.test), ("val", config.val)):
        if not isinstance(wanted, int):
            continue
        if wanted < 0:
            raise ManifestError(f"splits.{split} is {wanted}", "0 or more subjects, or a list of names")
        count = min(wanted, len(rest))
        if count < wanted:
            rest = []
            break
        chosen[split] = tuple(rest[len(rest) - count :])
        rest = rest[: len(rest) - count]
    if not rest:
        raise ManifestError(
            f"no subject is left for training: {len(set(subjects))} subjects, "
            f"splits.val = {config.val!r}, splits.test = {config.test!r}",
            "at least one subject more than are held out",
            "Add subjects or hold out fewer (0 is allowed)",
        )
    return {"train": tuple(rest), "val": chosen["val"], "test": chosen["test"]}
