"""Names and patterns of files: whatever is accepted is one part of a path, and every reader asks at its door."""

from __future__ import annotations

import os
import string
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datagen.common.errors import CanonfaceError, DatasetError, InputError, printable
from datagen.common.names import (
    MOST_BYTES,
    MOST_DIGITS,
    checked_name,
    checked_pattern,
    name_problem,
    require_name,
)
from datagen.manifest import parse_manifest
from datagen.shards.plan import DatasetPlan
from datagen.shards.tools.combine import merge
from datagen.sources.capture_file import CaptureFile
from datagen.sources.frame import SequenceKey
from datagen.sources.topology import checked_topology_name

ANY = st.text(st.characters(), max_size=300)
# Bad in each way there is; any text around them stays bad, but for the dots.
PIECES = ("/", "\\", "\0", "\n", "\x1b[2J", "\u202e", "\ud800", "\x7f", "\u2028")
HOSTILE = st.one_of(
    st.builds(lambda a, bad, b: a + bad + b, st.text(max_size=9), st.sampled_from(PIECES), st.text(max_size=9)),
    st.sampled_from(["", ".", "..", ".ssh", " ", "a ", "x" * (MOST_BYTES + 1), "ä" * (MOST_BYTES // 2 + 1)]),
    st.integers(1, 9).map(lambda n: "../" * n + "deep/.bashrc"),
)
GOOD = [
    "s001",
    "Anna-Lena",
    "Ünal",
    "演者 3",
    "<script>alert(1)</script>".replace("/", ""),
    "$x^$",
    'a"b',
    "CON",
]


@given(ANY)
@example("x" * MOST_BYTES)
def test_a_name_is_one_part_of_a_path_and_prints_as_it_is(text: str) -> None:
    if name_problem(text) is None:
        assert (Path("/room") / text).parts == ("/", "room", text)
        assert os.path.normpath(f"/room/{text}") == f"/room/{text}"
        assert len(f".{text}.tmp-4194304-0123abcd.npz".encode()) <= 255
        assert printable(text) == text == checked_name(text)
    else:
        with pytest.raises(ValueError, match="cannot be a name"):
            checked_name(text)
        with pytest.raises(InputError) as refused:
            require_name(text, "a subject")
        assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", GOOD)
def test_names_of_any_script_are_names(name: str) -> None:
    assert name_problem(name) is None


@given(st.one_of(st.none(), st.integers(), st.lists(st.text()), st.dictionaries(st.text(), st.text())))
def test_what_is_no_text_is_no_name(value: object) -> None:
    with pytest.raises(InputError, match="it is no text"):
        require_name(value, "a camera")


def _capture(**change: Any) -> object:
    content = {"format": "canonface-capture", "version": 1, "unit": "m", "fps": 1, "frames": [0], "pixel_center": 0}
    camera = {"K": [], "world_to_camera": [], "width": 1, "height": 1}
    return CaptureFile.model_validate({**content, "cameras": {"a": camera}, **change})


def _plan(**change: Any) -> DatasetPlan:
    tables: dict[str, Any] = {"subjects": ["a"], "sequences": ["b"], "cameras": ["c"], "splits": {"train": ["a"]}}
    return DatasetPlan(14, {"train": 1}, space={"half_extent": 0.1}, **{**tables, **change})


CAMERA = {"K": [], "world_to_camera": [], "width": 1, "height": 1}
RECIPE = {"name": "x", "source": {"kind": "simulated"}}
DOORS: dict[str, Callable[[str], object]] = {
    "camera of capture.json": lambda name: _capture(cameras={name: CAMERA}),
    "topology of capture.json": lambda name: _capture(registration={"topology": name}),
    "subject": lambda name: SequenceKey(name, "b"),
    "sequence": lambda name: SequenceKey("a", name),
    "name of a manifest": lambda name: parse_manifest({**RECIPE, "name": name}),
    "held-out subject": lambda name: parse_manifest({**RECIPE, "splits": {"val": [name]}}),
    "subject of a dataset": lambda name: _plan(subjects=["a", name]),
    "sequence of a dataset": lambda name: _plan(sequences=["b", name]),
    "camera of a dataset": lambda name: _plan(cameras=["c", name]),
    "label": lambda name: merge(["a", "b"], Path("out"), [name or "/", "b"]),
    "topology": checked_topology_name,
}


@pytest.mark.parametrize("door", DOORS)
def test_a_good_name_passes_every_door(door: str) -> None:
    with suppress(DatasetError):  # the label's datasets do not exist
        DOORS[door]("Ünal 3")


@pytest.mark.parametrize("door", DOORS)
@given(name=HOSTILE)
def test_no_door_lets_in_what_is_no_name(door: str, name: str) -> None:
    with pytest.raises((CanonfaceError, ValueError), match=r"cannot be|valid unicode|surrogates|not valid"):
        DOORS[door](name)


FIELD = st.sampled_from(["{frame}", "{frame:06d}", "{camera}", "{frame:03}"])
WILD = st.one_of(
    st.text("abc./{}:!0d[_]", max_size=12),
    st.sampled_from(
        [
            "{frame[0]}",
            "{frame.__class__}",
            "{frame!r}",
            "{frame:0999999999d}",
            "{frame:>9}",
            "{}",
            "{0}",
            "{{frame}}",
            "{frame:{camera}}",
            "{camera:9}",
            "{camera.name}",
            "../",
            "/etc/",
            "\x00",
            "\x1b",
        ]
    ),
)


@given(st.lists(st.one_of(FIELD, WILD), max_size=5).map("".join), st.booleans(), st.integers(0, 2**31 - 1))
def test_a_pattern_stays_in_its_folder_whatever_is_filled_in(pattern: str, camera: bool, frame: int) -> None:
    try:
        checked_pattern(pattern, camera=camera)
    except ValueError:
        return
    paths = {PurePosixPath(pattern.format(frame=f, camera=c)) for f in (frame, frame + 1) for c in ("a", "b")}
    assert len(paths) == (4 if camera else 2)
    for path in paths:
        assert not path.is_absolute()
        assert not {"..", "."} & set(path.parts)
        assert len(str(path)) <= len(pattern) + 4 * MOST_DIGITS
    for _, name, spec, conversion in string.Formatter().parse(pattern):
        assert name in {None, "frame", "camera"}
        assert conversion is None
        assert len(spec or "") <= 4


@pytest.mark.parametrize("pattern", ["scans/{frame:06d}.ply", "{frame}.obj", "./a/{frame:04}.ply", "{{x}}/{frame}.ply"])
def test_patterns_in_use_are_patterns(pattern: str) -> None:
    assert checked_pattern(pattern, camera=False) == pattern
    assert checked_pattern(f"{{camera}}/{pattern}", camera=True)


@given(st.text(st.characters()))
def test_what_a_terminal_is_sent_has_nothing_that_it_obeys(text: str) -> None:
    sent = printable(text)
    assert sent.replace("\n", "").isprintable()
    sent.encode()
