"""Checking captures: one count from the first frame to the last."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from datagen.common import progress
from datagen.common.progress import Progress
from datagen.flows.check import check_captures
from datagen.sources.frame import SequenceKey
from tests.datagen.sources.test_folder import write_sequence


def test_what_is_counted_is_a_share_of_all_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(progress, "FIRST_LOG_SECONDS", 0.0)
    for sequence in ("a", "b", "c"):
        write_sequence(tmp_path, SequenceKey("anna", sequence))
    stream = io.StringIO()
    with Progress("check", 0, "frames", stream) as shown:
        found = check_captures(tmp_path, shown)
    assert (found.sequences, found.frames, found.problems) == (3, 6, [])
    assert re.findall(r"\d+/\d+", stream.getvalue()) == [f"{k}/6" for k in range(1, 7)]
