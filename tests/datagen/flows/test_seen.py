"""What is known of many results at once: as good as a look at each, and noticing as much."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.orchestrate import nothing
from datagen.flows.planning import BuildPlan, plan_build
from datagen.flows.records import SequenceResults, read_result_record, write_result_record
from datagen.flows.seen import Pack, Seen, packed, signature_of
from datagen.flows.stamps import can_ask, stamps_of
from datagen.flows.state_index import state_index
from datagen.flows.stored_frames import StoredFrames, stored_frames
from datagen.layout import BuildLayout

FRAMES = 40  # of each of two sequences: enough to be looked at together


@pytest.fixture
def build(tmp_path: Path) -> tuple[BuildPlan, BuildLayout]:
    """A plan, and results of all of its frames that are old enough to be believed."""
    nothing.write_captures(tmp_path / "captures", 2 * FRAMES, FRAMES, 2, whole=False)
    plan, layout = plan_build(nothing.nothing_manifest(tmp_path / "captures")), BuildLayout(tmp_path / "out")
    nothing.write_results(plan, layout)
    layout.plan.mkdir()
    for path in layout.warps.rglob("*"):
        os.utime(path, ns=(time.time_ns(), time.time_ns() - 10**11))
    return plan, layout


def chosen(plan: BuildPlan, layout: BuildLayout) -> StoredFrames:
    with state_index(layout):
        return stored_frames(plan, layout)


def plain(frames: StoredFrames) -> object:
    """Return all that it holds, to be compared."""
    parts = [replace(part, warps=list(part.warps), inputs=list(part.inputs)) for part in frames.parts]  # type: ignore[arg-type]
    return replace(frames, parts=tuple(parts))


@pytest.mark.skipif(not can_ask(), reason="this system has no statx")
def test_compiled_code_finds_what_the_system_tells(tmp_path: Path) -> None:
    named = [b"file", b"folder", b"link", b"gone", b"folder/none", b"caf\xe9", os.fsencode(tmp_path / "file"), b""]
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    os.utime(tmp_path / "file", ns=(0, -1_500_000_001))  # before 1970
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).write_bytes(b"")
    found = stamps_of(tmp_path, b"".join(name + b"\0" for name in named), len(named))
    for name, stamp in zip(named, found.view(np.int64).tolist(), strict=True):
        try:
            told = os.stat(os.path.join(os.fsencode(tmp_path), name)) if name else None
        except FileNotFoundError:
            told = None
        assert stamp == ([-1, -1, -1] if told is None else [told.st_size, told.st_mtime_ns, told.st_ino]), name
    assert (stamps_of(tmp_path / "gone", b"file\0", 1) == 2**64 - 1).all()


def test_what_is_packed_is_what_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    paths = [("a", str(tmp_path / "none")), (), ("a",)]
    for many in (1, 20):  # few are looked at one by one
        seen = [Seen(listed, signature_of(tmp_path, listed), f"told {listed}") for listed in paths * many]
        names = [f"name {number}" for number in range(len(seen))]
        data = packed(names, seen)
        pack = Pack(data)
        assert pack.names == names
        assert [pack.seen(place) for place in range(len(seen))] == [s._replace(paths=list(s.paths)) for s in seen]
        assert pack.holding(tmp_path) == [each.told for each in seen]
        assert pack.holding(tmp_path / "elsewhere") == [None if s.paths else s.told for s in seen]
        for damaged in (data[:-9], data[:7], b"", data[:40] + bytes(len(data) - 40), bytes(len(data))):
            with pytest.raises(ValueError):  # noqa: PT011
                Pack(damaged)


def test_what_is_stored_is_chosen_once_and_again_when_anything_of_it_changes(
    build: tuple[BuildPlan, BuildLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = build
    read = stored_frames(plan, layout)  # without an index
    assert [len(part.frames) for part in read.parts] == [FRAMES, FRAMES]
    assert plain(chosen(plan, layout)) == plain(read)
    with monkeypatch.context() as patch:
        patch.setattr(SequenceResults, "contents", lambda _: pytest.fail("records were read again"))
        assert plain(chosen(plan, layout)) == plain(read)
    # One frame to be reviewed, one that fails, and a camera that sees one from too far away.
    first, second = (info.key for info in plan.sequences)
    for key, frame, status in ((first, 3, "review"), (first, 4, "fail")):
        folder = layout.frame_warp(key, frame)
        record = read_result_record(folder)
        assert record is not None
        write_result_record(folder, replace(record, status=status))
    folder = layout.frame_warp(second, 5)
    record = read_result_record(folder)
    assert record is not None
    write_result_record(folder, replace(record, views=replace(record.views, farthest_m={"cam00": 9.0, "cam01": 1.0})))
    changed = chosen(plan, layout)
    assert plain(changed) == plain(stored_frames(plan, layout)) == plain(chosen(plan, layout))
    assert dict(changed.verdicts) == {"pass": 2 * FRAMES - 2, "review": 1, "fail": 1}
    assert [(each.camera, each.frames) for each in changed.cameras] == [("cam00", 1)]
    assert changed.parts[1].cameras[5] == ("cam01",)
    # Other settings, of the same results.
    for shards in ({"include_review": False}, {"depth_scale": 1e-3}):
        other = plan.manifest.model_copy(update={"shards": plan.manifest.shards.model_copy(update=shards)})
        asked = replace(plan, manifest=other)
        assert plain(chosen(asked, layout)) == plain(stored_frames(asked, layout)) != plain(changed)


@pytest.mark.parametrize("change", ["size", "time", "inode", "gone"])
@pytest.mark.parametrize("name", ["record.json", "warp.npz"])
def test_a_change_of_one_file_among_many_is_noticed(
    build: tuple[BuildPlan, BuildLayout], change: str, name: str
) -> None:
    plan, layout = build
    chosen(plan, layout)
    path = layout.frame_warp(plan.sequences[1].key, 7) / name
    data, before = path.read_bytes(), path.stat()
    path.unlink()  # the others are links to the same file
    if change != "gone":
        text = json.dumps({**json.loads(data), "status": "fail"}) if name == "record.json" else data.decode()
        path.write_text(text + " " * (change == "size"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (change == "time")))
    with state_index(layout) as index:
        group, names = f"results/warps/{plan.sequences[1].key}", [f"{frame:06d}" for frame in range(FRAMES)]
        for settled in (False, True):
            index.settle(settled)
            held = index.all_holding(group, names)
            assert [place for place, told in enumerate(held) if told is None] == [7]
        index.settle(False)
        found = stored_frames(plan, layout)
    if change == "gone":
        assert found.waiting == {plan.sequences[1].key: (7,)}
    else:
        assert found.verdicts == (
            {"pass": 2 * FRAMES - 1, "fail": 1} if name == "record.json" else {"pass": 2 * FRAMES}
        )
