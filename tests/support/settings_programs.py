"""Both programs' settings, for tests that hold for either."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from datagen.common.errors import ManifestError
from datagen.common.settings import Section
from datagen.manifest import Manifest, load_manifest, parse_manifest
from trainer.config import TrainConfig, load_config, parse_config


@dataclass(frozen=True)
class Program:
    """A program's settings, and keys of theirs to make mistakes with."""

    load: Callable[[Path, Iterable[str]], Section]
    parse: Callable[[dict[str, Any]], Section]
    kind: type[Section]
    text: str  # the shortest valid file
    required: str  # a key that it gives
    integer: str  # optional, at the top
    section: str  # all of whose keys are optional
    number: str  # a key of that section
    advice: str  # says where all keys are listed

    @property
    def settings(self) -> Section:
        """The shortest valid settings."""
        return self.parse(yaml.safe_load(self.text))


DATAGEN = Program(
    *(load_manifest, parse_manifest, Manifest, "name: t\nsource: {kind: simulated}\n"),
    *("source.kind", "seed", "warp", "max_distance_mm", "datagen schema"),
)
TRAINER = Program(
    *(load_config, parse_config, TrainConfig, "name: t\nfit: {steps: 4}\n"),
    *("fit.steps", "seed", "loss", "confidence_lambda", "trainer schema"),
)
both = pytest.mark.parametrize("program", [DATAGEN, TRAINER], ids=["datagen", "trainer"])


def save(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return file


def refusal(program: Program, path: Path, *overrides: str) -> str:
    """Return the message, which is one line with what was found, what was expected and what to do."""
    with pytest.raises(ManifestError) as caught:
        program.load(path, overrides)
    assert caught.value.found
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    return str(caught.value)
