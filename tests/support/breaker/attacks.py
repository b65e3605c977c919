"""The attacks. Each takes a scene, a random generator and an empty sandbox, and returns what it did and the faults."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from tests.support.breaker.child import KILLED, Outcome, command, run, steps_of
from tests.support.breaker.damage import NAMES, files, spoil_file, spoil_json
from tests.support.breaker.scene import DATASETS, Scene, digests
from tests.support.build_trees import folder_build

Arguments = list[str | Path]


@dataclass
class Try:
    """What one try did, and what went wrong."""

    what: str
    faults: list[str] = field(default_factory=list)

    def end(self, outcome: Outcome, allowed: tuple[int, ...] = (0, 1, 2)) -> None:
        """Add the faults of a command's end."""
        self.faults += outcome.faults(allowed)

    def keep(self, before: dict[str, str], folder: Path) -> None:
        """Every file that was there must still be there with its bytes."""
        after = digests(folder)
        for name, digest in before.items():
            if after.get(name) != digest:
                self.faults.append(f"a user's file is {'changed' if name in after else 'gone'}: {folder.name}/{name}")


Attack = Callable[[Scene, Random, Path], Try]
_Writer = Callable[[Path, Path], Arguments]
_WEBDATASET = ("export", "webdataset")

# What each command needs from the scene, and its arguments, given the sandbox and the output.
WRITERS: dict[str, tuple[tuple[str, ...], _Writer]] = {
    "push": (DATASETS[:1], lambda box, out: ["datagen", "push", box / DATASETS[0], out]),
    "subset": (
        DATASETS[:1],
        lambda box, out: ["datagen", "subset", box / DATASETS[0], "--where", "camera=cam01", "--out", out],
    ),
    "merge": (
        DATASETS,
        lambda box, out: ["datagen", "merge", *(box / name for name in DATASETS), "--labels", "a,b", "--out", out],
    ),
    "webdataset": (DATASETS[:1], lambda box, out: ["datagen", *_WEBDATASET, box / DATASETS[0], "--out", out]),
    "predict": (
        ("model.pt", "photos"),
        lambda box, out: [
            *("trainer", "predict", box / "model.pt", box / "photos", "--out", out, "--tracks", "9"),
            *("--without", "videos", "--without", "viewer"),
        ],
    ),
    "fit": (
        ("ellipsoids.zarr",),
        lambda box, out: [
            *("trainer", "fit", box / "ellipsoids.zarr", "--out", out, "--config", "tiny", "--set", "fit.steps=2"),
            *("--set", "fit.save_every=1", "--set", "fit.val_every=2", "--set", "data.frames_per_batch=2"),
            *("--set", "data.workers=0"),
        ],
    ),
    "build": (("manifest.yaml",), lambda box, out: ["datagen", "build", box / "manifest.yaml", "--out", out, *_SERIAL]),
}
_SERIAL = ("--runner", "serial")
_SAME_BYTES = ("push", "subset", "merge", "webdataset")

FAMILIAR = (
    *("zarr.json", "train/zarr.json", "train/photo.jpg", "train/image/c/0/0/0/0", "train/depth/zarr.json"),
    *("val/photo.jpg", "val/image/zarr.json", "records/train-00000.json", "records/notes.json", "notes.txt"),
    *("report/index.html", "report/holiday.png", "captures/s000/performance/capture.json", "captures/notes.txt"),
    *("warps/s000/performance/000000/warp.npz", "warps/s000/performance/000000/notes.txt", "truth/x.npz"),
    *("warps/s000/performance/person/person.npz", "dataset.zarr/zarr.json", "dataset.zarr/train/photo.jpg"),
    *("dataset.zarr/records/train-00000.json", "manifest.json", "config.yaml", "run.json", "state.json", "log.jsonl"),
    *("best.pt", "last.pt", "checkpoints/last.pt", "maps/depth/000000.png", "cameras.json", "viewer.html"),
    *("index.html", "verdict.json", "warp.npz", "train-000000.tar", "dataset.json", "listing.json", "report.json"),
    *(".lock", ".canonface.json", ".prefect/prefect.db", "bridges/mine/bridge.npz", "predictions.json"),
)


