"""Where a dataset lies: a local folder or an object store, behind one small interface."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from datagen.common.errors import DependencyError, InputError, MissingObjectError, StorageError
from datagen.common.files import atomic_write_bytes, fsync_path, storage_errors
from datagen.shards.keys import Key

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_NAME_BYTES = 255  # what disks allow
_PATH_BYTES = 4095
_TIMEOUT_S = 30
_RETRIES = 4
_RETRY_TIMEOUT_S = 60
_PIECE = 8 * 2**20
_XML = re.compile(r":? *<\?xml.*", re.DOTALL)  # a service's answer; its code says what a reader can use
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MACHINE_CREDENTIALS = "/latest/api/token"
_CREDENTIALS_FIX = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, then run the same command again"
_SHOWN = 200  # characters of a store's own message; the rest is a dump of its internals


@dataclass(frozen=True)
class Found:
    """What a listing says of a file.

    Attributes
    ----------
    size : int
        Bytes.
    tag : str
        An object's entity tag; of a plain put it is the MD5 of the bytes on most services. Empty for a local file.
    modified : datetime, optional
        When an object was put, by the store's clock.
    """

    size: int
    tag: str = ""
    modified: datetime | None = None


def check_key(key: str) -> str:
    """Return a key that stays below its root.

    Raises
    ------
    InputError
        If it is none; see :class:`Key`.
    """
    try:
        return Key(key)
    except ValueError as error:
        raise InputError(f"the key {error}", 'names with "/" between them', "Correct the path") from None


class Store(Protocol):
    """Files under one root. Keys are relative paths with "/" between their parts.

    Attributes
    ----------
    url : str
        The root, as a user would type it.
    """

    url: str

    def read(self, key: str, start: int | None = None, length: int | None = None) -> bytes:
        """Return the bytes of a file, or ``length`` of them from ``start`` (negative: from the end).

        Fewer come back where the file ends earlier.

        Raises
        ------
        MissingObjectError
            If there is no such file.
        StorageError
            If the store refuses or does not answer.
        """
        ...

    def size(self, key: str) -> int:
        """Return the length of a file in bytes; raises as :meth:`read`."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such a file; StorageError if that cannot be told."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys of all files below a folder, sorted; "" is the root."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Write a file so that readers see the old content or the whole new one, never a part; StorageError."""
        ...

    def delete(self, key: str) -> None:
        """Remove a file; nothing happens if there is none. StorageError."""
        ...


def is_url(text: str | Path) -> bool:
    """Whether a path is the URL of an object store."""
    return isinstance(text, str) and _SCHEME.match(text) is not None


def open_store(url: str | Path) -> LocalStore | ObjectStore:
    """Return the store behind a path or URL; nothing is read or made yet.

    Parameters
    ----------
    url : str or Path
        A local folder, or ``s3://bucket/prefix``. Credentials, region and endpoint come from the environment
        (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` and so on).

    Raises
    ------
    InputError
        If the URL is of another kind, holds more than a bucket and a prefix, or is no path.
    DependencyError
        If the package for object stores is not installed.
    """
    if is_url(url):
        return ObjectStore(str(url))
    _check_path(Path(url))
    return LocalStore(Path(url))


def _check_path(path: Path) -> None:
    text = str(path)
    if (
        "\0" in text
        or len(os.fsencode(text)) > _PATH_BYTES
        or any(len(os.fsencode(part)) > _NAME_BYTES for part in path.parts)
    ):
        shown = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
        raise InputError(
            f"the path {shown} can be no file or folder", f"names of at most {_NAME_BYTES} bytes", "Correct the path"
        )


