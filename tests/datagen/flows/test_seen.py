"""What is known of many results at once: as good as a look at each, and noticing as much."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.orchestrate import nothing
from datagen.flows.planning import BuildPlan, plan_build
from datagen.flows.records import NOTE, SequenceResults, read_result_record, write_result_record
from datagen.flows.seen import Pack, Seen, packed, signature_of, signatures_of
from datagen.flows.shard_plan import ShardPlan, _ShardKeys, plan_shards
from datagen.flows.stamps import can_ask, stamps_of
from datagen.flows.state_index import StateIndex, read_and_remember, state_index
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
        of_all = signature_of(tmp_path, [path for each in seen for path in each.paths])
        assert signatures_of(tmp_path, seen) == ([each.signature for each in seen], of_all)
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
        patch.setattr(StateIndex, "all_holding", lambda *_: pytest.fail("frames were looked at one by one"))
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
    with state_index(layout):
        assert plain(stored_frames(plan, layout)) == plain(found)
    if change == "gone":
        assert found.waiting == {plan.sequences[1].key: (7,)}
    else:
        assert found.verdicts == (
            {"pass": 2 * FRAMES - 1, "fail": 1} if name == "record.json" else {"pass": 2 * FRAMES}
        )


GROUP = "made"


def noted(index: StateIndex, results: SequenceResults) -> str | None:
    (seen,) = index.ahead([GROUP], NOTE)
    return None if seen is None else results.noted(index, seen)


def test_what_was_made_of_results_is_not_believed_of_those_that_came_meanwhile(
    build: tuple[BuildPlan, BuildLayout],
) -> None:
    plan, layout = build
    info = plan.sequences[0]
    folder = layout.frame_warp(info.key, 2)
    with state_index(layout) as index:
        results = SequenceResults(layout, info)
        assert len(list(results.contents())) == FRAMES
        record = read_result_record(folder)
        assert record is not None
        write_result_record(folder, replace(record, status="fail"))  # by a task of the same process
        read_and_remember(layout.root, f"results/warps/{info.key}", "000002", [str(folder)], "whole {}", read_s=None)
        results.note(index, GROUP, "made of the record before")
        assert noted(index, results) is None
        again = SequenceResults(layout, info)
        list(again.contents())
        again.note(index, GROUP, "made of this one")
        assert noted(index, again) == "made of this one"
        (folder / "record.json").unlink()
        read_and_remember(layout.root, f"results/warps/{info.key}", "000002", [str(folder)], "whole {}", read_s=None)
        assert noted(index, again) is None


def test_one_look_at_all_files_stands_for_a_look_at_each_only_if_it_is_of_what_is_known(
    build: tuple[BuildPlan, BuildLayout],
) -> None:
    plan, layout = build
    info = plan.sequences[0]
    group, folder = f"results/warps/{info.key}", layout.frame_warp(info.key, 2)
    with state_index(layout) as index:
        results = SequenceResults(layout, info)
        list(results.contents())
        results.note(index, GROUP, "told")
        index.settle(True)
        assert noted(index, results) == "told"
        for path in layout.frame_warp(info.key, 3).iterdir():
            path.unlink()
        assert index.holding(group, "000003") is not None  # nobody changes results for now
        index.settle(False)
        assert index.holding(group, "000003") is None
        assert noted(index, results) is None

        results = SequenceResults(layout, replace(info, frames=info.frames[:3]))
        list(results.contents())
        results.note(index, GROUP, "told")
        # Another result comes, is known, and the one before it is put back with all that is its own.
        shutil.move(folder, layout.root / "aside")
        shutil.copytree(layout.root / "aside", folder)
        known = read_result_record(folder)
        assert known is not None
        paths = [str(folder / name) for name in ("record.json", *known.files)]
        read_and_remember(layout.root, group, "000002", paths, "whole {}", read_s=None)
        shutil.rmtree(folder)
        shutil.move(layout.root / "aside", folder)
        index.settle(True)
        assert noted(index, results) == "told"
        assert index.holding(group, "000002") is None


def keys(planned: ShardPlan) -> list[tuple[str, str]]:
    listed = [(each.shard.name, each.content_key) for each in planned.shards]
    return listed + [(each.shard.name, each.content_key) for each in planned.faces]


def test_keys_of_shards_are_made_once_and_again_when_anything_of_them_changes(
    build: tuple[BuildPlan, BuildLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = build
    shards = plan.manifest.shards.model_copy(update={"samples_per_shard": 16})
    plan = replace(plan, manifest=plan.manifest.model_copy(update={"shards": shards}))

    def planned() -> list[tuple[str, str]]:
        with state_index(layout):
            return keys(plan_shards(plan, layout))

    made: list[str] = []
    make = _ShardKeys._key_of_views

    def counted(*arguments: Any) -> str:
        made.append(make(*arguments))
        return made[-1]

    with nothing.instead(()):
        first = keys(plan_shards(plan, layout))  # without an index
        monkeypatch.setattr(_ShardKeys, "_key_of_views", counted)
        assert planned() == first
        assert len(made) == 10
        assert planned() == first
        assert len(made) == 10
        # What a frame was read from, its warp, its verdict; a frame that fails leaves its place to the next.
        for frame, change in ((20, {"input_digest": "other"}), (21, {"status": "review"}), (22, {"status": "fail"})):
            folder = layout.frame_warp(plan.sequences[0].key, frame)
            record = read_result_record(folder)
            assert record is not None
            write_result_record(folder, replace(record, **change))  # type: ignore[arg-type]
            again = planned()
            assert again == keys(plan_shards(plan, layout)) != first
            assert again[0] == first[0]
        # As many as a shard holds: those of the next person are the same views in other rows.
        for frame in range(30, 37):
            folder = layout.frame_warp(plan.sequences[0].key, frame)
            record = read_result_record(folder)
            assert record is not None
            write_result_record(folder, replace(record, status="fail"))
        again = planned()
        assert again == keys(plan_shards(plan, layout))
        # Other settings of all shards, and another number of a camera.
        render = plan.manifest.render.model_copy(update={"crop_margin": 1.5})
        plan = replace(plan, manifest=plan.manifest.model_copy(update={"render": render}))
        before = len(made)
        other = planned()
        assert other == keys(plan_shards(plan, layout))
        assert len(made) == before + 2 * 9
        of_views = {name for name, _ in other if "frames" not in name and "template" not in name}
        assert not {pair for pair in other if pair[0] in of_views} & set(again)
