"""Typed settings: strict YAML, ``--set`` overrides, and mistakes named with their place.

Recipes of datasets and configurations of training runs are both made of :class:`Section`.
"""

from __future__ import annotations

import difflib
import json
import reprlib
import types
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from datagen.common.digests import sha256_text
from datagen.common.documents import check_depth, read_text
from datagen.common.errors import CanonfaceError, ManifestError
from datagen.common.names import checked_name

# What becomes a part of paths: a subject, sequence, camera or topology.
Name = Annotated[str, AfterValidator(checked_name)]

_MERGE = "tag:yaml.org,2002:merge"
_MOST_BYTES = 4 << 20
_MOST_VALUES = 100_000  # with what aliases repeat
_SHOWN = 20  # mistakes named at once
_LONGEST = 120  # characters of a quoted key or value
# An impossible date is a ValueError, a character beyond Unicode an OverflowError, endless nesting a RecursionError.
_UNREADABLE = (yaml.YAMLError, ValueError, ArithmeticError, RecursionError)
# `!!bool maybe` is a KeyError in PyYAML, `!!int ""` an IndexError, `!!timestamp x` an AttributeError.
_NO_SCALAR = (ValueError, ArithmeticError, LookupError, AttributeError)
_NO_SECTION = {"model_type", "model_attributes_type", "dataclass_type"}


class Section(BaseModel):
    """A part of the settings: unknown keys are errors, numbers are finite, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def text(self) -> str:
        """Return the section as canonical JSON: sorted keys, every default spelt out."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1)

    @property
    def digest(self) -> str:
        """SHA-256 of :meth:`text`."""
        return sha256_text(self.text())

    def without_paths(self) -> dict[str, Any]:
        """Return the section as plain data, all keys left out that hold paths: what it means wherever files lie."""
        names = {name for name, field in type(self).model_fields.items() if not _is_path(field)}
        plain = self.model_dump(mode="json", include=names)
        return {name: _without_paths(getattr(self, name), plain[name]) for name in plain}


def _without_paths(value: Any, plain: Any) -> Any:
    if isinstance(value, Section):
        return value.without_paths()
    if isinstance(value, dict):
        return {key: _without_paths(value[key], inner) for key, inner in plain.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(one, inner) for one, inner in zip(value, plain, strict=True)]
    return plain


def _is_path(field: FieldInfo) -> bool:
    """Whether a key holds a path, or several, or none where there could be some."""

    def names(kind: Any) -> bool:
        return (isinstance(kind, type) and issubclass(kind, PurePath)) or any(map(names, get_args(kind)))

    return names(field.annotation)


SectionT = TypeVar("SectionT", bound=Section)


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings flattened into one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key given twice in one mapping: YAML would silently keep the last."""

    # While nodes are composed: later, merge keys (`<<`) have put keys of other mappings beside a mapping's own.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # no mapping or list can be a key; the constructor says so
            key = _MERGE if key_node.tag == _MERGE else self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {_quoted(key_node.value)} is given twice; keep one of them",
                    key_node.start_mark,
                )
            seen.add(key)
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values_in(node, {}) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"its aliases repeat more than {_MOST_VALUES} values", node.start_mark
            )
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # a ValueError if Python would not write so long a number
        except _NO_SCALAR as error:
            what = _quoted(node.value) if isinstance(node, yaml.ScalarNode) else "this value"
            reason = f"{what} is not a valid {node.tag.rpartition(':')[2]}" + (
                f", {error}" if isinstance(error, ValueError) else ""
            )
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from None
        return value


def _values_in(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """Count the values of a document as if every alias were written out: each is a copy once merged or written."""
    if node not in known:
        known[node] = float("inf")  # while it is counted: one that holds itself has no end
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = inner if isinstance(node, yaml.CollectionNode) else ()
        known[node] = 1 + sum(_values_in(part, known) for part in parts)
    return known[node]


def _read(text: str) -> Any:
    content = yaml.load(text, Loader=_StrictLoader)
    check_depth(content)
    return content


def read_yaml(path: Path, what: str, fix: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Parameters
    ----------
    what : str
        What the file is to the reader, such as "manifest".
    fix : str
        What to do if it cannot be read.

    Raises
    ------
    ManifestError
        If it is missing, cannot be read, is not valid YAML or not a mapping, or gives a key twice in one mapping.
    """
    try:
        content = _read(read_text(path, _MOST_BYTES))
    except FileNotFoundError:
        raise ManifestError(f"{what} {path} does not exist", "a YAML file", fix) from None
    except (OSError, *_UNREADABLE) as error:
        raise ManifestError(f"{what} {path} cannot be read: {_reason(error)}", "a YAML file", fix) from None
    if not isinstance(content, dict):
        held = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise ManifestError(f"{what} {path} {held}", "a mapping of sections", fix)
    return content