def _check_url(url: str, scheme: str) -> None:
    """Refuse what is no place in an object store; a URL that may hold a password is not repeated."""
    place = url.split("://", 1)[1]
    bucket, _, prefix = place.rstrip("/").partition("/")
    expected, fix = "a local folder or s3://bucket/prefix", "Correct the URL"
    if "@" in bucket or ":" in bucket or (":" in place.partition("@")[0] and "@" in place):
        raise InputError(
            f"the {scheme}:// URL holds a user name, a password or a key",
            "s3://bucket/prefix and nothing secret",
            "Put credentials into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL), "
            "and change any that were typed here: command lines are kept and shown",
        )
    if "?" in place or "#" in place:
        raise InputError(f"the {scheme}:// URL goes on after a ? or #", "s3://bucket/prefix and nothing more", fix)
    if scheme.lower() != "s3":
        raise InputError(f"{url[:_SHOWN]!r} is of an unknown kind", expected, fix)
    if not bucket:
        raise InputError(f"{url[:_SHOWN]} names no bucket", "s3://bucket/prefix", fix)
    if not _BUCKET.fullmatch(bucket):
        raise InputError(f"{bucket[:_SHOWN]!r} can be no bucket", "letters, digits, dots and dashes", "Correct the URL")
    if prefix:
        check_key(prefix)


def _raise(error: OSError) -> None:
    raise error


def open_regular(path: str) -> int:
    """Open a regular file for reading and return its descriptor.

    Raises
    ------
    MissingObjectError
        If something else has the name: a folder, a device, a socket or a pipe, which would be read for ever.
    OSError
        As ``os.open``.
    """
    try:
        # Opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(path) from None
        raise
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    raise _not_regular(path)


def _not_regular(path: str | Path) -> MissingObjectError:
    return MissingObjectError(f"{path} is not a regular file", "a file", "Put the file back")


