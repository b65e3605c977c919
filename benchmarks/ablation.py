"""``ablation``: fit the same network with one thing changed at a time, measure each, print a table."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes


@dataclass(frozen=True)
class Variant:
    """One way to fit the network.

    Attributes
    ----------
    name, title : str
        Of its folder, and in the table.
    overrides : tuple of str
        What it changes of the configuration.
    frames : int
        Frames predicted together when it is measured.
    canonical, confidence : bool
        Whether it learns canonical coordinates, and confidences of its own; figures of what it does not learn say
        nothing.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    frames: int = 4
    canonical: bool = True
    confidence: bool = True


_JOINT = "loss.depth_confidence=joint"
VARIANTS = (
    Variant("reference", "reference: 1, 2 and 4 frames, DPT"),
    Variant("seed", "reference, another seed", ("seed=1",)),
    Variant("no-canonical", "without canonical coordinates", ("loss.canonical=0",), canonical=False),
    Variant(
        "no-confidence",
        "without predicted confidence",
        ("loss.confidence_lambda=0", "loss.depth_lambda=0", _JOINT),
        confidence=False,
    ),
    Variant("clip-depth", "depth aligned clip by clip", ("loss.depth_scale=clip",)),
    Variant("depth-lambda", "depth's λ 1", ("loss.depth_lambda=1", _JOINT)),
    Variant("depth-lambda-half", "depth's λ 1, depth counts half", ("loss.depth_lambda=1", "loss.depth=0.5", _JOINT)),
    Variant(
        "clip-lambda", "depth's λ 1, aligned clip by clip", ("loss.depth_lambda=1", "loss.depth_scale=clip", _JOINT)
    ),
    Variant("apart", "depth's confidence apart", ("loss.depth_lambda=1", "loss.depth_confidence=apart")),
    Variant("large-kernel", "large-kernel decoder", ("decoder.kind=large_kernel",)),
    Variant("one-frame", "learns and sees one frame", ("data.clip_lengths=[1]",), frames=1),
    Variant("four-frames", "learns four frames only", ("data.clip_lengths=[4]",)),
    Variant("no-stages", "patches alone, no convolutional stages", ("backbone.stages=0",)),
    Variant("stages", "convolutional stages, patches of 16", ("backbone.stages=32", "backbone.patch=16")),
    Variant("no-singles", "clips from the first step on", ("data.singles=0",)),
    Variant("singles", "single frames first, 70 %", ("data.singles=0.7",)),
    Variant("no-likeness", "attention across the clip begins evenly", ("backbone.likeness_start=false",)),
    Variant("no-consistency", "frames of a clip need not agree", ("loss.consistency=0",)),
)
# Figure, heading, digits, and what a variant must learn for it to mean anything.
COLUMNS = (
    ("canonical_mean_mm", "canonical, mean mm", 2, "canonical"),
    ("correspondence_median_px", "frames, median px", 3, "canonical"),
    ("posed_correspondence_median_px", "posed, median px", 2, ""),
    ("subject_correspondence_median_px", "subjects, median px", 2, "canonical"),
    ("depth_mean_mm", "depth, mean mm", 2, ""),
    ("depth_aligned_mean_mm", "aligned, mean mm", 2, ""),
    ("normal_mean_deg", "normals, mean °", 2, ""),
    ("canonical_confidence_rank_correlation", "canonical confidence, rank corr.", 2, "canonical confidence"),
    ("depth_confidence_rank_correlation", "depth confidence, rank corr.", 2, "confidence"),
)


def ablation_command(
    dataset: Annotated[Path, typer.Argument(help="A dataset.zarr folder, or a build folder that holds one.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs, with a subfolder for each variant.")],
    config: Annotated[str, typer.Option(help="A YAML file, or a configuration of the trainer.")] = "proof",
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For every variant, such as fit.steps=400; may be repeated."),
    ] = None,
    split: Annotated[Literal["val", "test"], typer.Option(help="The people that each is measured on.")] = "test",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help=f"Run this variant only; may be repeated: {', '.join(v.name for v in VARIANTS)}."
        ),
    ] = None,
) -> None:
    """Fit the same network with one thing changed at a time, measure each on people it has not seen, print a table.

    Every run takes the same steps over the same frames. The reference is fitted twice, from two seeds: these two
    differ by chance alone. A killed call resumes where it stopped. The dataset is meant to be that of `datagen build
    manifests/proof.yaml --out runs/proof`: ten minutes of one core for each network of the example. Variants that
    change what a configuration does not have are the reference once more: choose with --only.

    Example: python -m benchmarks ablation runs/proof --out runs/ablation --set fit.steps=800 --set fit.val_every=400
    """
    names = [variant.name for variant in VARIANTS]
    for name in only or ():
        if name not in names:
            raise InputError(f"--only {name}", f"one of {', '.join(names)}", "")
    figures = {
        variant.name: measure(variant, dataset, out, config, options or [], split)
        for variant in VARIANTS
        if not only or variant.name in only
    }
    print(table(figures))


def measure(variant: Variant, dataset: Path, out: Path, config: str, options: list[str], split: str) -> dict[str, Any]:
    """Fit a variant unless that is done, evaluate it unless that is done, return its figures."""
    folder = out / variant.name
    stored = folder / f"{split}.json"
    fit = ["fit", str(dataset), "--out", str(folder), "--config", config]
    for override in (*options, *variant.overrides):
        fit += ["--set", override]
    _trainer(*fit)  # a finished run of another configuration is refused here
    if not stored.is_file():
        answer = _trainer("evaluate", str(folder), str(dataset), *f"--split {split} --json".split(), *_frames(variant))
        atomic_write_bytes(stored, answer.encode())
    return dict(json.loads(stored.read_text())["figures"])


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Return the figures as Markdown, one row for each variant."""
    rows = [["", *(heading for _, heading, _, _ in COLUMNS)], ["---"] * (len(COLUMNS) + 1)]
    for variant in VARIANTS:
        if variant.name in figures:
            found = figures[variant.name]
            rows.append([variant.title, *(_cell(variant, found, *column) for column in COLUMNS)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(variant: Variant, figures: dict[str, Any], name: str, _heading: str, digits: int, needs: str) -> str:
    value = figures.get(name)
    learnt = all(getattr(variant, need) for need in needs.split())
    return f"{value:.{digits}f}" if learnt and value is not None and math.isfinite(value) else "–"


def _frames(variant: Variant) -> list[str]:
    return ["--frames", str(variant.frames)]


def _trainer(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "trainer.cli", *command], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    return done.stdout


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("ablation")(ablation_command)
