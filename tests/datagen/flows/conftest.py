"""What all tests of builds share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_reports(small_pictures: None) -> None:
    """Nearly all of them write reports."""