class LocalStore:
    """A folder of the local file system.

    Parameters
    ----------
    root : Path
        Need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    def path(self, key: str) -> Path:
        """Return the path of a file, for those who read it directly; InputError for a key that is none."""
        return self.root / check_key(key)

    def _own_path(self, key: str) -> Path:
        """Return the path of a file that is to be written or removed: through no link to a place outside."""
        path = self.path(key)
        with storage_errors(f"finding {path}"):
            if not path.parent.resolve().is_relative_to(self.root.resolve()):
                raise StorageError(
                    f"{path.parent} is a link to a place outside {self.root}",
                    "a folder",
                    "Remove the link, or choose another place",
                )
        return path

    def read(self, key: str, start: int | None = None, length: int | None = None) -> bytes:
        """See :class:`Store`."""
        path = self.path(key)
        with _local_errors(f"reading {path}"), open(open_regular(str(path)), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            start = max(0, size + start) if start is not None and start < 0 else start or 0
            file.seek(start)
            # Never room for more than is there, whatever length was asked for.
            return file.readall() if length is None else file.read(min(length, max(0, size - start)))

    def size(self, key: str) -> int:
        """See :class:`Store`."""
        with _local_errors(f"reading {self.path(key)}"):
            found = self.path(key).stat()
        if not stat.S_ISREG(found.st_mode):
            raise _not_regular(self.path(key))
        return found.st_size

    def exists(self, key: str) -> bool:
        """See :class:`Store`."""
        with _local_errors(f"reading {self.path(key)}"):
            return self.path(key).is_file()

    def list(self, prefix: str = "") -> Iterator[str]:
        """See :class:`Store`; what a killed :meth:`write` left is listed too."""
        top, found = self.path(prefix) if prefix else self.root, list[Path]()
        with _local_errors(f"listing {top}"):
            # A folder that cannot be read is an error here: what it holds must not look missing.
            for folder, folders, files in os.walk(top, onerror=_raise) if top.is_dir() else ():
                links = [name for name in folders if (Path(folder) / name).is_symlink()]
                found += [Path(folder) / name for name in (*files, *links)]
        yield from sorted(path.relative_to(self.root).as_posix() for path in found)

    def found(self) -> dict[str, Found]:
        """Return every file with its length; a link to nothing and what is no file have −1."""
        paths = {key: self.root / key for key in self.list()}
        with storage_errors(f"listing {self.root}"):
            return {key: Found(path.stat().st_size if path.is_file() else -1) for key, path in paths.items()}

    def write(self, key: str, data: bytes) -> None:
        """See :class:`Store`."""
        atomic_write_bytes(self._own_path(key), data)

    def delete(self, key: str) -> None:
        """See :class:`Store`."""
        path = self._own_path(key)
        with storage_errors(f"removing {path}"):
            if path.exists():
                path.unlink(missing_ok=True)
                fsync_path(path.parent)


@contextmanager
def _local_errors(doing: str) -> Iterator[None]:
    try:
        with storage_errors(doing):
            yield
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise MissingObjectError(f"{doing} failed: there is no such file", "a file", "Check the path") from None
        raise


class ObjectStore:
    """A bucket, or a part of one, of S3 or a compatible service; pickles as its URL.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``.
    """

    def __init__(self, url: str) -> None:
        scheme, _, place = url.partition("://")
        _check_url(url, scheme)
        try:
            from obstore.store import S3Store
        except ImportError:
            raise DependencyError(
                f"{url} needs the package obstore", "obstore installed", "pip install 'canonface[s3]'"
            ) from None
        self.url = url.rstrip("/")
        bucket, _, self._prefix = place.rstrip("/").partition("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        timeout = f"{os.environ.get('CANONFACE_STORE_TIMEOUT_S', _TIMEOUT_S)}s"
        with _store_errors(f"opening {url}"):
            self._store = S3Store(
                bucket,
                prefix=self._prefix or None,
                client_options={
                    "timeout": timeout,
                    "connect_timeout": timeout,
                    "allow_http": (endpoint or "").startswith("http://"),
                },
                retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_TIMEOUT_S)},
                **options,
            )

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[str]]:
        return type(self), (self.url,)

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    def read(self, key: str, start: int | None = None, length: int | None = None) -> bytes:
        """See :class:`Store`."""
        import obstore

        if length == 0:
            return b""
        with _store_errors(f"reading {self.url}/{key}"):
            if start is None and length is None:
                return bytes(obstore.get(self._store, key).bytes())
            if start is not None and start < 0 and length is None:
                return bytes(obstore.get(self._store, key, options={"range": {"suffix": -start}}).bytes())
            if start is None or start < 0 or length is None:
                size = int(obstore.head(self._store, key)["size"])
                start = start or 0
                start = max(0, size + start) if start < 0 else start
                length = size - start if length is None else length
                if length <= 0:
                    return b""
            return bytes(obstore.get_range(self._store, key, start=start, length=length))

    def copy(self, key: str, file: BinaryIO) -> Found:
        """Write an object to a file, piece by piece, and return what the store said of it; raises as :meth:`read`."""
        import obstore

        written = 0
        with _store_errors(f"reading {self.url}/{key}"):
            got = obstore.get(self._store, key)
            pieces = iter(got.stream(min_chunk_size=_PIECE))
        while True:
            with _store_errors(f"reading {self.url}/{key}"):
                piece = next(pieces, None)
            if piece is None:
                break
            written += file.write(piece)  # the disk's errors are the disk's
        if written != got.meta["size"]:
            raise StorageError(
                f"{self.url}/{key} ended after {written} of {got.meta['size']} bytes",
                "a whole object",
                "Check the network, then run the same command again",
            )
        return Found(written, str(got.meta["e_tag"] or "").strip('"'), got.meta["last_modified"])

    def size(self, key: str) -> int:
        """See :class:`Store`."""
        import obstore

        with _store_errors(f"reading {self.url}/{key}"):
            return int(obstore.head(self._store, key)["size"])

    def tag(self, key: str) -> tuple[int, str]:
        """Return an object's length and entity tag; the tag of a plain put is the MD5 of its bytes on most services."""
        import obstore

        with _store_errors(f"reading {self.url}/{key}"):
            found = obstore.head(self._store, key)
        return int(found["size"]), str(found["e_tag"] or "").strip('"')

    def exists(self, key: str) -> bool:
        """See :class:`Store`."""
        try:
            self.size(key)
        except MissingObjectError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        """See :class:`Store`."""
        yield from sorted(self.found(prefix))

    def found(self, prefix: str = "") -> dict[str, Found]:
        """Return every object below a folder with its length, tag and time."""
        import obstore

        there: dict[str, Found] = {}
        with _store_errors(f"listing {self.url}/{prefix}"):
            for batch in obstore.list(self._store, prefix=prefix or None):
                for entry in batch:
                    tag = str(entry["e_tag"] or "").strip('"')
                    there[str(entry["path"])] = Found(int(entry["size"]), tag, entry["last_modified"])
        # Some tools mark the prefix itself, as a folder, by an object with its name; it is not below the prefix.
        there.pop("", None)
        return there

    def write(self, key: str, data: bytes) -> None:
        """See :class:`Store`; a put of a whole object is atomic."""
        import obstore

        check_key(key)
        with _store_errors(f"writing {self.url}/{key}"):
            obstore.put(self._store, key, data)

    def write_if(self, key: str, data: bytes, tag: str | None) -> str | None:
        """Write an object only if the one there has this tag; ``None``: only if there is none.

        Returns
        -------
        str or None
            The tag of what was written; None if there is something else, or nothing any more.

        Raises
        ------
        StorageError
            If the store refuses, or does not know conditional puts.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        with _store_errors(f"writing {self.url}/{key}"):
            try:
                put = obstore.put(self._store, key, data, mode="create" if tag is None else {"e_tag": tag})
            except (AlreadyExistsError, PreconditionError):
                return None
            except NotSupportedError:
                raise no_conditions(self.url) from None
            except FileNotFoundError as error:
                if tag is None or "NoSuchBucket" in str(error):
                    raise
                return None
        if put["e_tag"] is None:
            raise no_conditions(self.url)
        return put["e_tag"]

    def read_tagged(self, key: str) -> tuple[bytes, str, datetime]:
        """Return an object's bytes, its tag for :meth:`write_if`, and when it was put; raises as :meth:`read`."""
        import obstore

        with _store_errors(f"reading {self.url}/{key}"):
            got = obstore.get(self._store, key)
            return bytes(got.bytes()), str(got.meta["e_tag"]), got.meta["last_modified"]

    def delete(self, key: str) -> None:
        """See :class:`Store`."""
        import obstore

        with _store_errors(f"removing {self.url}/{key}"):
            obstore.delete(self._store, key)


