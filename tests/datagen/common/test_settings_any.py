"""Settings: whatever is given as a file or override is valid or refused, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import ManifestError
from datagen.common.settings import flatten, known_keys
from tests.support.settings_programs import Program, both, save


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "mine.yaml"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.sampled_from(["simulated", "folder", "anny", "auto", "s00", 10**400]),
)


def values(keys: list[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys) | SCALARS, inner, max_size=3),
        max_leaves=8,
    )


PIECES = st.lists(
    st.sampled_from(
        [
            *("name", "seed", "source", "kind", "simulated", "warp", "fit", "steps", "data", "subject_weights", "loss"),
            *(": ", ":", "\n", "\n  ", "- ", "? ", "{", "}", "[", "]", ", ", "&a ", "*a", "<<: ", "!!int ", "!!set "),
            *(
                "!!binary ",
                "!!omap ",
                "!!timestamp ",
                "%YAML 1.1\n",
                "---\n",
                "...\n",
                "|\n",
                ">-\n",
                "'",
                '"',
                "\\U",
                "#",
            ),
            *(
                "=",
                "0x",
                "0b",
                "1",
                "1.5",
                "1e9",
                ".inf",
                "~",
                "12:30:45",
                "2020-13-45",
                "2020-01-01T",
                "\0",
                "\ufeff",
                "\t",
            ),
        ]
    ),
    max_size=20,
).map("".join)


def either_valid_or_refused(program: Program, path: Path, overrides: Iterable[str]) -> None:
    try:
        settings_read = program.load(path, overrides)
    except ManifestError as error:
        complaint = error
    else:
        complaint = None
    if complaint is not None:
        assert complaint.found
        assert complaint.fix
        return
    again = program.parse(json.loads(settings_read.text()))
    assert again == settings_read
    assert again.digest == settings_read.digest


@both
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_file_is_valid_or_refused(program: Program, file: Path, data: st.DataObject) -> None:
    content = data.draw(
        st.one_of(
            st.binary(),
            st.text().map(str.encode),
            PIECES.map(str.encode),
            PIECES.map(lambda text: (program.text + text).encode()),
            values(known_keys(program.kind)).map(lambda value: yaml.safe_dump(value).encode()),
            st.dictionaries(st.sampled_from(list(program.kind.model_fields)), values(known_keys(program.kind))).map(
                lambda value: yaml.safe_dump(yaml.safe_load(program.text) | value).encode()
            ),
        )
    )
    either_valid_or_refused(program, save(file, content), ())


@both
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_override_is_valid_or_refused(program: Program, file: Path, data: st.DataObject) -> None:
    keys = [*flatten(json.loads(program.load(save(file, program.text), ()).text())), *program.kind.model_fields]
    texts = st.one_of(
        st.text(),
        st.text(st.characters(codec=None, exclude_categories=[])),
        PIECES,
        values(known_keys(program.kind)).map(lambda value: yaml.safe_dump(value, default_flow_style=True)),
    )
    override = st.one_of(texts, st.tuples(st.sampled_from(keys), texts).map("=".join))
    either_valid_or_refused(program, file, data.draw(st.lists(override, min_size=1, max_size=3)))
