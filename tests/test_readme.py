"""The README's way of reading a dataset runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from datagen.flows.result import BuildResult
from tests.support.places import ROOT


def test_the_loop_of_the_readme_reads_a_dataset(tiny_build: BuildResult) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(code.replace("runs/demo", str(tiny_build.root)), names)
    batch = names["batch"]
    assert isinstance(batch, dict)
    assert tuple(batch["image"].shape[1:]) == (3, 56, 56)
    assert tuple(batch["depth"].shape[1:]) == (56, 56)
    assert float(batch["depth"].max()) > 0.3


def test_every_picture_of_the_readme_is_there() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text())
    assert len(pictures) >= 3
    assert [path for path in pictures if not Path(ROOT, path).is_file()] == []