@contextmanager
def _store_errors(doing: str) -> Iterator[None]:
    """Turn the errors of the object store's client into ours, in one line."""
    from obstore.exceptions import BaseError, InvalidPathError

    fix = "Check the URL, AWS_ENDPOINT_URL, the credentials and the network, then run the same command again"
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        text = str(error)
        # Asked for an object, a missing bucket answers as a missing object does; asked for a list, in XML.
        if "NoSuchBucket" in text:
            raise StorageError(f"{doing} failed: there is no such bucket", "a bucket that exists", fix) from None
        if isinstance(error, FileNotFoundError):
            raise MissingObjectError(f"{doing} failed: there is no such object", "an object", "Check the URL") from None
        if _MACHINE_CREDENTIALS in text:
            # What was asked for them last, since nothing else had any, is the service of a machine in the cloud.
            raise StorageError(
                f"{doing} failed: there are no credentials", "credentials for the store", _CREDENTIALS_FIX
            ) from None
        if isinstance(error, InvalidPathError):
            fix = "Choose another URL, or rename the object"
        reason = _XML.sub("", text.partition("\n\nDebug source")[0]).replace("\n", " ")
        code = _CODE.search(text)
        reason = f"the store says {code[1]}" if code else reason if len(reason) <= _SHOWN else f"{reason[:_SHOWN]}…"
        raise StorageError(f"{doing} failed: {reason}", "a store that answers", fix) from None


def no_conditions(url: str) -> StorageError:
    """Return the error for a store that cannot keep a second writer out."""
    return StorageError(
        f"the store of {url} cannot write an object only where there is none, so nothing keeps two pushes apart",
        "a store with conditional puts (If-None-Match, If-Match), as S3 and its like have them",
        "Push to a folder and copy that with the store's own tool, or use another store",
    )
