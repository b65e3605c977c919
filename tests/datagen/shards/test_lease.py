"""One writer at a time: two pushes at once, killed ones, stores that cannot tell, and leases that are lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datagen.common.errors import CanonfaceError, DatasetError, StorageError
from datagen.flows.build_folder import build_lock
from datagen.layout import BuildLayout
from datagen.shards import lease as lease_module
from datagen.shards import open_dataset, verify_dataset
from datagen.shards.lease import LEASE, only_writer
from datagen.shards.store import LocalStore, ObjectStore, open_store
from datagen.shards.tools.combine import Selection, subset
from datagen.shards.tools.publish import publish
from tests.support.shard_places import small
from tests.support.shard_samples import tree

pytestmark = pytest.mark.usefixtures("without_fsync")


@pytest.fixture(scope="module")
def pair(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pair")
    return small(root / "a", 3, 20), small(root / "b", 3, 0)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "dataset.zarr") if request.param == "local" else request.getfixturevalue("s3_url")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float, float], None]:
    """Set beat, patience of a holder and of those who wait, in seconds."""

    def set_times(beat: float, give_up: float, stale: float) -> None:
        monkeypatch.setattr(lease_module, "BEAT_S", beat)
        monkeypatch.setattr(lease_module, "GIVE_UP_S", give_up)
        monkeypatch.setattr(lease_module, "STALE_S", stale)

    return set_times


def remote_tree(url: str) -> dict[str, bytes]:
    store = open_store(url)
    return {key: store.read(key) for key in store.list()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("replace", [False, True])
def test_of_two_pushes_at_once_one_is_whole_and_the_other_refused(
    pair: tuple[Path, Path], place: str, seed: int, replace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, lock = random.Random(seed), threading.Lock()
    outcomes: dict[int, str] = {}
    begin = [rng.uniform(0, 0.4) for _ in pair]
    kind: Any = LocalStore if Path(place).is_absolute() else ObjectStore
    real = kind.write

    def write(store: Any, key: str, data: bytes) -> None:
        with lock:
            wait = rng.choice([0, 0, 0, 0.01])
        time.sleep(wait)
        real(store, key, data)

    monkeypatch.setattr(kind, "write", write)

    def push(number: int) -> None:
        time.sleep(begin[number])
        try:
            publish(pair[number], place, replace=replace, at_once=3)
            outcomes[number] = "done"
        except CanonfaceError as error:
            outcomes[number] = str(error)

    threads = [threading.Thread(target=push, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [number for number, outcome in outcomes.items() if outcome == "done"]
    refused = [outcome for outcome in outcomes.values() if outcome != "done"]
    assert done, outcomes
    assert all("is being written by" in text or "holds dataset" in text for text in refused), refused
    # With --replace the second may follow the first.
    assert len(done) == 1 or replace
    assert remote_tree(place) in [tree(pair[number]) for number in done]
    assert verify_dataset(place).ok


SCRIPT = """
import sys, time
from datagen.shards.store import LocalStore, ObjectStore
from datagen.shards.tools.publish import publish
kind = LocalStore if sys.argv[2].startswith("/") else ObjectStore
real, count = kind.write, 0
def write(self, key, data):
    global count
    count += 1
    if count == int(sys.argv[3]):
        print("there", flush=True)
        time.sleep(60)
    real(self, key, data)