def foreign_files(scene: Scene, rng: Random, box: Path) -> Try:
    """Other people's files at familiar names in an output, before a command or between two runs of it."""
    name = rng.choice(list(WRITERS))
    needs, arguments = WRITERS[name]
    scene.take(box, *needs)
    out = box / "out"
    again = rng.random() < 0.4
    if again and name == "build":
        scene.take(box, "build")
        (box / "build").rename(out)
    elif again:
        made = run(command(arguments(box, out)), box)
        if made.code:
            return Try(f"{name} into an empty folder", [f"exit code {made.code}: {made.output[-300:]}"])
    ours = files(out) if out.is_dir() else []
    planted = set()
    for _ in range(rng.choice((1, 1, 2, 5))):
        near = rng.choice(ours).relative_to(out) if ours and rng.random() < 0.7 else Path(rng.choice(FAMILIAR))
        if ours and rng.random() < 0.5:
            near = near.with_name(rng.choice(("photo.jpg", "notes.txt", "c", "0", "zarr.json.bak")))
        path = out / near
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"a user's own " + rng.randbytes(20))
        except OSError:  # a folder is there, or a file is its parent
            continue
        planted.add(path.relative_to(box).as_posix())
    before = {key: value for key, value in digests(box).items() if key in planted}
    extra: Arguments = ["--replace"] if name in {"push", "build"} and rng.random() < 0.5 else []
    shown = ", ".join(sorted(planted))
    done = Try(f"{name} {' '.join(map(str, extra))} {'again ' if again else ''}over {shown}")
    done.end(run(command([*arguments(box, out), *extra]), box))
    # A file that had to make way may have been set aside: its bytes must be somewhere.
    kept = set(digests(box).values())
    done.faults += [f"a user's file is lost: {key}" for key, digest in before.items() if digest not in kept]
    return done


def kill(scene: Scene, rng: Random, box: Path) -> Try:
    """A kill at a random durable step; the same command again must give what an undisturbed one gives."""
    name = rng.choice(_SAME_BYTES)
    needs, arguments = WRITERS[name]
    scene.take(box, *needs)
    whole, out = box / "whole", box / "out"
    total, undisturbed = steps_of(command(arguments(box, whole)), box, whole)
    at = rng.randrange(1, max(total, 1) + 1)
    done = Try(f"{name} killed at step {at} of {total}")
    done.end(undisturbed, (0,))
    killed = run(command(arguments(box, out)), box, kill_at=at, below=out)
    if killed.code != KILLED:
        done.faults.append(f"not killed: exit code {killed.code}")
    done.end(run(command(arguments(box, out)), box), (0,))
    expected, found = digests(whole), digests(out)
    done.faults += [f"another {key} after the kill" for key in expected if found.get(key) != expected[key]]
    done.faults += [f"left behind: {key}" for key in found if key not in expected]
    return done


def interrupt(scene: Scene, rng: Random, box: Path) -> Try:
    """A polite stop at a random time: 130, or finished; the same command again finishes."""
    name = rng.choice((*_SAME_BYTES, "predict"))
    needs, arguments = WRITERS[name]
    scene.take(box, *needs)
    out = box / "out"
    after = rng.uniform(0.0, 0.4)
    done = Try(f"{name} stopped after {after:.3f} s")
    stopped = run(command(arguments(box, out)), box, interrupt_after_s=after)
    done.end(stopped, (0, 130))
    done.end(run(command(arguments(box, out)), box), (0,))
    done.faults += [f"left behind: {p.name}" for p in box.iterdir() if ".tmp-" in p.name]
    return done


