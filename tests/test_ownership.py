"""Whatever lies where a command writes keeps its bytes, unless a record of ours names them: every command, many places.

Each command runs once undisturbed. The names of what it wrote, and names near them, are then taken by other people's
files: in an empty output, and in a finished one where they replace or join what the command wrote. The command runs
again, and whether it refuses or not, every one of those files has to be there with every byte.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import typer

import datagen.cli
import trainer.cli
from datagen.common.ownership import LISTING, walk
from datagen.fit.problem import Fit, FitFrame, FittedFrame
from datagen.layout import BuildLayout
from datagen.sources.frame import SequenceKey
from datagen.warp.storage import read_warp
from datagen.warp.template import WarpTemplate
from tests.layouts.colmap import write_colmap
from tests.support.build_trees import copy_build
from tests.support.predict_scene import write_photos
from tests.support.published_weights import published, to_depth_anything_3, write_config
from tests.support.stand_in_detector import stand_in_python
from tests.support.trainer_scene import build_scene

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

pytestmark = pytest.mark.usefixtures("small_pictures")
SEEDS = range(2)
FIRST = SequenceKey("s000", "performance")
# Besides what a command writes: what people keep in folders, and what looks like something that we left.
USUAL = ("notes.txt", "train/photo.jpg", "report/index.html", "captures/a/b/capture.json", "warps/a/b/000000/warp.npz")
USUAL += ("dataset.zarr/zarr.json", "dataset.zarr/train/photo.jpg", "zarr.json", "state.json", "last.pt", "config.json")
USUAL += (LISTING, ".lock", ".prefect/prefect.db", ".x.tmp-backup", "manifest.json", "record.json", "tensorboard/x")

# Of another person of the project: tests/datagen/shards has the like for them.
# `flame` writes as `meshes` does, but not of this head: tests/datagen/flows/test_export_performances.py.
# `points` needs a model that knows a face: tests/trainer/prediction/test_points.py.
ELSEWHERE = {"push", "merge", "subset", "flame", "points"}
# All that these do to a disk is to read it.
READING = {"status", "verify", "stats", "check", "explain", "schema"}


@dataclass(frozen=True)
class Scene:
    """What there is to work with; nobody changes it."""

    build: Path
    manifest: Path
    data: Path
    run: Path
    aligned: Path
    told: Path
    avatar: Path
    photos: Path
    weights: Path
    detector: Path


@dataclass(frozen=True)
class Writer:
    """How a command is called.

    Attributes
    ----------
    words : callable
        Of the scene and the output: the command line.
    again : tuple of str
        What is added the second time, so that something has to be replaced.
    finished : callable, optional
        Makes a finished output by other means than the command: a build for those that work in one, or are slow.
    fresh : bool
        Whether the command begins with an empty output.
    """

    words: Callable[[Scene, Path], list[str | Path]]
    again: tuple[str, ...] = ()
    finished: Callable[[Scene, Path], object] | None = None
    fresh: bool = True


def a_build(scene: Scene, out: Path) -> None:
    copy_build(scene.build, out)


def a_submission(scene: Scene, out: Path) -> None:
    """Copy a build of which the scripts for a cluster are written."""
    a_build(scene, out)
    assert call("datagen", "submit", "slurm", out, "--dry-run") == 0


def a_workspace_imported(_: Scene, out: Path) -> list[str | Path]:
    rig = out.with_name(f"{out.name} rig")
    if not rig.exists():
        write_colmap(rig, "PINHOLE")
    return ["import", "colmap", rig, "--unit", "mm", "--out", out]


def captures_to_describe(scene: Scene, out: Path) -> None:
    """Copy captures; those of the first subject without their capture.json."""
    shutil.copytree(BuildLayout(scene.build).captures, out)
    (out / str(FIRST) / "capture.json").unlink()


def captures_with_pictures(scene: Scene, out: Path) -> None:
    """Copy captures, looked at: the file of one picture is made again."""
    shutil.copytree(BuildLayout(scene.build).captures, out)
    assert call("datagen", "evidence", out, "--detector-python", scene.detector) == 0


def captures_looked_at(scene: Scene, out: Path) -> Path:
    """Return captures with evidence, beside the output."""
    seen = out.with_name(f"{out.name} seen")
    if not seen.exists():
        captures_with_pictures(scene, seen)
        for path in seen.glob("*/*/capture.json"):
            content = json.loads(path.read_text()) | {"evidence": "evidence/detector/{camera}/{frame:06d}.npz"}
            path.write_text(json.dumps(content))
    return seen


def a_fit(
    _: object, template: WarpTemplate, frames: Sequence[FitFrame], *_more: object, **_others: object
) -> tuple[Fit, Sequence[FitFrame]]:
    """Return what is written of a fit, without one."""
    head = template.head.vertices
    spread, weights = np.zeros(len(head)), np.zeros(3)
    found = (
        FittedFrame(
            one.index, head, spread, weights, np.eye(4), {("a", look.camera.name): 1.0 for look in one.evidence}
        )
        for one in frames
    )
    return Fit(tuple(found), weights, head, 1.0), frames


def a_run(scene: Scene, out: Path) -> None:
    shutil.copytree(scene.run, out)


def an_alignment(scene: Scene, out: Path) -> None:
    shutil.copytree(scene.aligned, out)


def a_parameter_head(scene: Scene, out: Path) -> None:
    shutil.copytree(scene.told, out)


def an_avatar(scene: Scene, out: Path) -> None:
    shutil.copytree(scene.avatar, out)


def serial(*words: str | Path) -> list[str | Path]:
    return [*words, "--runner", "serial"]


def frame(scene: Scene) -> Path:
    return BuildLayout(scene.build).frame_warp(FIRST, 0)


def captures(scene: Scene) -> Path:
    return BuildLayout(scene.build).captures / str(FIRST)


QUICK = ["fit.device=cpu", "fit.threads=1", "fit.steps=2", "fit.save_every=1"]
SET = [word for change in QUICK for word in ("--set", change)]
ALIGN = [*SET, "--set", "network.image_size=32", "--set", "coarse_steps=1", "--set", "whole_samples=64"]
TELL = [*SET, "--set", "network.image_size=32", "--set", "network.finest=8", "--set", "network.width=4"]
TELL += ["--set", "points_steps=1"]
BE = [*SET, "--set", "network.image_size=32", "--set", "network.texture=16", "--set", "network.width=4"]
LOOK = ["--set", "steps=1", "--set", "pairs=1", "--set", "studio_pictures=2", "--set", "check_pictures=2"]
WITHOUT = [word for part in ("ply", "videos", "viewer", "tracks") for word in ("--without", part)]
SIZE = ("--size", "28")
OUT = "file"  # of commands that write a single one
WRITERS = {
    "datagen build": Writer(
        lambda s, out: serial("build", s.manifest, "--out", out), ("--set", "render.resolution=42"), a_build
    ),
    "datagen plan": Writer(
        lambda s, out: ["plan", s.manifest, "--freeze", out], ("--set", "render.resolution=42"), a_build
    ),
    "datagen finish": Writer(lambda _, out: ["finish", out], ("--deep",), a_build, fresh=False),
    "datagen slurm": Writer(lambda _, out: ["submit", "slurm", out, "--dry-run"], ("--cpus", "2"), a_submission, False),
    "datagen init": Writer(lambda _, out: ["init", out, "--unit", "m"], (), captures_to_describe, fresh=False),
    "datagen evidence": Writer(
        lambda s, out: ["evidence", out, "--detector-python", s.detector], (), captures_with_pictures, fresh=False
    ),
    "datagen fit": Writer(
        lambda s, out: ["fit", captures_looked_at(s, out), "--out", out], ("--neutral-error-mm", "2")
    ),
    "datagen import": Writer(a_workspace_imported, ("--licence", "other")),
    "datagen simulate": Writer(
        lambda s, out: ["simulate", s.manifest, "--out", out, "--set", "source.subjects=1", "--set", "splits.val=0"],
        ("--set", "source.scan_vertices=2500"),
    ),
    "datagen warp": Writer(lambda s, out: ["warp", captures(s) / "scans/000000.ply", "--unit", "m", "--out", out]),
    "datagen render": Writer(
        lambda s, out: ["render", frame(s), "--cameras", captures(s), "--camera", "cam00", "--out", out]
    ),
    "datagen flow": Writer(
        lambda s, out: ["flow", frame(s), frame(s), "--cameras", captures(s), "--camera", "cam00", "--out", out]
    ),
    "datagen inspect": Writer(lambda s, out: ["inspect", s.build, "--out", out / OUT], ("--overwrite",)),
    "datagen webdataset": Writer(
        lambda s, out: ["export", "webdataset", s.build, "--out", out, "--samples-per-tar", "3"]
    ),
    "datagen tracks": Writer(
        lambda s, out: ["export", "tracks", s.build, "--out", out, "--points", "50"], ("--seed", "1")
    ),
    "datagen meshes": Writer(lambda s, out: ["export", "meshes", s.build, "--out", out], ("--axes", "head")),
    "datagen report": Writer(lambda _, out: ["report", out, "--worst", "1", "--random", "0"], (), a_build, fresh=False),
    "datagen browse": Writer(lambda s, out: ["browse", s.build, "--export", out], ("--samples", "2")),
    "datagen compare": Writer(lambda s, out: ["compare", s.build, s.build, "--out", out]),
    "datagen requeue": Writer(lambda _, out: ["requeue", out, "s000"], (), a_build, fresh=False),
    "datagen demo": Writer(
        lambda s, out: ["demo", "--manifest", s.manifest, "--out", out, "--set", "name=other"], (), a_build
    ),
    "trainer fit": Writer(lambda s, out: ["fit", s.data, "--out", out, "--config", "tiny", *SET], (), a_run),
    "trainer evaluate": Writer(
        lambda s, out: ["evaluate", s.run, s.data, "--report", out, "--limit", "2", "--device", "cpu"]
    ),
    "trainer predict": Writer(
        lambda s, out: ["predict", s.run, s.photos, "--out", out, "--device", "cpu", *WITHOUT], ("--frames", "2")
    ),
    # Commands of `trainer align`.
    "trainer fit align": Writer(lambda s, out: ["align", "fit", s.build, "--out", out, *ALIGN], (), an_alignment),
    "trainer predict align": Writer(
        lambda s, out: ["align", "predict", s.aligned, s.photos / "f8.png", "--out", out, "--device", "cpu"],
        ("--box", "1,1,9,9"),
    ),
    # And of `trainer attributes`.
    "trainer fit attributes": Writer(
        lambda s, out: ["attributes", "fit", s.build, "--out", out, *TELL], (), a_parameter_head
    ),
    "trainer predict attributes": Writer(
        lambda s, out: ["attributes", "predict", s.told, s.photos / "f8.png", "--out", out, "--device", "cpu"],
        ("--box", "1,1,9,9"),
    ),
    # And of `trainer avatar`.
    "trainer fit avatar": Writer(lambda s, out: ["avatar", "fit", s.build, "--out", out, *BE], (), an_avatar),
    "trainer predict avatar": Writer(
        lambda s, out: ["avatar", "predict", s.avatar, s.photos, "--out", out, "--device", "cpu"],
        ("--focal-px", "90"),
    ),
    "trainer adapt": Writer(
        lambda s, out: ["adapt", s.avatar, s.photos, "--studio", s.build, "--out", out, "--device", "cpu", *LOOK],
        ("--focal-px", "90"),
    ),
    "trainer export": Writer(lambda s, out: ["export", s.run, "--out", out / OUT, "--frames", "1"], ("--overwrite",)),
    "trainer convert": Writer(
        lambda s, out: ["convert", s.weights, "--out", out / OUT, "--config", s.weights.with_name("c.yaml"), *SIZE],
        ("--overwrite",),
    ),
}


@pytest.fixture(scope="module")
def scene(
    tiny_build: BuildResult, tiny_manifest: Path, tmp_path_factory: pytest.TempPathFactory, without_fsync: None
) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    build_scene(folder / "data.zarr", frames=2, cameras=1)
    write_photos(folder / "photos")
    torch.save(to_depth_anything_3(published(write_config(folder / "c.yaml"))), folder / "weights.pt")
    given = (folder / name for name in ("data.zarr", "run", "aligned", "told", "avatar", "photos", "weights.pt"))
    (folder / "detector").mkdir()
    begun = Scene(tiny_build.root, tiny_manifest, *given, stand_in_python(folder / "detector"))
    # At step 1 of 2: there is something left to do.
    stop = ("--set", "fit.max_minutes=1e-6")
    assert call("trainer", *WRITERS["trainer fit"].words(begun, begun.run), *stop) == 0
    assert call("trainer", *WRITERS["trainer fit align"].words(begun, begun.aligned), *stop) == 0
    assert call("trainer", *WRITERS["trainer fit attributes"].words(begun, begun.told), *stop) == 0
    assert call("trainer", *WRITERS["trainer fit avatar"].words(begun, begun.avatar), *stop) == 0
    return begun


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> None:
    """Leave out what takes long and writes nothing."""
    import trainer.evaluate
    from datagen.fit import capture as fit_of_capture
    from datagen.flows import demo, one_scan

    monkeypatch.setattr(fit_of_capture, "fit_pictures", a_fit)
    monkeypatch.setattr(one_scan, "register_and_warp", lambda *_, **__: read_warp(frame(scene)))
    monkeypatch.setattr(trainer.evaluate, "evaluate", partial(trainer.evaluate.evaluate, speed_seconds=0))
    monkeypatch.setattr(demo, "_trainer", lambda *_: pytest.fail("the demo went on"))


def call(program: str, *words: str | Path) -> int:
    """Call a command line in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            {"datagen": datagen.cli.main, "trainer": trainer.cli.main}[program]()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def finished(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the finished output of a command, made once; nobody changes it."""
    made: dict[str, Path] = {}

    def output(name: str) -> Path:
        if name not in made:
            writer, out = WRITERS[name], tmp_path_factory.mktemp("finished") / "out"
            if writer.finished is not None:
                writer.finished(scene, out)
            else:
                out.mkdir()
                assert call(name.split(maxsplit=1)[0], *writer.words(scene, out)) in (0, 1)
            made[name] = out
        return made[name]

    return output


@dataclass(frozen=True)
class Planted:
    """Somebody's file, or a link to one."""

    path: Path
    content: bytes
    link: Path | None

    @property
    def is_there(self) -> bool:
        if self.link is not None:
            return self.path.is_symlink() and Path(os.readlink(self.path)) == self.link and self._same(self.link)
        return not self.path.is_symlink() and self._same(self.path)

    def _same(self, path: Path) -> bool:
        return path.is_file() and path.read_bytes() == self.content


def plant(out: Path, names: list[str], aside: Path, rng: np.random.Generator) -> Iterator[Planted]:
    """Put somebody's files at these names of an output, some of them as links, some in place of what is there."""
    for k, name in enumerate(names):
        path, content = out / name, f"of the user, {k}".encode() * int(rng.integers(1, 40))
        above = (p for p in path.parents if p != out and p.is_relative_to(out))
        taken = next((p for p in above if os.path.lexists(p) and not p.is_dir()), None)
        if taken is not None or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        link = aside / f"{k}" if rng.random() < 0.2 else None
        (link or path).write_bytes(content)
        if link is not None:
            path.symlink_to(link)
        yield Planted(path, content, link)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", WRITERS)
def test_everybodys_files_keep_their_bytes(
    name: str,
    seed: int,
    scene: Scene,
    finished: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng([seed, *name.encode()])
    writer, whole = WRITERS[name], finished(name)
    written = [path.relative_to(whole).as_posix() for path in walk(whole) if ".prefect" not in path.parts]
    beside = [f"{Path(path).parent.as_posix()}/{other}" for path in written for other in ("mine.txt", ".a.tmp-1-2")]
    for place in ("fresh", "between"):
        if place == "fresh" and not writer.fresh:
            continue
        out, aside = tmp_path / place, tmp_path / f"{place} aside"
        aside.mkdir()
        if place == "fresh":
            out.mkdir()
        else:
            shutil.copytree(whole, out, symlinks=True)
        # Several files in the way, or one; the fewer, the farther a command gets.
        few = [int(rng.integers(1, 4)), 0][seed]
        names = {str(x) for kind in (written, beside, USUAL) for x in rng.choice(kind, min(few, len(kind)))}
        if not few:
            names = {str(rng.choice(written if place == "between" else [*written, *USUAL]))}
        if place == "between" and "--overwrite" in writer.again:
            names.discard(OUT)  # the one that may be replaced
        planted = list(plant(out, sorted(names), aside, rng))
        code = call(name.split(maxsplit=1)[0], *writer.words(scene, out), *(writer.again if place == "between" else ()))
        lost = [str(one.path.relative_to(out)) for one in planted if not one.is_there]
        assert not lost, (place, code, capsys.readouterr().err)
        assert code in (0, 1, 2)


def test_every_command_is_known_to_write_or_to_read() -> None:
    def names(app: typer.Typer) -> set[str]:
        own = {str(c.name or c.callback.__name__) for c in app.registered_commands if c.callback}
        return own | {n for group in app.registered_groups if group.typer_instance for n in names(group.typer_instance)}

    known = {name.split()[1] for name in WRITERS} | ELSEWHERE | READING
    assert names(datagen.cli.app) | names(trainer.cli.app) == known