kind.write = write
publish(sys.argv[1], sys.argv[2], at_once=1)
"""


def test_a_living_push_is_named_and_a_killed_one_is_followed_at_once(pair: tuple[Path, Path], place: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(pair[0]), place, "30"], stdout=subprocess.PIPE, env=dict(os.environ)
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            before = remote_tree(place)
            for attempt in pair:
                with pytest.raises(StorageError, match="is being written by") as caught:
                    publish(attempt, place, replace=True)
            if place.startswith("s3://"):
                assert f"process {process.pid} of" in str(caught.value)
                assert "since 20" in str(caught.value)
                assert "takes over 5 minutes after" in str(caught.value)
            else:
                layout = BuildLayout(Path(place).parent)
                for write in (lambda: subset(pair[1], Path(place), Selection()), build_lock(layout).__enter__):
                    with pytest.raises(StorageError, match="is being written by"):
                        write()
            assert remote_tree(place) == before
        finally:
            process.kill()
    publish(pair[0], place)
    assert remote_tree(place) == tree(pair[0])


def strange_lease(store: ObjectStore, **changes: Any) -> dict[str, Any]:
    """The lease of a process of another machine."""
    content = {
        "format": "canonface-lease",
        "host": "elsewhere",
        "process": 7,
        "started": "1",
        "since": "2026-01-01T00:00:00+00:00",
        "kernel": "another",
        **changes,
    }
    store.write(LEASE, json.dumps(content).encode())
    return content


def test_the_lease_of_another_machine_is_taken_over_only_when_it_is_stale(
    pair: tuple[Path, Path], s3_url: str, fast: Callable[[float, float, float], None]
) -> None:
    store = ObjectStore(s3_url)
    strange_lease(store)
    fast(0.2, 1.0, 60.0)
    with pytest.raises(StorageError, match=r"process 7 of elsewhere since 2026-01-01.*takes over 1 minutes after"):
        publish(pair[0], s3_url)
    assert list(store.list()) == [LEASE]
    fast(0.2, 1.0, 0.0)
    publish(pair[0], s3_url)
    assert remote_tree(s3_url) == tree(pair[0])


def test_one_that_still_moves_is_alive_whatever_the_clocks_say(
    pair: tuple[Path, Path], s3_url: str, fast: Callable[[float, float, float], None]
) -> None:
    fast(0.2, 5.0, 0.0)
    with only_writer(ObjectStore(s3_url)), pytest.raises(StorageError, match="is being written by"):
        publish(pair[0], s3_url)
    publish(pair[0], s3_url)


def test_a_lost_lease_stops_the_push_before_its_next_write(
    pair: tuple[Path, Path], s3_url: str, fast: Callable[[float, float, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(0.05, 30.0, 300.0)
    real, written = ObjectStore.write, list[str]()

    def write(store: ObjectStore, key: str, data: bytes) -> None:
        real(store, key, data)
        written.append(key)
        if len(written) == 10:
            real(store, LEASE, b'{"format": "canonface-lease", "host": "elsewhere"}')
            time.sleep(1.0)

    monkeypatch.setattr(ObjectStore, "write", write)
    with pytest.raises(StorageError, match=r"the lease of .* is lost"):
        publish(pair[0], s3_url, at_once=1)
    assert len(written) == 10
    # What another took over is not removed.
    assert ObjectStore(s3_url).exists(LEASE)
    with pytest.raises(DatasetError):
        open_dataset(s3_url)


def test_a_store_that_answers_no_more_stops_the_push(
    s3_url: str, fast: Callable[[float, float, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(0.05, 0.5, 300.0)
    with only_writer(ObjectStore(s3_url)) as check:
        check()
        time.sleep(1.0)
        check()

        def gone(*_: object) -> None:
            raise StorageError("the store is gone")

        monkeypatch.setattr(ObjectStore, "write_if", gone)
        time.sleep(1.0)
        with pytest.raises(StorageError, match="is lost"):
            check()


def test_what_is_no_lease_stays(pair: tuple[Path, Path], s3_url: str) -> None:
    store = ObjectStore(s3_url)
    for content in (b"a photo", b"[" * 10**5, b"{}", b"[]"):
        store.write(LEASE, content)
        with pytest.raises(DatasetError, match="which is no lease of a push"):
            publish(pair[0], s3_url)
        assert remote_tree(s3_url) == {LEASE: content}


def test_a_store_without_conditional_puts_is_refused(
    pair: tuple[Path, Path], s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    real = obstore.put
    monkeypatch.setattr(obstore, "put", lambda store, key, data, **_: real(store, key, data))
    with pytest.raises(StorageError, match="nothing keeps two pushes apart"):
        publish(pair[0], s3_url)
    assert remote_tree(s3_url) == {}
