"""``bench``: what the engine and the data path reach, beside their peers, in one run."""

from __future__ import annotations

import typer

from datagen.commands import bench_read, bench_render, bench_warp, bench_write

bench = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure parts of the path on simulated captures whose truth is known.",
)
bench_warp.register(bench)
bench_render.register(bench)
bench_read.register(bench)
bench_write.register(bench)


def register(app: typer.Typer) -> None:
    """Add this group of commands."""
    app.add_typer(bench, name="bench")
