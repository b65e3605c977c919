"""Settings of both programs: what is read, what is refused, and how a mistake is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from datagen.common.settings import read_yaml, with_overrides
from tests.support.settings_programs import DATAGEN, TRAINER, Program, both, refusal, save
from trainer.config import load_config


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "mine.yaml"


@both
@pytest.mark.parametrize(
    ("addition", "key"),
    [
        ("name: u", "name"),
        ("{section}: {{}}\n{section}: {{}}", "{section}"),
        ("{section}: {{{number}: 1, {number}: 1}}", "{number}"),
        ("{section}:\n  {number}: 1\n  '{number}': 2", "{number}"),
        ("{section}: {{{number}: [[{{deep: 1, deep: 2}}]]}}", "deep"),
        ("{section}: {{1: a, 1: b}}", "1"),
        ("{section}: {{1: a, true: b}}", "true"),
        ("{section}: {{2020-01-01: a, 2020-01-01: b}}", "2020-01-01"),
        ("{section}: {{~: a, null: b}}", "null"),
        ("{section}: {{<<: {{a: 1}}, <<: {{b: 2}}}}", "<<"),
    ],
)
def test_a_key_given_twice_is_refused(program: Program, file: Path, addition: str, key: str) -> None:
    names = {"section": program.section, "number": program.number}
    message = refusal(program, save(file, program.text + addition.format(**names)))
    assert f"the key {key.format(**names)!r} is given twice" in message
    assert "mine.yaml" in message
    assert "line " in message


@both
@pytest.mark.parametrize("value", ["{{{number}: 1, {number}: 2}}", "{{a: [{{b: 1, b: 2}}]}}", "{{1: a, 1: b}}"])
def test_a_key_given_twice_in_an_override_is_refused(program: Program, file: Path, value: str) -> None:
    override = f"{program.section}={value.format(number=program.number)}"
    assert "is given twice" in refusal(program, save(file, program.text), override)


@both
@pytest.mark.parametrize(
    "value",
    [
        *("2020-13-45", "2020-02-30 10:00:00", "2020-01-01 10:00:00 +99:00"),
        *(
            "!!bool maybe",
            "!!int ''",
            "!!int x",
            "!!float x",
            "!!timestamp soon",
            "!!binary x",
            "!!python/object:os.x 1",
        ),
        *("0x" + "f" * 5000, "9" * 5000, "1" + ":59" * 400 + ".5"),
        *('"\\U00110000"', '"\\UFFFFFFFF"', "!%ff 1", "*nothing", "[1", "{a: b: c}", "'", "@", "\0", "a\0b", "\x07"),
        *("? [1, 2]\n: 3", "{[1]: 2}", "[" * 3000, "{a: " * 3000, "- " * 3000, "\ud800"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_values_that_yaml_cannot_give_are_refused(program: Program, file: Path, value: str) -> None:
    message = refusal(program, save(file, f"{program.text}{program.integer}: {value}"))
    assert "mine.yaml cannot be read" in message
    message = refusal(program, save(file, program.text), f"{program.integer}={value}")
    assert "--set" in message
    assert program.integer in message
    assert len(message) < 600


def test_an_impossible_date_is_named_with_its_place(file: Path) -> None:
    message = refusal(DATAGEN, save(file, "name: t\nseed: 2020-13-45\n"))
    assert "'2020-13-45' is not a valid timestamp, month must be in 1..12 (line 2, column 7)" in message


@both
@pytest.mark.parametrize("content", ["", "# nothing\n", "3", "- a\n- b", "text", "~", "--- {}\n--- {}", "2020-01-01"])
def test_a_file_that_is_no_mapping_is_refused(program: Program, file: Path, content: str) -> None:
    message = refusal(program, save(file, content))
    assert "mine.yaml" in message
    assert "Expected a " in message


@both
@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"name: \xe4\n", b"\x00" * 20, b"name: t\n\x00", b"\x1f\x8b\x08\x00"]
)
def test_bytes_that_are_no_text_are_refused(program: Program, file: Path, content: bytes) -> None:
    assert "mine.yaml cannot be read" in refusal(program, save(file, content))


@both
def test_files_that_are_not_there_are_named(program: Program, tmp_path: Path) -> None:
    assert "gone.yaml does not exist. Expected a YAML file" in refusal(program, tmp_path / "gone.yaml")
    assert "cannot be read: Is a directory" in refusal(program, tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot be read: Not a directory" in refusal(program, tmp_path / "file" / "mine.yaml")
    assert "cannot be read: File name too long" in refusal(program, tmp_path / ("x" * 5000))
    # Python 3.13 words it otherwise.
    assert re.search("cannot be read: (open: )?embedded null", refusal(program, tmp_path / "a\0b"))


@both
def test_a_missing_key_is_said_to_be_missing(program: Program, file: Path) -> None:
    section, _, key = program.required.partition(".")
    content = yaml.safe_load(program.text)
    del content[section][key]
    message = refusal(program, save(file, yaml.safe_dump(content)))
    assert f"not valid: {section}.{key} is missing" in message
    assert program.advice in message
    del content[section]
    assert f"not valid: {section} is missing" in refusal(program, save(file, yaml.safe_dump(content)))


@both
def test_an_unknown_key_is_named_with_the_nearest(program: Program, file: Path) -> None:
    wrong = program.number[:-1] + "x"
    name = f"{program.section}.{wrong}"
    for text, overrides in (
        (program.text + f"{program.section}: {{{wrong}: 1}}", ()),
        (program.text, (f"{name}=1",)),
    ):
        message = refusal(program, save(file, text), *overrides)
        assert f"unknown key {name} (did you mean {program.number}?)" in message
        assert program.advice in message


@both
def test_a_key_in_the_wrong_place_is_not_its_own_advice(program: Program, file: Path) -> None:
    message = refusal(program, save(file, program.text + f"{program.number}: 1"))
    assert f"unknown key {program.number}" in message
    assert f"mean {program.number}?" not in message


@both
@pytest.mark.parametrize("key", ["1", "true", "~", "2020-01-01", "1.5", "!!binary aGk="])
def test_a_key_that_is_no_text_is_unknown(program: Program, file: Path, key: str) -> None:
    assert "unknown key" in refusal(program, save(file, f"{program.text}? {key}\n: 1\n"))
    assert "unknown key" in refusal(program, save(file, program.text), f"{program.section}={{? {key} : 1}}")


@both
@pytest.mark.parametrize(
    "value", ["many", "[1]", "{a: 1}", "1.5", "2020-01-01", "~", "", ".inf", ".nan", "-.inf", "1e999"]
)
def test_a_value_of_another_type_is_named_and_quoted(program: Program, file: Path, value: str) -> None:
    found = yaml.safe_load(value)
    for message in (
        refusal(program, save(file, f"{program.text}{program.integer}: {value}")),
        refusal(program, save(file, program.text), f"{program.integer}={value}"),
    ):
        assert f"{program.integer}: Input should be a" in message
        assert f"found {found!r}" in message


@both
@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "9" * 400])
def test_numbers_that_are_not_finite_are_refused(program: Program, file: Path, value: str) -> None:
    for message in (
        refusal(program, save(file, f"{program.text}{program.section}: {{{program.number}: {value}}}")),
        refusal(program, save(file, program.text), f"{program.section}.{program.number}={value}"),
    ):
        assert f"{program.section}.{program.number}: Input should be a" in message


@both
@pytest.mark.parametrize("value", ["3", "[1, 2]", "text", "~", ""])
def test_a_value_in_the_place_of_a_section_is_named(program: Program, file: Path, value: str) -> None:
    message = refusal(program, save(file, f"{program.text}{program.section}: {value}"))
    assert f"{program.section}: Input should be a section with keys of its own" in message


@both
@pytest.mark.parametrize(
    ("override", "reason"),
    [
        *(("{section}.{number}", "is not an override"), ("=3", "is not an override"), ("", "is not an override")),
        *(
            (".=3", "is not an override"),
            ("{section}.=3", "is not an override"),
            ("{section}..{number}=3", "is not an override"),
        ),
        *(("name.first=3", "name is a value, not a section"), ("{section}.{number}.x=3", "should be a valid number")),
    ],
)
def test_an_override_that_is_none_is_named(program: Program, file: Path, override: str, reason: str) -> None:
    text = override.format(section=program.section, number=program.number)
    message = refusal(program, save(file, program.text), text)
    assert reason in message
    assert text.partition("=")[0].removesuffix(".x") in message


@both
def test_many_and_long_mistakes_are_named_in_short(program: Program, file: Path) -> None:
    wrong = "".join(f"{'k' * 1000}{i}: {'v' * 1000}\n" for i in range(200))
    message = refusal(program, save(file, program.text + wrong))
    assert "and 180 more" in message
    assert len(message) < 6000


def test_a_number_too_large_for_a_check_is_refused(file: Path) -> None:
    message = refusal(TRAINER, save(file, f"{TRAINER.text}backbone: {{blocks: {'9' * 400}}}"))
    assert "a number is too large" in message


@both
def test_aliases_and_merge_keys_are_fine(program: Program, file: Path) -> None:
    text = f"{program.text}{program.section}: &a\n  <<: {{{program.number}: 1, <<: {{{program.number}: 3}}}}\n"
    content = json.loads(program.load(save(file, text), ()).text())
    assert content[program.section][program.number] == 1
    text += f"  {program.number}: 2\n"
    content = json.loads(program.load(save(file, text), ()).text())
    assert content[program.section][program.number] == 2
    text = f"{program.integer}: &n 5\n{program.text}{program.section}: {{{program.number}: *n}}"
    content = json.loads(program.load(save(file, text), ()).text())
    assert (content[program.integer], content[program.section][program.number]) == (5, 5)


def test_a_merged_mapping_that_is_merged_again_gives_no_key_twice(file: Path) -> None:
    # Of depths such that the outer mapping is built, merges and all, before the inner one that it merges.
    text = "outer: {inner: &m {<<: {x: 1}, x: 2}}\ntop: {<<: *m, y: 3}\nlast: {<<: [*m, {x: 9, z: 4}]}"
    assert read_yaml(save(file, text), "file", "fix") == {
        "outer": {"inner": {"x": 2}},
        "top": {"x": 2, "y": 3},
        "last": {"x": 2, "z": 4},
    }


def test_a_mapping_that_holds_itself_is_refused(file: Path) -> None:
    for text in (
        "source: &a {kind: simulated, root: *a}",
        "source: &a {kind: simulated, <<: {b: *a}}",
        "source: &a [*a]",
        "&a [*a]: 1",
    ):
        refusal(DATAGEN, save(file, f"name: t\n{text}"))


def test_an_override_changes_one_place_of_an_alias_and_not_what_it_is_given(file: Path) -> None:
    text = f"{TRAINER.text}data: {{subject_weights: &w {{a: 2}}, region_weights: *w}}"
    config = load_config(save(file, text), ["data.subject_weights.a=3"])
    assert (config.data.subject_weights, config.data.region_weights) == ({"a": 3}, {"a": 2})
    content: dict[str, Any] = {"a": {"b": 1}}
    assert with_overrides(content, ["a.b=2", "a.c=[3]", "d.e={f: 4}", "d.e.f=5"], "a=1", "fix") == {
        "a": {"b": 2, "c": [3]},
        "d": {"e": {"f": 5}},
    }
    assert content == {"a": {"b": 1}}
