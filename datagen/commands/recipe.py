"""``schema``: what a manifest may say."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from datagen.commands.options import JsonOption
from datagen.common.console import print_json
from datagen.manifest import FolderSource, Manifest, SimulatedSource


def schema_command(json_output: JsonOption = False) -> None:
    """Print every manifest key with its type, default, range and meaning; with --json, the JSON schema.

    Example: datagen schema
    """
    if json_output:
        print_json(Manifest.model_json_schema())
        return
    for line in manifest_lines():
        print(line)


def manifest_lines() -> list[str]:
    """Return the readable table, one line for each key."""
    lines = []
    for name, info in Manifest.model_fields.items():
        if name == "source":
            for source in (SimulatedSource, FolderSource):
                kind = get_args(source.model_fields["kind"].annotation)[0]
                lines += ["", f"source (kind: {kind}) — {_first_line(source)}", *_section_lines(source)]
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            lines += ["", f"{name} — {_first_line(info.annotation)}", *_section_lines(info.annotation)]
        else:
            lines.append(_key_line(name, info).strip())
    return lines


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _section_lines(section: type[BaseModel]) -> list[str]:
    return [_key_line(name, info) for name, info in section.model_fields.items()]


def _key_line(name: str, info: FieldInfo) -> str:
    limits = [_limit(item) for item in info.metadata if _limit(item)]
    default = "required" if info.default is PydanticUndefined else f"default {info.default!r}"
    notes = [default, *limits, *([info.description] if info.description else [])]
    return f"  {name}: {type_name(info.annotation)}  ({'; '.join(notes)})"


def _limit(item: Any) -> str:
    for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if getattr(item, attribute, None) is not None:
            return f"{sign} {getattr(item, attribute)}"
    if getattr(item, "multiple_of", None) is not None:
        return f"multiple of {item.multiple_of}"
    return f"matches {item.pattern}" if getattr(item, "pattern", None) else ""


def type_name(annotation: Any) -> str:
    """Return a type as a user writes it."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(part) for part in get_args(annotation) if part is not type(None))
    if str(origin) == "typing.Literal":
        return " | ".join(str(value) for value in get_args(annotation))
    if origin is tuple:
        return f"list of {type_name(get_args(annotation)[0])}"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name)


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("schema")(schema_command)
