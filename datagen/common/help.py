"""Help that people read on a terminal of 80 columns: nothing is cut short, examples can be copied, types are words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click.core import Command as AnyCommand
    from typer._click.core import Context, Parameter
    from typer._click.formatting import HelpFormatter

_EXAMPLE = "Example: "
# How a value of each type is written; of several names to choose from, the names.
_TYPES = {"path": "PATH", "int": "N", "int range": "N", "float": "X", "float range": "X", "str": "TEXT"}
_WIDEST_NAME = 26
# That a count is not negative goes without saying.
_RANGES = ((r"; x>=0\]$", "]"), (r"\[x>=0\]$", ""), (r"\bx>=(\S+)\]$", r"at least \1]"))


class App(typer.Typer):
    """A command line whose commands all have this help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            cls=_Group,
            no_args_is_help=True,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
            **settings,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Add a command; its docstring ends with a line "Example: PROGRAM ..."."""
        return super().command(name, cls=_Command, **settings)


class _Command(TyperCommand):
    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        return ["[OPTIONS]", *(_argument(p) if p.required else f"[{_argument(p)}]" for p in arguments)]

    def format_help_text(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002 - typer's
        text, _, example = (self.help or "").partition(_EXAMPLE)
        _paragraphs(formatter, text)
        if example:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text("Example:")
                with formatter.indentation():
                    for line in _command_lines(example, formatter.width - formatter.current_indent):
                        formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        _format_parameters(self, ctx, formatter)


class _Group(TyperGroup):
    def format_help_text(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002 - typer's
        _paragraphs(formatter, self.help or "")

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        _format_parameters(self, ctx, formatter)
        rows = [(name, _summary(command)) for name, command in self.commands.items() if not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _format_parameters(command: AnyCommand, ctx: Context, formatter: HelpFormatter) -> None:
    rows: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            name, text = record
            if parameter.param_type_name == "argument":  # the usage line says which are required
                name, text = _argument(parameter), text.removesuffix("[required]")
            name = re.sub("<(.+)>", _type, name)
            for pattern, words in _RANGES:
                text = re.sub(pattern, words, text)
            rows[parameter.param_type_name].append((name, text.strip()))
    for kind, title in (("argument", "Arguments"), ("option", "Options")):
        if rows[kind]:
            with formatter.section(title):
                formatter.write_dl(rows[kind], col_max=_WIDEST_NAME)


def _argument(parameter: Parameter) -> str:
    name = str(parameter.metavar or parameter.name).upper()
    return f"{name}..." if parameter.nargs != 1 else name


def _type(shown: re.Match[str]) -> str:
    kind = shown[1]
    if kind.startswith("list["):
        kind = kind[5:-1]
    return _TYPES.get(kind, kind)


def _paragraphs(formatter: HelpFormatter, text: str) -> None:
    for paragraph in filter(None, (" ".join(part.split()) for part in text.split("\n\n"))):
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(paragraph)


def _summary(command: AnyCommand) -> str:
    """Return the first thing that is said of a command, whole."""
    first = " ".join((command.help or "").partition("\n\n")[0].split())
    return re.split(r"[;.](?= |$)", first)[0]


def _command_lines(example: str, width: int) -> list[str]:
    """Break a command line between options, so that it can be pasted into a shell."""
    lines = [""]
    words = " ".join(example.split()).strip("`").split(" ")
    for k, word in enumerate(words):
        # An option stays with its value.
        piece = word if not word.startswith("-") else " ".join(words[k : k + 2])
        room = width - len(" \\")
        if lines[-1] and len(lines[-1]) + 1 + len(piece) > room:
            lines[-1] += " \\"
            lines.append(f"  {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}".strip() if len(lines) == 1 else f"{lines[-1]} {word}"
    return lines
