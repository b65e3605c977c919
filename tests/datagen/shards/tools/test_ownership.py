"""What is not ours stays: pushes, merges and subsets among the files of other people."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datagen.common.errors import DatasetError, InputError, StorageError
from datagen.common.files import atomic_write_bytes, make_folders
from datagen.shards import open_dataset
from datagen.shards.contents import JOURNAL, Journal, contents
from datagen.shards.store import LocalStore, ObjectStore, open_store
from datagen.shards.tools.combine import Selection, subset
from datagen.shards.tools.publish import publish
from tests.support.shard_places import foreign_files, small
from tests.support.shard_samples import tree

pytestmark = pytest.mark.usefixtures("without_fsync")
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)


@pytest.fixture(scope="module")
def old(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("old") / "dataset.zarr", 3, 20)


@pytest.fixture(scope="module")
def new(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("new") / "dataset.zarr", 3, 0)


def remote_tree(url: str) -> dict[str, bytes]:
    store = open_store(url)
    return {key: store.read(key) for key in store.list()}


def stop_after(writes: int, patch: pytest.MonkeyPatch, kind: type[LocalStore] | type[ObjectStore]) -> None:
    """Let a store fail after some writes, as a killed push ends."""
    real, count = kind.write, 0

    def write(self: LocalStore & ObjectStore, key: str, data: bytes) -> None:  # type: ignore[valid-type]
        nonlocal count
        count += 1
        if count > writes:
            raise StorageError("the store is gone")
        real(self, key, data)

    patch.setattr(kind, "write", write)


def check(before: Mapping[str, bytes], foreign: Mapping[str, bytes], after: Mapping[str, bytes], done: bool) -> None:
    """A push that is refused changes nothing; one that is not leaves every foreign file as it was."""
    if not done:
        assert after == before
    for key, data in foreign.items():
        assert after.get(key) == data, key


@settings(SETTINGS, max_examples=30)
@given(st.data())
def test_whatever_lies_at_the_target_of_a_push_stays(old: Path, new: Path, tmp_path: Path, data: st.DataObject) -> None:
    target = tmp_path / "target"
    shutil.rmtree(target, ignore_errors=True)
    there = data.draw(st.sampled_from(["nothing", "old", "new", "old without its root", "begun", "replacing"]))
    if there.startswith("old"):
        shutil.copytree(old, target)
    if there == "old without its root":
        (target / "zarr.json").unlink()
    if there == "new":
        shutil.copytree(new, target)
    if there in ("begun", "replacing"):
        if there == "replacing":
            shutil.copytree(old, target)
        with pytest.MonkeyPatch.context() as patch, suppress(StorageError):
            stop_after(data.draw(st.integers(1, 60)), patch, LocalStore)
            publish(new, target, replace=True, at_once=1)
    ours = [tree(old), tree(new)]
    foreign = {}
    for key, content in data.draw(foreign_files(*ours)).items():
        path = target / key
        # A file with the bytes that were there, or that a dataset of ours has there, is no one else's.
        if any(content == files.get(key) for files in ours) or any(parent.is_file() for parent in path.parents):
            continue
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            foreign[key] = content
    before = tree(target) if target.exists() else {}
    done = False
    with suppress(DatasetError):
        publish(new, target, replace=data.draw(st.booleans()))
        done = True
    check(before, foreign, tree(target), done)
    assert not done or {key: content for key, content in tree(target).items() if key not in foreign} == {
        key: content for key, content in tree(new).items() if key not in foreign
    }


@settings(SETTINGS, max_examples=8)
@given(st.data())
def test_whatever_lies_in_the_bucket_stays(old: Path, new: Path, s3_url: str, data: st.DataObject) -> None:
    url = f"{s3_url}/{data.draw(st.integers(0, 10**9))}"
    store = open_store(url)
    there = data.draw(st.sampled_from([{}, tree(old), tree(new)]))
    foreign = data.draw(foreign_files(tree(old), tree(new)))
    foreign = {
        key: content for key, content in foreign.items() if content not in (tree(old).get(key), tree(new).get(key))
    }
    # What is put after the root document was is looked at; a file of another length always is.
    for key in [*(key for key in there if key != "zarr.json"), *(["zarr.json"] if there else [])]:
        store.write(key, there[key])
    for key, content in foreign.items():
        store.write(key, content)
    before, done = remote_tree(url), False
    with suppress(DatasetError):
        publish(new, url, replace=data.draw(st.booleans()), at_once=4)
        done = True
    check(before, foreign, remote_tree(url), done)
    assert not done or open_dataset(url).uuid == open_dataset(new).uuid


@settings(SETTINGS, max_examples=25)
@given(st.data())
def test_whatever_lies_in_the_folder_of_a_subset_stays(new: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    if not whole.exists():
        subset(new, whole, Selection())
    shutil.rmtree(out, ignore_errors=True)
    there = data.draw(st.sampled_from(["nothing", "finished", "without its root", "begun"]))
    if there == "begun":
        with pytest.MonkeyPatch.context() as patch, suppress(StorageError):
            stop_after(data.draw(st.integers(0, 1)), patch, LocalStore)
            subset(new, out, Selection())
    elif there != "nothing":
        shutil.copytree(whole, out)
        if there == "without its root":
            (out / "zarr.json").unlink()
    foreign = {}
    for key, content in data.draw(foreign_files(tree(whole))).items():
        path = out / key
        if content != tree(whole).get(key) and not path.is_dir() and not any(p.is_file() for p in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            foreign[key] = content
    before = tree(out) if out.exists() else {}
    done = False
    with suppress(DatasetError, StorageError):
        subset(new, out, Selection())
        done = True
    check(before, foreign, tree(out), done)
    assert not done or tree(out) == tree(whole)


KEYS = ("train/image/c.1.0.0.0", "train/valid/c.0", "val/zarr.json", "records/train-00000.json")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_file_of_the_same_length_in_the_place_of_what_is_replaced_stays(
    old: Path, new: Path, tmp_path: Path, request: pytest.FixtureRequest, kind: str, key: str
) -> None:
    url = str(tmp_path / "target") if kind == "local" else request.getfixturevalue("s3_url")
    publish(old, url)
    open_store(url).write(key, b"\x07" * len(tree(old)[key]))
    before = remote_tree(url)
    with pytest.raises(DatasetError):
        publish(new, url, replace=True)
    assert remote_tree(url) == before
    open_store(url).write(key, tree(old)[key])
    publish(new, url, replace=True)
    assert remote_tree(url) == tree(new)


def test_what_a_killed_write_left_is_cleared_and_what_only_has_its_name_is_not(new: Path, tmp_path: Path) -> None:
    pushes = 3
    cases: tuple[tuple[Callable[[Path], object], str], ...] = (
        (lambda out: publish(new, out), "train/depth/c.0.0.0"),
        (lambda out: publish(new, out), "zarr.json"),
        (lambda out: publish(new, out), JOURNAL),
        (lambda out: subset(new, out, Selection()), "train/depth/zarr.json"),
        (lambda out: subset(new, out, Selection()), "zarr.json"),
        (lambda out: subset(new, out, Selection()), "records/train-00000.json"),
    )
    for number, (make, key) in enumerate(cases):
        out = tmp_path / f"{number}" / "out"
        make(out)
        whole = tree(out)
        (out / "zarr.json").unlink()
        content = whole.get(key, Journal(open_dataset(new).uuid, contents(open_dataset(new)).digests(), {}).to_bytes())
        left = (out / key).parent / f".{Path(key).name}.tmp-12-0123abcd"
        for part in (b"", content[:9]):
            left.write_bytes(part)
            make(out)
            assert tree(out) == whole
        if number >= pushes:  # in a folder of our own the name is enough
            continue
        left.write_bytes(b"of the user")
        with pytest.raises(DatasetError, match=r"tmp-12-0123abcd, which belongs to no dataset"):
            make(out)
        assert left.read_bytes() == b"of the user"


def test_what_a_killed_shard_left_is_cleared(new: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    subset(new, out, Selection())
    whole = tree(out)
    staged = out / ".staging" / "train-00000-12-0123abcd" / "depth"
    for lost in ([], ["zarr.json"], ["zarr.json", "records/train-00000.json"]):
        for key in lost:
            (out / key).unlink()
        staged.parent.mkdir(parents=True)
        staged.write_bytes(whole["train/depth/c.0.0.0"][:9])
        subset(new, out, Selection())
        if not lost:
            shutil.rmtree(out / ".staging", ignore_errors=True)
        assert tree(out) == whole


def test_an_interrupted_push_of_another_dataset_is_replaced_only_when_asked(
    old: Path, new: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    for writes in (1, 5, 20, 40, 62):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(writes, patch, LocalStore)
            with pytest.raises(StorageError):
                publish(old, target, at_once=1)
        before = tree(target)
        with pytest.raises(DatasetError, match="interrupted push of another dataset"):
            publish(new, target)
        assert tree(target) == before
        publish(new, target, replace=True)
        assert tree(target) == tree(new)
        shutil.rmtree(target)


def test_a_journal_that_lies_is_no_journal(new: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for content in (b"{}", b"[" * 10**5, b'{"uuid": 1, "sends": {"a": 1}, "replaces": {}}'):
        target.mkdir(exist_ok=True)
        (target / JOURNAL).write_bytes(content)
        with pytest.raises(DatasetError, match=r"holds \.push\.json, which belongs to no dataset"):
            publish(new, target, replace=True)
        assert tree(target) == {JOURNAL: content}


def test_records_of_another_dataset_name_nothing(old: Path, new: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    shutil.copytree(old, target)
    other = small(tmp_path / "other", 3, 30)
    shutil.copy(other / "records/train-00001.json", target / "records/train-00001.json")
    before = tree(target)
    with pytest.raises(DatasetError, match="cannot be told from others"):
        publish(new, target, replace=True)
    assert tree(target) == before


def test_a_source_that_changed_since_it_was_opened_is_not_sent(
    old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that goes on while its dataset is sent."""
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(new, source)
    real = LocalStore.write

    def write(self: LocalStore, key: str, data: bytes) -> None:
        if key == "records/train-00000.json":
            shutil.copytree(old, source, dirs_exist_ok=True)
        real(self, key, data)

    monkeypatch.setattr(LocalStore, "write", write)
    with pytest.raises(DatasetError, match="not those of its record"):
        publish(source, target)
    with pytest.raises(DatasetError, match="not finished"):
        open_dataset(target)


def test_nothing_is_written_below_a_dataset_that_is_read(
    new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for make in (lambda out: publish(new, out), lambda out: subset(new, out, Selection())):
        with pytest.raises(InputError, match="lies in the dataset"):
            make(new / "copy")
    monkeypatch.chdir(tmp_path)
    for url in ("s3://bucket/x", "https://user:secret@host/x"):
        for write in (
            lambda out: subset(new, out, Selection()),
            make_folders,
            lambda out: atomic_write_bytes(out, b""),
        ):
            with pytest.raises(InputError, match="the output is a URL") as caught:
                write(Path(url))
            assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        subset(new, tmp_path / "file", Selection())
