"""A disk that refuses becomes one clear error, wherever in a unit of work it happens."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from datagen.errors import StorageError
from datagen.shards.atomic import storage_errors

# Not "no such file" and its like: those are mistakes of this program, whose traceback must survive.
DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE}
)


@contextmanager
def disk_refusals(doing: str) -> Iterator[None]:
    """Turn an ``OSError`` that says the disk refused into a ``StorageError``; let every other exception pass.

    Parameters
    ----------
    doing : str
        What the block does, as in "warping s01/talk".

    Raises
    ------
    StorageError
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        refusal = error
    else:
        return
    with storage_errors(doing):
        raise refusal
    raise StorageError(f"{doing} failed: {refusal}")  # unreachable; tells the type checker so
