"""Settings: the place of a mistake in sections of every shape, the listing of keys, and the digest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from datagen.common.digests import sha256_text
from datagen.common.errors import InputError, ManifestError
from datagen.common.settings import Section, flatten, known_keys, parse, read_yaml
from datagen.common.settings_text import commented_yaml
from tests.support.settings_programs import Program, both


class Circle(Section):
    """A circle."""

    shape: Literal["circle"]
    radius: float = Field(1.0, gt=0, description="in metres")


class Square(Section):
    """A square.

    With more to say.
    """

    shape: Literal["square", "box"]
    side: float


class Corner(Section):
    """One of several."""

    roundness: int = 0


class Drawing(Section):
    """All the ways in which a section can hold others."""

    outline: Annotated[Circle | Square, Field(discriminator="shape")]
    plain: Corner | Circle | None = None
    corners: tuple[Corner, ...] = ()
    pair: tuple[int, Corner] | None = None
    named: dict[str, list[Corner]] = Field({})
    inner: Drawing | None = None
    sizes: int | tuple[int, ...] = 1
    title: str | None = Field(None, pattern="^[a-z]+$")
    dashes: list[int] = Field(default_factory=lambda: [1, 2])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"outline": {"shape": "circle", "radus": 1}}, "unknown key outline.radus (did you mean radius?)"),
        ({"outline": {"shape": "circle", "side": 1}}, "unknown key outline.side"),
        ({"outline": {"shape": "square"}}, "outline.side is missing"),
        ({"outline": {"shape": "box", "side": "x"}}, "outline.side: Input should be a valid number"),
        (
            {"outline": {"shape": "oval"}},
            "outline.shape: Input should be one of 'circle', 'square', 'box', found 'oval'",
        ),
        ({"outline": {"side": 1}}, "outline.shape is missing"),
        ({"outline": 3}, "outline: Input should be a section with keys of its own, found 3"),
        ({"plain": {"shape": "circle", "radius": -1}}, "plain.radius: Input should be greater than 0, found -1"),
        ({"corners": [{}, {"roundnes": 1}]}, "unknown key corners.1.roundnes (did you mean roundness?)"),
        ({"pair": [1, {"roundness": "x"}]}, "pair.1.roundness: Input should be a valid integer"),
        ({"named": {"a": [{}, {"rondness": 1}]}}, "unknown key named.a.1.rondness (did you mean roundness?)"),
        ({"inner": {"outline": {"shape": "square", "sid": 1}}}, "unknown key inner.outline.sid (did you mean side?)"),
        ({"sizes": [1, "x"]}, "sizes.1: Input should be a valid integer"),
        ({"corners": [{"radus": 1}]}, "unknown key corners.0.radus (did you mean radius?)"),
        ({"dashs": 1}, "unknown key dashs (did you mean dashes?)"),
        ({"a\nb": 1}, r"unknown key 'a\nb'"),
    ],
)
def test_places_in_unions_lists_and_mappings_are_keys_of_the_file(content: dict[str, Any], reason: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(Drawing, {"outline": {"shape": "circle"}, **content}, "drawing", "Mend it")
    sentences = caught.value.found.removeprefix("drawing is not valid: ").split("; ")
    assert any(sentence.startswith(reason) for sentence in sentences), caught.value.found
    assert not [part for part in ("Circle", "Square", "Corner.", "circle.", "tuple[") if part in caught.value.found]


def test_known_keys_are_those_of_all_sections_inside() -> None:
    assert known_keys(Drawing) == sorted(
        [
            *("outline", "plain", "corners", "pair", "named", "inner", "title", "dashes", "sizes"),
            *("shape", "radius", "side", "roundness"),
        ]
    )


def test_the_error_may_be_of_another_class() -> None:
    with pytest.raises(
        InputError, match=r"c is not valid: the top level: Input should be a section.*Expected a corner\. Mend it"
    ):
        parse(Corner, [], "c", "Mend it", "a corner", InputError)


def test_settings_are_printed_as_yaml_that_says_what_each_key_means() -> None:
    class Page(Section):
        """A page."""

        outline: Annotated[Circle | Square, Field(discriminator="shape")]
        sizes: tuple[int, int] = (1, 2)
        weights: dict[str, float] = Field({}, description="of ink")
        title: str | None = Field(None, pattern="^[a-z]+$")
        corner: Corner = Corner()

    page = Page(outline=Circle(shape="circle", radius=1e-5), weights={"no": 2.0}, title="no")
    text = commented_yaml(page)
    assert (
        text
        == """
# A circle.
outline:
  # circle, no default
  shape: circle
  # in metres (number, above 0)
  radius: 1.0e-05

# Or instead: A square.
# outline:
#   # square | box, no default
#   shape: square
#   # number, no default
#   side: null
# list of 2 × integer
sizes: [1, 2]
# of ink (mapping of text to number)
weights: {'no': 2.0}
# text or null, matching ^[a-z]+$
title: 'no'

# One of several.
corner:
  # integer
  roundness: 0
"""
    )
    assert Page.model_validate(yaml.safe_load(text)) == page


@both
def test_what_is_printed_can_be_saved_and_read(program: Program, tmp_path: Path) -> None:
    text = commented_yaml(program.settings)
    (tmp_path / "saved.yaml").write_text(text)
    assert parse(program.kind, read_yaml(tmp_path / "saved.yaml", "x", "y"), "x", "y") == program.settings
    listed = set(re.findall(r"^[ #]*(\w+):", text, re.MULTILINE))
    assert set(known_keys(program.kind)) <= listed
    assert max(map(len, text.splitlines())) <= 80
    # What may stand instead is good YAML too.
    for instead in re.findall(r"^# Or instead: .*\n((?:# .*\n)+)", text, re.MULTILINE):
        ((name, other),) = yaml.safe_load(re.sub("^# ", "", instead, flags=re.MULTILINE)).items()
        changed = program.settings.model_dump(mode="json") | {name: other}
        assert program.parse(changed) != program.settings


def test_text_and_digest_are_canonical() -> None:
    section = Circle(shape="circle")
    assert section.text() == '{\n "radius": 1.0,\n "shape": "circle"\n}'
    assert section.digest == sha256_text(section.text())
    assert sha256_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [2]}) == {"a.b.c": 1, "e": [2]}
