"""Local folders and object stores behind one interface: the same answers, the same errors."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.common.errors import InputError, MissingObjectError, StorageError
from datagen.shards import open_dataset
from datagen.shards.store import LocalStore, ObjectStore, Store, is_url, open_store
from datagen.shards.tools.publish import publish

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


def test_a_bucket_that_does_not_exist_is_named_so(s3_endpoint: str, tmp_path: Path, pristine: Path) -> None:
    store = open_store("s3://there-is-none/x")
    asks: tuple[Callable[[], object], ...] = (
        lambda: store.write("k", DATA),
        lambda: store.read("k"),
        lambda: store.read("k", -4),
        lambda: store.delete("k"),
        lambda: list(store.list()),
        lambda: ObjectStore(store.url).write_if("k", DATA, None),
        lambda: open_dataset(store.url),
        lambda: publish(pristine, store.url),
    )
    for ask in asks:
        with pytest.raises(StorageError, match="no such bucket") as caught:
            ask()
        assert "<" not in str(caught.value)


SECRET = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=4).map("Zq".__add__)


@given(
    SECRET, SECRET, st.sampled_from(["s3", "https", "S3"]), st.sampled_from(["{}:{}@bucket/x", "{}@{}/x", "b?{}={}"])
)
def test_secrets_in_a_url_are_refused_and_never_repeated(key: str, secret: str, scheme: str, form: str) -> None:
    # A "/" before the first ":" or "@" ends the bucket: what follows is a prefix like any other.
    key = key.replace("/", "")
    url = f"{scheme}://{form.format(key, secret)}"
    for ask in (open_store, open_dataset, ObjectStore):
        with pytest.raises(InputError) as caught:
            ask(url)
        for shown in (str(caught.value), repr(caught.value), *map(str, vars(caught.value).values())):
            assert key not in shown
            assert form == "{}@{}/x" or secret not in shown


@given(SECRET.filter(lambda text: not set(text) & set("'\"")))
def test_no_error_repeats_a_secret(secret: str) -> None:
    for url in (
        f"https://user:{secret}@host/x",
        f"redis://:{secret}@host:1",
        f"s3:/K:{secret}@b/x",
        f"xy://h?t={secret}",
    ):
        error = StorageError(f"writing {url} failed", f"not {url}", f"See {url}.")
        assert secret not in str(error) + repr(error) + str(vars(error)) + str(pickle.loads(pickle.dumps(error)))
    kept = "tcp://scheduler:8786 and http://127.0.0.1:80/x, s3://bucket/a@b, C:/x@y, /a/b@c and a@b"
    assert StorageError(kept).found == kept


@given(
    st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "", "a", "\0", "x" * 256]), max_size=6).map("/".join)
)
def test_no_key_leaves_its_root(key: str) -> None:
    root = Path("/some/root")
    try:
        path = LocalStore(root).path(key)
    except InputError:
        return
    assert Path(os.path.normpath(path)) == path
    assert root in path.parents
    assert all(len(os.fsencode(part)) <= 255 for part in path.parts)


def test_paths_and_urls_that_can_be_nothing_are_refused(tmp_path: Path) -> None:
    for url in ("a\0b", "x" * 256, "a/" * 3000, "s3://b k/x", "s3://bucket/a\0b", "s3://bucket/../x", "s3://bucket//x"):
        with pytest.raises(InputError) as caught:
            open_dataset(url)
        assert len(str(caught.value)) < 500
    with pytest.raises(InputError, match="the key"):
        open_store(tmp_path).write("../x", DATA)
    assert list(tmp_path.parent.glob("x")) == []


@pytest.mark.parametrize("key", ["link/x", "link/deep/x", "inside/link/x"])
def test_nothing_is_written_or_removed_through_a_link_to_a_place_outside(tmp_path: Path, key: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "deep").mkdir(parents=True)
    link = (root / key).parents[key.count("/") - 1 if key.startswith("link") else 0]
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    store = open_store(root)
    (root / key).write_bytes(DATA)
    assert store.read(key) == DATA
    with pytest.raises(StorageError, match="a link to a place outside"):
        store.write(key, b"other")
    with pytest.raises(StorageError, match="a link to a place outside"):
        store.delete(key)
    assert (root / key).read_bytes() == DATA
    # A root that is a link itself is what the user named.
    (tmp_path / "named").symlink_to(root)
    open_store(tmp_path / "named").write("y", DATA)
    assert (root / "y").read_bytes() == DATA


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