def damaged_dataset(scene: Scene, rng: Random, box: Path) -> Try:
    """A spoilt or exchanged file of a dataset: verify finds it, and nobody reads another value."""
    (dataset, other) = scene.take(box, *DATASETS)
    before = digests(dataset)
    expected = box / "expected.npz"
    prepared = run(partial(_write_values, dataset, expected), box)
    done = Try("", prepared.faults((0,)))
    path = rng.choice(files(dataset))
    same = other / path.relative_to(dataset)
    others = [same] if rng.random() < 0.5 else [p for p in files(path.parent) if p != path] or [same]
    if rng.random() < 0.4:
        chosen = rng.choice(others)
        path.write_bytes(chosen.read_bytes())
        done.what = f"{path.relative_to(dataset)}: replaced by {chosen.relative_to(box)}"
    else:
        done.what = f"{path.relative_to(dataset)}: {spoil_file(path, others, rng)}"
    if digests(dataset) == before:
        return done
    verified = run(command(["datagen", "verify", dataset]), box)
    done.end(verified, (1, 2))
    read = run(partial(_compare_values, dataset, expected), box)
    done.end(read)
    what: list[Arguments] = [
        ["datagen", "verify", "--quick", dataset],
        ["datagen", "stats", dataset],
        ["datagen", "inspect", dataset, "--out", box / "sample.png"],
        ["datagen", "push", dataset, box / "pushed"],
        ["datagen", "subset", dataset, "--where", "split=train", "--out", box / "subset.zarr"],
    ]
    done.end(run(command(rng.choice(what)), box))
    return done


def _write_values(dataset: Path, to: Path) -> None:
    from datagen.shards import open_dataset

    opened = open_dataset(dataset)
    values = {
        f"{split}/{name}": np.asarray(opened[split].read([name], slice(None), decode=False)[name])
        for split in opened
        for name in ("image", "depth", "region", "intrinsics")
        if len(opened[split])
    }
    np.savez(to, uuid=np.array(opened.uuid), **values)


def _compare_values(dataset: Path, expected: Path) -> None:
    """Read one sample after another; fail where a value comes back that was never written."""
    from datagen.common.errors import CanonfaceError
    from datagen.shards import open_dataset

    try:
        opened = open_dataset(dataset)
    except CanonfaceError:
        return
    with np.load(expected) as kept:
        if opened.uuid != str(kept["uuid"]):
            raise AssertionError("another dataset was opened")
        for key in kept.files:
            if key == "uuid":
                continue
            split, name = key.split("/")
            for i, value in enumerate(kept[key]):
                try:
                    read = opened[split].read([name], [i], decode=False)[name][0]
                except CanonfaceError:
                    continue
                if not np.array_equal(read, value):
                    raise AssertionError(f"sample {i} of {key} has another value, in silence")


def hostile_record(scene: Scene, rng: Random, box: Path) -> Try:
    """Records and documents of a dataset that name other places: nothing outside is read for ever or written."""
    (dataset,) = scene.take(box, DATASETS[0])
    outside = box / "outside"
    outside.mkdir()
    (outside / ".bashrc").write_text("a user's own")
    documents = [p for p in files(dataset) if p.suffix == ".json"]
    path = rng.choice([p for p in documents if p.parent.name == "records"] if rng.random() < 0.7 else documents)
    text = path.read_text()
    if rng.random() < 0.5:
        content = json.loads(text)
        table = content.get("files") or content
        key = rng.choice(sorted(table))
        name = rng.choice(NAMES[:4] if rng.random() < 0.6 else NAMES)
        table[name] = table.pop(key)
        text, what = json.dumps(content), f"{key} renamed to {name[:40]!r}"
    else:
        text, what = spoil_json(text, rng)
    path.write_text(text, errors="surrogatepass")
    done = Try(f"{path.relative_to(dataset)}: {what}")
    before = digests(outside)
    commands: list[Arguments] = [
        ["datagen", "verify", dataset],
        ["datagen", "verify", "--quick", dataset],
        ["datagen", "push", dataset, box / "a" / "b" / "pushed"],
        ["datagen", "subset", dataset, "--where", "split=train", "--out", box / "a" / "b" / "subset.zarr"],
        ["datagen", "stats", dataset],
    ]
    for arguments in rng.sample(commands, 2):
        done.end(run(command(arguments), box))
    done.keep(before, outside)
    return done


