"""Several models measured on the same samples, on one page: a row each in every table, and what each one is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.common.files import atomic_write_bytes
from datagen.common.pages import render_page
from trainer.evaluation import tables
from trainer.evaluation.report import Result

COMPARISON_PAGE, COMPARISON_FILE = COMPARISON_FILES = ("index.html", "comparison.json")


@dataclass(frozen=True)
class Compared:
    """One model of a comparison.

    Attributes
    ----------
    name : str
        By which it is told apart; its own page is ``<name>/index.html``.
    facts : dict of str to str
        Model, step, dates, versions, data.
    """

    name: str
    result: Result
    facts: dict[str, str]


def names_of(checkpoints: Sequence[Path]) -> list[str]:
    """Return a short name for each checkpoint: of its run's folder, with the file's where that is not ``best.pt``."""
    found: list[str] = []
    for path in checkpoints:
        place = path.resolve()
        name = place.name if place.is_dir() or place.name != "best.pt" else place.parent.name
        if place.is_file() and place.name == "last.pt":
            name = f"{place.parent.name}-last"
        name = name.removesuffix(".pt") or "model"
        number = sum(other == name or other.startswith(f"{name}-") for other in found)
        found.append(name if name not in found else f"{name}-{number + 1}")
    return found


def comparison_text(compared: Sequence[Compared]) -> str:
    """Return the tables as text."""
    return tables.tables_text(tables.comparison_tables([(one.name, one.result.metrics) for one in compared]))


def write_comparison(folder: Path, compared: Sequence[Compared]) -> Path:
    """Write ``index.html`` and ``comparison.json``; each model's own page lies in a folder of its name beside them."""
    shown = tables.comparison_tables([(one.name, one.result.metrics) for one in compared])
    facts = list(dict.fromkeys(name for one in compared for name in one.facts))
    # What all have in common is said once.
    common = {name: compared[0].facts.get(name, "") for name in facts}
    common = {name: value for name, value in common.items() if all(one.facts.get(name) == value for one in compared)}
    page = render_page(
        "trainer.evaluation",
        "templates",
        "comparison.html.j2",
        split=compared[0].result.split,
        samples=compared[0].result.samples,
        compared=compared,
        common=common,
        facts=[name for name in facts if name not in common],
        tables=shown,
        names={one.name for one in compared},
    )
    results = [{"name": one.name, "facts": one.facts, **one.result.to_json()} for one in compared]
    atomic_write_bytes(folder / COMPARISON_FILE, (json.dumps(results, indent=1) + "\n").encode())
    atomic_write_bytes(folder / COMPARISON_PAGE, page)
    return folder / COMPARISON_PAGE