def with_overrides(content: dict[str, Any], overrides: Iterable[str], example: str, fix: str) -> dict[str, Any]:
    """Return a copy of ``content`` with ``key.path=value`` overrides applied in order; values are YAML.

    Parameters
    ----------
    content : dict
        Stays as it is, and so do mappings that YAML aliases put in several places of it.
    example : str
        An override to show as an example.
    fix : str
        What to do about a key that is not a section.

    Raises
    ------
    ManifestError
        If an override has no ``=``, its value is not valid YAML, or its path leads through a value.
    """
    for override in overrides:
        path, separator, text = override.partition("=")
        *parents, last = path.split(".")
        if not separator or not all((*parents, last)):
            raise ManifestError(
                f"--set {_quoted(override)} is not an override", "key.path=value", f"For example: --set {example}"
            )
        try:
            value = _read(text)
        except _UNREADABLE as error:
            raise ManifestError(
                f"--set {_quoted(override)}: the value is not valid YAML ({_reason(error)})",
                "key.path=value",
                "Quote the value",
            ) from None
        section = content = dict(content)
        for key in parents:
            inner = section.get(key, {})
            if not isinstance(inner, dict):
                raise ManifestError(
                    f"--set {_quoted(override)}: {key} is a value, not a section", "key.path=value", fix
                )
            section[key] = section = dict(inner)
        section[last] = value
    return content


def parse(
    section: type[SectionT],
    content: object,
    name: str,
    fix: str,
    expected: str = "",
    error: type[CanonfaceError] = ManifestError,
) -> SectionT:
    """Validate plain data as a section.

    Parameters
    ----------
    content : object
        What YAML or JSON gave.
    name : str
        Where it is from, for messages.
    fix, expected : str
        Parts of the message.
    error : type
        What to raise.

    Raises
    ------
    ManifestError
        Or ``error``: with every mistake, its place, and for an unknown key the nearest known one.
    """
    try:
        return section.model_validate(content)
    except ValidationError as mistakes:
        reason = describe(mistakes, section)
    except RecursionError as mistake:
        reason = _reason(mistake)
    except ArithmeticError as mistake:
        reason = f"a number is too large to calculate with ({mistake})"
    raise error(f"{name} is not valid: {reason}", expected, fix)