def damaged_build(scene: Scene, rng: Random, box: Path) -> Try:
    """A spoilt file of a build: the commands that look at builds say so."""
    (build,) = scene.take(box, "build")
    path = rng.choice(files(build))
    done = Try(f"{path.relative_to(build)}: {spoil_file(path, files(path.parent), rng)}")
    commands: list[Arguments] = [
        ["datagen", "status", build],
        ["datagen", "explain", build, "--json"],
        ["datagen", "verify", build],
        ["datagen", "report", build],
        ["datagen", "compare", build, scene.root / "build"],
        ["datagen", "check", build / "captures"],
        ["datagen", "plan", build / "manifest.json", "--out", build],
    ]
    for arguments in rng.sample(commands, 2):
        done.end(run(command(arguments), box))
    return done


def hostile_capture(scene: Scene, rng: Random, box: Path) -> Try:
    """A spoilt ``capture.json`` or file of a capture: check says so, plan and build end in words."""
    (build,) = scene.take(box, "build")
    captures = box / "captures"
    manifest = folder_build(build, box / "again", captures)
    documents = [p for p in files(captures) if p.suffix == ".json" and not p.name.startswith(".")]
    path = rng.choice(documents if rng.random() < 0.7 else files(captures))
    if path.suffix == ".json":
        text, what = spoil_json(path.read_text(), rng)
        path.write_text(text, errors="surrogatepass")
    else:
        what = spoil_file(path, files(path.parent), rng)
    done = Try(f"{path.relative_to(captures)}: {what}")
    before = digests(captures)
    done.end(run(command(["datagen", "check", captures]), box))
    if rng.random() < 0.3:  # the frames that are as they were are finished already
        done.end(run(command(["datagen", "build", manifest, "--out", box / "again", *_SERIAL]), box))
    done.keep(before, captures)
    return done


def hostile_settings(scene: Scene, rng: Random, box: Path) -> Try:
    """A spoilt manifest or configuration, as a file or by ``--set``."""
    from tests.conftest import TINY_MANIFEST

    text, what = spoil_json(json.dumps(TINY_MANIFEST), rng)
    (box / "recipe.yaml").write_text(text, errors="surrogatepass")
    keys = ("name", "source.subjects", "source.image_size", "render.resolution", "shards.clip", "warp.subdivisions")
    value = rng.choice((*NAMES, "-1", "0", "1e999", "[1", "{a: &x [*x]}", "99999999999999999999", "nan", "null"))
    scene.take(box, "manifest.yaml")
    commands: list[Arguments] = [
        ["datagen", "plan", box / "recipe.yaml"],
        ["datagen", "plan", box / "manifest.yaml", "--set", f"{rng.choice(keys)}={value}".replace("\0", "")],
        ["trainer", "fit", scene.root / "ellipsoids.zarr", "--out", box / "run", "--config", box / "recipe.yaml"],
    ]
    chosen = rng.choice(commands)
    safe: Arguments = [str(a).encode("utf-8", "replace").decode() if isinstance(a, str) else a for a in chosen]
    done = Try(f"{chosen[0]} {chosen[1]}: {what} / {value[:40]!r}")
    done.end(run(command(safe), box))
    return done


