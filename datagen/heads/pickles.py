"""Read arrays out of pickles made by libraries that are gone, without running anything in them.

FLAME's official files hold chumpy arrays; chumpy imports with no current NumPy. Pickles can also run any code, so
only what builds an array is resolved; every other class becomes an inert stand-in.
"""

from __future__ import annotations

import pickle
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError

SAFE_GLOBALS = {
    "builtins": {"object", "dict", "list", "set", "tuple", "str", "bytes", "int", "float", "bool"},
    "collections": {"OrderedDict", "defaultdict"},
    "copyreg": {"_reconstructor"},
    "_codecs": {"encode"},
    "numpy": {"ndarray", "dtype"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "scipy.sparse": {"csc_matrix", "csr_matrix", "coo_matrix"},
}
# Names as Python 2 and older versions of NumPy and SciPy wrote them.
RENAMED_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "scipy.sparse.csc": "scipy.sparse",
    "scipy.sparse._csc": "scipy.sparse",
    "scipy.sparse.csr": "scipy.sparse",
    "scipy.sparse._csr": "scipy.sparse",
    "scipy.sparse.coo": "scipy.sparse",
    "scipy.sparse._coo": "scipy.sparse",
}


class Inert:
    """Stand-in of any class we do not resolve: keeps the pickled state, does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Accept and ignore whatever the pickle passes."""

    def __setstate__(self, state: Any) -> None:
        """Keep the state: chumpy keeps its array there."""
        if isinstance(state, dict):
            self.__dict__.update(state)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        home = RENAMED_MODULES.get(module, module)
        if name in SAFE_GLOBALS.get(home, ()):
            return getattr(import_module(home), name)
        return type(name, (Inert,), {})


def load_inert(stream: BinaryIO, name: str) -> Any:
    """Unpickle ``stream`` with unknown classes as :class:`Inert`.

    Raises
    ------
    InputError
        If it is not a pickle.
    """
    try:
        return _ArrayUnpickler(stream, encoding="latin1").load()
    except Exception as error:  # noqa: BLE001, RUF100 - a damaged pickle can raise anything
        raise InputError(
            f"{name} cannot be unpickled ({type(error).__name__}: {error})", "a complete pickle", "Download it again"
        ) from None


def as_array(value: Any, name: str) -> npt.NDArray[Any]:
    """Return an array from what a pickle held: an array, a sparse matrix, or the state of a chumpy one.

    Raises
    ------
    InputError
        If it holds none.
    """
    if isinstance(value, Inert):
        state = value.__dict__
        if "x" in state:
            return as_array(state["x"], name)
        if "a" in state and "idxs" in state:  # chumpy.reordering.Select
            picked = as_array(state["a"], name).ravel()[np.asarray(state["idxs"], np.int64)]
            return picked.reshape(state["preferred_shape"]) if "preferred_shape" in state else picked
        raise InputError(
            f"{name} is a {type(value).__name__} object without an array",
            "a NumPy, SciPy sparse or chumpy array",
            "Save the model as an .npz with plain arrays",
        )
    return np.asarray(value.toarray() if hasattr(value, "toarray") else value)


def load_npy(path: Path) -> Any:
    """Read a ``.npy`` file; if it holds one pickled object, that object, through :func:`load_inert`.

    Raises
    ------
    InputError
        If it is not such a file.
    """
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if dtype != np.dtype(object):
                stream.seek(0)
                return np.lib.format.read_array(stream, allow_pickle=False)
            content = load_inert(stream, str(path))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a NumPy .npy file", "Copy the file again") from None
    return content[()] if isinstance(content, np.ndarray) and shape == () else content
