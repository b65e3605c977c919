"""The demo's page: what it says of each figure, and that it grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from datagen.audit.demo_page import DemoSummary, Step, judged, share_of, summary_rows, write_demo_page
from datagen.commands.demo import row_text

MEASURED = {
    "canonical_mean_mm": 9.0, "mean_map_canonical_mean_mm": 45.0,
    "depth_mean_mm": 20.0, "mean_map_depth_mean_mm": 21.0,
    "depth_aligned_mean_mm": 30.0, "mean_map_depth_aligned_mean_mm": 15.0,
}  # fmt: skip
SUMMARY = DemoSummary(
    {"warp_median_mm": 0.3, "warp_p95_mm": 5.0, "fit_steps": 121, "fit_steps_planned": 400, "residual_median_mm": None},
    {"pass": 3, "review": 1},
    {"build": 2.0},
    {"val": MEASURED},
)


def test_each_figure_is_judged_and_put_into_words() -> None:
    rows = {row.label: row for row in summary_rows(SUMMARY)}
    assert rows["warp, true error"].judgement == "good"
    assert rows["warp, true error p95"].judgement == "poor"
    canonical = rows["validation people: canonical error"]
    assert (canonical.judgement, canonical.meaning) == ("good", "a fifth of what guessing the mean gives (45.0 mm)")
    assert rows["validation people: depth error"].judgement == "poor"
    assert rows["validation people: depth error, scale aligned"].meaning.startswith("2.0 times what guessing")
    assert rows["fit"].value == "121 of 400 steps"
    assert rows["warp verdicts"].judgement == "fair"
    assert "warp, surface residual" not in rows


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(0.2, "a fifth of"), (0.33, "a third of"), (0.42, "0.42 of"), (0.98, "all of"), (3.0, "3.0 times")],
)
def test_shares_in_words(ratio: float, words: str) -> None:
    assert share_of(ratio) == words


def test_limits_are_inclusive() -> None:
    assert [judged("warp_median_mm", value) for value in (0.5, 0.51, 1.0, 1.01)] == ["good", "fair", "fair", "poor"]


def test_rows_fit_a_terminal() -> None:
    assert max(len(line) for row in summary_rows(SUMMARY) for line in row_text(row).splitlines()) <= 80


def test_the_page_grows_with_what_is_there(tmp_path: Path) -> None:
    steps = [Step("simulate", "done"), Step("warp", "running", "3 of 9"), Step("fit", "waiting")]
    first = write_demo_page(tmp_path, DemoSummary(), steps).read_text()
    assert 'http-equiv="refresh"' in first
    assert "warp · 3 of 9" in first
    assert "<img" not in first
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/cameras.png").touch()
    (tmp_path / "train").mkdir()
    (tmp_path / "train/held_out.png").touch()
    second = write_demo_page(tmp_path, DemoSummary(), steps).read_text()
    assert 'src="pictures/cameras.png"' in second
    assert 'src="train/held_out.png"' in second
    (tmp_path / "evaluation/val").mkdir(parents=True)
    (tmp_path / "evaluation/val/contact_sheet.png").touch()
    last = write_demo_page(tmp_path, SUMMARY).read_text()
    assert "http-equiv" not in last
    assert 'src="train/held_out.png"' not in last
    assert 'src="evaluation/val/contact_sheet.png"' in last
