"""``datagen`` called within the process, as its console script does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from datagen import cli


def call(*words: str | Path) -> int:
    """Run ``datagen`` with some words, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["datagen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)
