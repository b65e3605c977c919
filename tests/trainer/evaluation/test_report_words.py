"""What the evaluation's page says in words: ratios, which way is better, and whose figures a row has."""

from __future__ import annotations

import pytest

from trainer.evaluation.report import in_words
from trainer.evaluation.tables import METHODS, PREFIXES, metric_tables


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (0.25, "4 times smaller than"),
        (0.5, "2 times smaller than"),
        (0.9, "10 % smaller than"),
        (1.0, "about as large as"),
        (1.23, "23 % larger than"),
        (2.0, "2 times as large as"),
    ],
)
def test_a_ratio_of_errors_is_a_sentence(ratio: float, said: str) -> None:
    assert in_words(ratio).startswith(said)


def test_every_column_says_which_way_is_better_and_every_row_is_explained() -> None:
    metrics = {f"{prefix}{name}": 1.0 for prefix in PREFIXES for name in ("depth_absrel", "depth_delta125")}
    metrics |= {f"{prefix}correspondence_median_px": 2.0 for prefix in PREFIXES}
    tables = {table.title: table for table in metric_tables(metrics)}
    depth = tables["Depth and normals"]
    assert dict(zip(depth.header, depth.arrows, strict=True)) == {"": "", "AbsRel": "↓", "δ<1.25": "↑"}
    assert {row[0] for row in tables["Correspondence"].rows} <= METHODS.keys()
