"""Settings: the place of a mistake in sections of every shape, the listing of keys, and the digest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from datagen.common.digests import sha256_text
from datagen.common.errors import InputError, ManifestError
from datagen.common.settings import Section, flatten, known_keys, parse, schema_lines
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


def test_the_listing_has_every_key_with_its_type_default_and_range() -> None:
    class Page(Section):
        """A page."""

        outline: Annotated[Circle | Square, Field(discriminator="shape")]
        sizes: tuple[int, int] = (1, 2)
        weights: dict[str, float] = Field({})
        title: str | None = Field(None, pattern="^[a-z]+$")
        corner: Corner = Corner()

    assert schema_lines(Page) == [
        "sizes: list of 2 × integer  (default (1, 2))",
        "weights: mapping of text to number  (default {})",
        "title: text  (default None; matches ^[a-z]+$)",
        "",
        "outline (shape: circle) — A circle.",
        "  shape: circle  (required)",
        "  radius: number  (default 1.0; > 0; in metres)",
        "",
        "outline (shape: square | box) — A square.",
        "  shape: square | box  (required)",
        "  side: number  (required)",
        "",
        "corner — One of several.",
        "  roundness: integer  (default 0)",
    ]


@both
def test_the_listing_of_both_programs_is_complete(program: Program) -> None:
    listed = {line.strip().partition(":")[0] for line in schema_lines(program.kind)}
    headed = {line.partition(" ")[0].rpartition(".")[2] for line in schema_lines(program.kind) if " — " in line}
    assert set(known_keys(program.kind)) <= listed | headed


def test_text_and_digest_are_canonical() -> None:
    section = Circle(shape="circle")
    assert section.text() == '{\n "radius": 1.0,\n "shape": "circle"\n}'
    assert section.digest == sha256_text(section.text())
    assert sha256_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [2]}) == {"a.b.c": 1, "e": [2]}