def hostile_prediction(scene: Scene, rng: Random, box: Path) -> Try:
    """Spoilt pictures, masks, cameras, videos and checkpoints for ``trainer predict``."""
    model, photos, masks, cameras, video = scene.take(box, "model.pt", "photos", "masks", "cameras.json", "video.mp4")
    target = rng.choice(("cameras", "photo", "mask", "video", "model"))
    extra: Arguments = []
    source = photos
    if target == "cameras":
        text, what = spoil_json(cameras.read_text(), rng)
        cameras.write_text(text, errors="surrogatepass")
        extra = ["--cameras", cameras]
    elif target in {"photo", "mask"}:
        folder = photos if target == "photo" else masks
        what = spoil_file(rng.choice(files(folder)), files(folder), rng)
        extra = ["--masks", masks] if target == "mask" else []
    elif target == "video":
        data = bytearray(video.read_bytes())
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        video.write_bytes(data if rng.random() < 0.5 else data[: rng.randrange(len(data))])
        source, what = video, "bytes of the video"
    else:
        what = spoil_file(model, [], rng)
    before = digests(box)
    done = Try(f"predict, {target}: {what}")
    out = box / "out"
    outcome = run(command(["trainer", "predict", model, source, "--out", out, "--tracks", "9", *extra]), box)
    done.end(outcome)
    done.keep(before, box)
    if outcome.code and out.exists():
        done.faults.append("a failed prediction left its folder")
    return done


def hostile_arguments(scene: Scene, rng: Random, box: Path) -> Try:
    """Paths no command can use."""
    scene.take(box, DATASETS[0], "manifest.yaml")
    (box / "loop").symlink_to("loop")
    (box / "file").write_text("text")
    (box / "empty").touch()
    (box / "folder").mkdir()
    paths: list[str | Path] = [
        *(box / name for name in ("loop", "file", "empty", "folder", "nowhere", "file/below", "x" * 300)),
        *(
            "/" + "y" * 5000,
            "nul\0byte",
            "/dev/null",
            "/proc/self/mem",
            "s3://",
            "s3://key:hunter2@bucket/x",
            "http://a",
        ),
        *("", ".", "..", "line\nbreak", "\x1b[2J"),
    ]
    path, second = rng.choice(paths), rng.choice([box / DATASETS[0], box / "manifest.yaml", *paths])
    forms: list[Arguments] = [
        *(["datagen", name, path] for name in ("verify", "stats", "check", "status", "explain", "report", "plan")),
        ["datagen", "push", second, path],
        ["datagen", "push", path, box / "pushed"],
        ["datagen", "inspect", second, "--out", path],
        ["datagen", "subset", second, "--where", "split=train", "--out", path],
        ["datagen", "build", second, "--out", path, *_SERIAL, "--set", "source.subjects=0"],
        ["datagen", "warp", path, "--out", box / "warped", "--unit", "mm"],
        ["datagen", "warp", second, "--landmarks", path, "--out", box / "warped", "--unit", "mm"],
        ["trainer", "predict", path, second, "--out", box / "predicted"],
        ["trainer", "predict", scene.root / "model.pt", path, "--out", box / "predicted"],
        ["trainer", "evaluate", path, second],
        ["trainer", "fit", path, "--out", box / "run", "--config", "tiny"],
        ["trainer", "export", path, "--out", box / "exported"],
    ]
    arguments = rng.choice(forms)
    before = digests(box)
    done = Try(" ".join(ascii(str(a))[:60] for a in arguments))
    outcome = run(command(arguments), box)
    done.end(outcome)
    done.keep(before, box)
    if "hunter2" in outcome.output:
        done.faults.append("a password is echoed")
    return done


ATTACKS: dict[str, tuple[int, Attack]] = {
    "foreign": (2, foreign_files),
    "kill": (2, kill),
    "interrupt": (1, interrupt),
    "dataset": (3, damaged_dataset),
    "record": (2, hostile_record),
    "build": (2, damaged_build),
    "capture": (2, hostile_capture),
    "settings": (2, hostile_settings),
    "predict": (2, hostile_prediction),
    "arguments": (2, hostile_arguments),
}

# Each kind as often as its weight says.
IN_TURN = tuple(name for name, (weight, _) in ATTACKS.items() for _ in range(weight))


def attempt(scene: Scene, seed: int, number: int, box: Path, only: str | None) -> tuple[str, Try]:
    """Do one try; the same seed and number always do the same. As many in a row as the weights say have every kind."""
    rng = Random(hashlib.sha256(f"{seed}/{number}".encode()).digest())
    name = only or IN_TURN[number % len(IN_TURN)]
    return name, ATTACKS[name][1](scene, rng, box)
