"""Settings as YAML that explains itself: every key with its value, and above it what it means and may be.

What is printed can be saved and read again as it stands.
"""

from __future__ import annotations

import textwrap
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from datagen.common.settings import Section, is_section, members

_WIDTH = 80
_WORDS = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path"}


def commented_yaml(settings: Section) -> str:
    """Return settings as YAML with comments, in lines of at most 80 characters where values allow.

    Where a section may be of several kinds, the others follow as comments, with example values of what has no default.
    """
    return "\n".join(_lines(type(settings), settings, 0)) + "\n"


def _lines(kind: type[BaseModel], settings: BaseModel | None, indent: int, width: int = _WIDTH) -> list[str]:
    """Return the lines of a section; with None those of its defaults."""
    pad, lines = " " * indent, list[str]()
    plain = {} if settings is None else settings.model_dump(mode="json")
    for name, info in kind.model_fields.items():
        inner = [member for member in members(info.annotation) if is_section(member)]
        if not inner:
            value = plain[name] if settings is not None else _default(info)
            lines += [*_comment(_about(info), pad, width), f"{pad}{name}: {_value(value)}"]
            continue
        own = getattr(settings, name, None)
        chosen = type(own) if isinstance(own, BaseModel) else inner[0]
        blank = [""] if indent == 0 else []
        lines += [*blank, *_comment(_first_line(chosen), pad, width), f"{pad}{name}:"]
        lines += _lines(chosen, own if isinstance(own, BaseModel) else None, indent + 2, width)
        for other in inner:
            if other is not chosen:
                # Two more characters come in front of each.
                there = [f"{pad}{name}:", *_lines(other, None, indent + 2, width - 2)]
                lines += [*blank, *_comment(f"Or instead: {_first_line(other)}", pad, width)]
                lines += [f"{pad}# {line.removeprefix(pad)}" for line in there]
    return lines


def _comment(text: str, pad: str, width: int) -> list[str]:
    return [f"{pad}# {line}" for line in textwrap.wrap(text, width - len(pad) - 2, break_on_hyphens=False)]


def _value(value: Any) -> str:
    # A bare scalar ends with a document's end.
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("\n...\n").strip()
    )


def _default(info: FieldInfo) -> Any:
    """Return a default as plain data; of a key without one its example, or what it must be."""
    if not info.is_required():
        return TypeAdapter(Any).dump_python(info.get_default(call_default_factory=True), mode="json")
    if info.examples:
        return info.examples[0]
    return get_args(info.annotation)[0] if get_origin(info.annotation) is Literal else None


def _about(info: FieldInfo) -> str:
    """Return what a key means, its type and range."""
    facts = ", ".join([type_name(info.annotation), *_limits(info), *(["no default"] if info.is_required() else [])])
    return f"{info.description} ({facts})" if info.description else facts


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().partition("\n")[0]


def _limits(info: FieldInfo) -> list[str]:
    found = {
        name: getattr(item, name)
        for item in info.metadata
        for name in ("ge", "gt", "le", "lt", "multiple_of", "pattern")
        if getattr(item, name, None) is not None
    }
    limits = []
    if "ge" in found and "le" in found:
        limits.append(f"{found.pop('ge')} to {found.pop('le')}")
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
    words["pattern"] = "matching"
    return limits + [f"{words[name]} {value}" for name, value in found.items()]


def type_name(kind: Any) -> str:
    """Return a type as a user writes it."""
    choices, arguments = members(kind), get_args(kind)
    if len(choices) > 1 or choices[0] is not kind:
        names = [type_name(member) for member in choices]
        return " or ".join([*names, "null"] if type(None) in arguments else names)
    if get_origin(kind) is Literal:
        return " | ".join(str(value) for value in arguments)
    if get_origin(kind) is dict:
        return f"mapping of {type_name(arguments[0])} to {type_name(arguments[1])}"
    if get_origin(kind) in (list, tuple):
        many = "" if get_origin(kind) is list or Ellipsis in arguments else f"{len(arguments)} × "
        return f"list of {many}{type_name(arguments[0])}"
    name = getattr(kind, "__name__", str(kind))
    return _WORDS.get(name, name)
