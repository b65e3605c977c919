"""The errors a user can meet, and how text from anywhere is shown to them.

Every message has three parts: what was found, what was expected, and what to do about it. The command line
prints the message without a traceback and ends with the error's ``exit_code``.
"""

from __future__ import annotations

import errno
import re

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/{1,2})([^\s'\"]+)")

# What a network file system or a busy machine says, and takes back a moment later.
PASSING = frozenset(
    {
        errno.ESTALE,
        errno.EIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ENOMEM,
        errno.ENFILE,
        errno.EMFILE,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOTCONN,
        errno.EREMOTEIO,
        errno.ENOLCK,
    }
)


def redacted(text: str) -> str:
    """Return a text without the user names, passwords, keys and query strings of the URLs in it."""
    return _URL.sub(lambda match: match[1] + _without_secrets(match[2]), text)


def _without_secrets(rest: str) -> str:
    authority = rest.partition("/")[0]
    _, colon, port = authority.partition(":")
    # A secret key may hold a "/", so the last "@" counts; a port is no secret.
    if "@" in rest and (colon or "@" in authority):
        rest = "…@" + rest.rpartition("@")[2]
    elif colon and not port[:1].isdigit():
        rest = "…"
    return re.sub(r"\?.*", "?…", rest) if re.match(r"[^?]*\?[\w-]+=", rest) else rest


def printable(text: str) -> str:
    """Return a text as a terminal may have it: control and escape characters spelt out, line ends kept.

    Names of files are anyone's, and a terminal obeys what is in them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class CanonfaceError(Exception):
    """Root of all errors raised on purpose.

    What files and their names bring into a message is spelt out where it does not print.

    Parameters
    ----------
    found : str
        What is wrong, naming the file, key or array.
    expected : str
        What would have been right.
    fix : str
        What the reader can do now.
    """

    exit_code = 2

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        # Here once for all: whatever names a URL must not show what it holds besides the place.
        self.found, self.expected, self.fix = redacted(found), redacted(expected), redacted(fix)
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.found.rstrip(".") + "."]
        if self.expected:
            parts.append(f"Expected {self.expected.rstrip('.')}.")
        if self.fix:
            parts.append(f"{self.fix.rstrip('.')}.")
        return printable(" ".join(parts))

    def __reduce__(self) -> tuple[type[CanonfaceError], tuple[str, str, str]]:
        # Errors cross process borders (Dask workers), so they must pickle with all three parts.
        return type(self), (self.found, self.expected, self.fix)


class ManifestError(CanonfaceError):
    """The recipe (YAML or a ``--set`` override) is not valid."""


class InputError(CanonfaceError):
    """A capture, scan, camera, image or landmark file cannot be used as it is."""


class MeshError(InputError):
    """A mesh is empty, non-finite, inconsistent or in the wrong unit."""


class CameraError(InputError):
    """A camera is not a valid pinhole camera, or contradicts its image."""


class LandmarkError(InputError):
    """Landmarks are missing, degenerate or of another scheme."""


class WarpError(InputError):
    """The warp cannot start, or its result cannot be believed at all."""


class DependencyError(CanonfaceError):
    """An optional package, system library or service is not present."""


class UnitError(CanonfaceError):
    """A piece of a build's work failed as often as it may, wherever it was tried."""

    exit_code = 1


class ServiceLostError(DependencyError):
    """A service that work was carried by is gone: what is finished is kept, and the same command may be run again."""

    exit_code = 75


class StorageError(CanonfaceError):
    """A disk or store refused a read or a write (full, read-only, missing)."""


class MissingObjectError(StorageError):
    """A file or object of a store is not there."""


class DatasetError(CanonfaceError):
    """A dataset is of another version or not a canonface dataset."""


class CorruptDatasetError(DatasetError):
    """A dataset's bytes are not what was written."""

    exit_code = 1


class MissingShardError(CorruptDatasetError):
    """A file that a dataset's records name is not there, though the rest is."""


class ReplacedDatasetError(DatasetError):
    """A dataset that was open is gone, or another lies in its place: what was read until then is of the old one."""


class CheckpointError(CanonfaceError):
    """A model checkpoint cannot be read or does not fit."""


def chain_of(error: BaseException | None) -> list[BaseException]:
    """Return an error and what it came of, one behind the other."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def may_pass(error: BaseException) -> bool:
    """Whether an error is, or came of, one that another try may not meet."""
    return any(
        isinstance(one, ConnectionError | TimeoutError) or (isinstance(one, OSError) and one.errno in PASSING)
        for one in chain_of(error)
    )


def raise_if_passing(error: BaseException) -> None:
    """Raise an error that may pass: a file that could not be read just now is not a broken one.

    Raises
    ------
    BaseException
        The error.
    """
    if may_pass(error):
        raise error
