"""Local folders and object stores behind one interface: the same answers, the same errors."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datagen.common.errors import InputError, MissingObjectError, StorageError
from datagen.shards.store import ObjectStore, Store, is_url, open_store

DATA = bytes(range(200))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "root" if request.param == "local" else request.getfixturevalue("s3_url"))


def test_what_is_written_is_read_whole_and_in_parts(store: Store) -> None:
    assert not store.exists("a/b.bin")
    store.write("a/b.bin", b"old")
    store.write("a/b.bin", DATA)
    assert store.exists("a/b.bin")
    assert store.size("a/b.bin") == 200
    assert store.read("a/b.bin") == DATA
    assert store.read("a/b.bin", 20, 30) == DATA[20:50]
    assert store.read("a/b.bin", 190) == DATA[190:]
    assert store.read("a/b.bin", -16) == DATA[-16:]
    assert store.read("a/b.bin", -16, 4) == DATA[-16:-12]
    assert store.read("a/b.bin", 190, 50) == DATA[190:]
    assert store.read("a/b.bin", length=7) == DATA[:7]
    assert store.read("a/b.bin", 5, 0) == b""


def test_listing_is_sorted_and_ends_at_folders(store: Store) -> None:
    for key in ("b/2", "b/10", "a.json", "bb/1"):
        store.write(key, b"x")
    assert list(store.list()) == ["a.json", "b/10", "b/2", "bb/1"]
    assert list(store.list("b")) == ["b/10", "b/2"]
    assert list(store.list("nothing")) == []


def test_what_is_missing_is_an_error_of_its_own(store: Store) -> None:
    store.write("a", DATA)
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")
    for ask in (store.read, store.size, lambda key: store.read(key, -4), lambda key: store.read(key, 1, 2)):
        with pytest.raises(MissingObjectError, match="no such"):
            ask("a")


def test_an_object_store_pickles_as_its_url(s3_url: str) -> None:
    open_store(s3_url).write("k", DATA)
    data = pickle.dumps(open_store(s3_url))
    assert len(data) < 500
    assert pickle.loads(data).read("k") == DATA


def test_urls_that_cannot_be_used_are_refused() -> None:
    assert is_url("s3://bucket/x")
    assert not is_url("runs/demo")
    with pytest.raises(InputError, match="an unknown kind"):
        open_store("ftp://host/x")
    with pytest.raises(InputError, match="names no bucket"):
        open_store("s3:///x")


def test_a_bucket_that_does_not_exist_is_named_so(s3_endpoint: str) -> None:
    store = open_store("s3://there-is-none/x")
    with pytest.raises(StorageError, match="no such bucket"):
        store.write("k", DATA)
    with pytest.raises(StorageError, match="no such bucket"):
        store.read("k")


class _Failing(BaseHTTPRequestHandler):
    """Answers with errors of the server, a few times or always."""

    failures = 0
    cuts = 0
    delay_s = 0.0
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        time.sleep(type(self).delay_s)
        failed = type(self).asked <= type(self).failures
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        body = b"" if failed else DATA[start:]
        self.send_response(503 if failed else 206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 09:00:00 GMT")
        self.end_headers()
        with suppress(BrokenPipeError):  # the client that gave up does not listen any more
            # The length that was promised is not kept: the connection ends in the middle.
            self.wfile.write(body[: len(body) // 2] if type(self).asked <= type(self).cuts else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Failing]]:
    pytest.importorskip("obstore", reason="object stores need obstore (extra s3)")
    handler = type("Failing", (_Failing,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    yield handler
    server.shutdown()
    server.server_close()


def test_a_store_that_fails_now_and_then_is_asked_again(failing: type[_Failing]) -> None:
    failing.failures = 2
    assert ObjectStore("s3://bucket").read("k") == DATA
    assert failing.asked == 3


def test_an_answer_that_is_cut_off_is_taken_up_where_it_ended(failing: type[_Failing]) -> None:
    failing.cuts = 2
    assert ObjectStore("s3://bucket").read("k") == DATA
    assert failing.asked == 3


def test_a_store_that_always_fails_is_given_up_in_one_line(failing: type[_Failing]) -> None:
    failing.failures = 10**6
    with pytest.raises(StorageError, match="503") as caught:
        ObjectStore("s3://bucket").read("k")
    assert "\n" not in str(caught.value)
    assert "Debug" not in str(caught.value)
    assert 1 < failing.asked < 10


def test_a_store_that_hangs_is_given_up_after_the_timeout(
    failing: type[_Failing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANONFACE_STORE_TIMEOUT_S", "0.2")
    failing.delay_s = 1.0
    started = time.monotonic()
    with pytest.raises(StorageError, match="reading s3://bucket/k failed"):
        ObjectStore("s3://bucket").read("k")
    assert time.monotonic() - started < 10
