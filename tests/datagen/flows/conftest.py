"""What all tests of builds share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_pictures() -> Iterator[None]:
    """Draw the pictures of reports small: they take a sixth of a small build, and tests of the audit look at them."""
    from datagen.audit import samples, warp_pictures

    with pytest.MonkeyPatch.context() as patch:
        for module in (samples, warp_pictures):
            patch.setattr(module, "TILE_PX", 96)
        yield