def describe(error: ValidationError, section: type[BaseModel]) -> str:
    """Say what pydantic found wrong with a section: each mistake with its dotted key."""
    items = error.errors(include_url=False)
    sentences = list(dict.fromkeys(_sentence(item, section) for item in items[:_SHOWN]))
    more = [f"and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return "; ".join(sentences + more)


def known_keys(*kinds: Any) -> list[str]:
    """Return the keys of sections and of all sections in them, also of those in unions, lists and mappings."""
    return sorted({key for kind in kinds for section in _sections(kind) for key in section.model_fields})


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return f"{error.problem or error.context}" + (
            f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        )
    if isinstance(error, yaml.reader.ReaderError):
        return f"{error.reason} (character {error.position + 1})"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


def _quoted(value: object) -> str:
    try:
        text = reprlib.repr(value) if not isinstance(value, str) else repr(value)
    except ValueError:  # of a number longer than Python writes
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"


def _sentence(item: Any, section: type[BaseModel]) -> str:
    kind, context, value = item["type"], item.get("ctx", {}), item.get("input")
    keys, holder = _place(item["loc"], section)
    where = ".".join(key if key.isprintable() and len(key) <= _LONGEST else _quoted(key) for key in keys)
    if kind in {"extra_forbidden", "invalid_key"}:
        near = _nearest(keys[-1], holder, section)
        return f"unknown key {where}" + (f" (did you mean {near}?)" if near else "")
    if kind == "missing":
        return f"{where} is missing"
    if kind.startswith("union_tag"):
        where = f"{where}.{context['discriminator'].strip(chr(39))}"
        if kind == "union_tag_not_found":
            return f"{where} is missing"
        return f"{where}: Input should be one of {context['expected_tags']}, found {_quoted(context['tag'])}"
    where = where or "the top level"
    if kind in _NO_SECTION:
        return f"{where}: Input should be a section with keys of its own, found {_quoted(value)}"
    message = item["msg"].removeprefix("Value error, ")
    # What is wrong with a section as a whole, its own check says; quoting all of it would hide that.
    return f"{where}: {message}" + (
        "" if kind == "value_error" and isinstance(value, dict) else f", found {_quoted(value)}"
    )


def _place(location: Iterable[Any], section: Any) -> tuple[list[str], Any]:
    """Return the keys of the file that lead to a mistake, and the type of what holds the last of them."""
    keys: list[str] = []
    kind = holder = section
    for part in location:
        kinds = members(kind)
        if len(kinds) > 1:
            # Pydantic puts the chosen member of a union into the location; it is not a key of the file.
            kind = next((member for member in kinds if _is_called(member, part)), Any)
            continue
        keys.append(str(part))
        holder, kind = kind, _inside(kinds[0], part)
    return keys, holder


def _nearest(key: str, holder: Any, section: type[BaseModel]) -> str:
    # A key of the section it stands in is the better guess. A key that is known elsewhere is merely in the wrong place:
    # to suggest its own name would not help.
    own = list(holder.model_fields) if is_section(holder) else []
    for known in (own, known_keys(section)):
        near = difflib.get_close_matches(key, [name for name in known if name != key], n=1)
        if near:
            return near[0]
    return ""


def is_section(kind: Any) -> bool:
    """Whether a type is that of a section."""
    return isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel)


def members(kind: Any) -> list[Any]:
    """Return what a value of a type may be, None aside: the members of a union, or the type itself."""
    if get_origin(kind) is Annotated:
        return members(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [member for part in get_args(kind) if part is not type(None) for member in members(part)]
    return [kind]


def _is_called(member: Any, label: Any) -> bool:
    if not is_section(member):
        return False
    return label == member.__name__ or any(label in values for values in _literals(member).values())


def _literals(section: type[BaseModel]) -> dict[str, tuple[Any, ...]]:
    kinds = {name: info.annotation for name, info in section.model_fields.items()}
    return {name: get_args(kind) for name, kind in kinds.items() if get_origin(kind) is Literal}


def _inside(kind: Any, part: Any) -> Any:
    """Return the type of the value under a key or index."""
    if is_section(kind):
        info = kind.model_fields.get(part)
        return info.annotation if info else Any
    arguments = [argument for argument in get_args(kind) if argument is not Ellipsis]
    if get_origin(kind) is tuple and isinstance(part, int) and part < len(arguments):
        return arguments[part]
    return arguments[-1] if arguments else Any


def _sections(kind: Any, seen: tuple[Any, ...] = ()) -> Iterator[type[BaseModel]]:
    """Yield every section that a type names, those inside them included."""
    if not is_section(kind):
        for part in get_args(kind):
            yield from _sections(part, seen)
    elif kind not in seen:
        yield kind
        for info in kind.model_fields.values():
            yield from _sections(info.annotation, (*seen, kind))
