"""``python -m benchmarks``: what the product achieves, beside its peers, in one run."""

from __future__ import annotations

from typing import NoReturn

import typer

from benchmarks import ablation, align, attributes, proof, report, write
from benchmarks.adapt import command as adapt_command
from benchmarks.detector import command as detector_command
from benchmarks.faces import command as faces_command
from benchmarks.fit import command as fit_command
from benchmarks.gpu import command as gpu_command
from benchmarks.marks import command as marks_command
from benchmarks.orchestrate import command as orchestrate_command
from benchmarks.read import command as read_command
from benchmarks.render import command as render_command
from benchmarks.surfaces import command as surfaces_command
from benchmarks.track import command as track_command
from benchmarks.track import submit as track_submit
from benchmarks.train import command as train_command
from benchmarks.warp import command as warp_command
from datagen.common.console import run

app = typer.Typer(
    name="python -m benchmarks",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Measure parts of the product, beside their peers and against known truth.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for command in (
    warp_command,
    faces_command,
    fit_command,
    surfaces_command,
    render_command,
    read_command,
    write,
    train_command,
    marks_command,
    detector_command,
    ablation,
    proof,
    align,
    attributes,
    adapt_command,
    track_command,
    track_submit,
    gpu_command,
    report,
    orchestrate_command,
):
    command.register(app)


def main() -> NoReturn:
    """Run the command line."""
    run(app)


if __name__ == "__main__":
    main()
