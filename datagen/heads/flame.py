"""FLAME (MPI-IS, own licence), evaluated by `smplx`, read from an .npz or from the official chumpy .pkl."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import DependencyError, InputError
from datagen.common.files import read_npz
from datagen.heads.base import HeadTemplate, checked_vector
from datagen.heads.flame_parameters import FlameParameters
from datagen.heads.flame_texture import read_texture
from datagen.heads.labelling import label_regions, split_parts
from datagen.heads.pickles import as_array, load_inert, load_npy
from datagen.heads.unwrap import Unwrap

MODEL_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
PREFERRED_NAMES = ("flame2023", "flame2020", "flame_neutral", "generic_model")
EMBEDDING_NAMES = ("landmark_embedding.npy", "landmark_embedding.npz")
LANDMARK_KEYS = (("full_lmk_faces_idx", "full_lmk_bary_coords"), ("lmk_faces_idx", "lmk_bary_coords"))
SHAPE_SIZE, EXPRESSION_SIZE, SMALL_SIZE = 300, 100, 10
# jaw_open 1 turns the jaw by this angle about +x: a wide-open mouth.
JAW_OPEN_RAD = 0.4
# Expression coefficients are in standard deviations; 1 stands for a strong one.
EXPRESSION_SCALE = 2.0


@dataclass(frozen=True, eq=False)
class FlameHead:
    """FLAME as a :class:`~datagen.heads.base.HeadModel`.

    Attributes
    ----------
    expression_names : tuple of str
        ``jaw_open`` (0.4 rad at 1), then ``exp_000``, ... (two standard deviations at 1).
    texture : Unwrap or None
        Its own texture coordinates, if their file lies beside the model.
    """

    template: HeadTemplate
    expression_names: tuple[str, ...]
    texture: Unwrap | None
    _layer: Any

    @property
    def identity_size(self) -> int:
        """Number of shape coefficients."""
        return int(self._layer.num_betas)

    @property
    def expression_bounds(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Least and greatest value (E,) of each expression: the jaw opens only, the others go both ways."""
        upper = np.ones(len(self.expression_names))
        return np.where(np.arange(len(upper)) > 0, -1.0, 0.0), upper

    def tensors(self) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        """Return the numbers that make the model what it is, by name."""
        for name in ("v_template", "shapedirs", "posedirs", "J_regressor", "lbs_weights"):
            yield name, getattr(self._layer, name).detach().numpy()
        yield "expr_dirs", self._layer.expr_dirs.detach().numpy()

    def vertices(
        self, identity: npt.NDArray[np.floating], expression: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Return vertices (V, 3) float64 metres; see :class:`~datagen.heads.base.HeadModel`.

        Raises
        ------
        InputError
            If a vector has the wrong length.
        """
        betas = checked_vector(identity, self.identity_size, "identity")
        e = checked_vector(expression, len(self.expression_names), "expression")
        return _evaluate(self._layer, betas, e)

    def posed(self, parameters: FlameParameters) -> npt.NDArray[np.float64]:
        """Return the vertices (V, 3) float64 of a tracker's parameters, in the tracker's world and unit.

        Raises
        ------
        InputError
            If they have more coefficients than the model, or an offset for fewer vertices.
        """
        import torch
        from smplx.lbs import lbs

        layer, p = self._layer, parameters
        betas = _padded(p.shape, int(layer.num_betas), "shape")
        expression = _padded(p.expression, int(layer.num_expression_coeffs), "expression")
        template = layer.v_template
        if p.offset is not None:
            if len(p.offset) < len(template):
                raise InputError(
                    f"the offset is of {len(p.offset)} vertices", f"{len(template)} or more", "Check the parameters"
                )
            # Those of teeth that trackers add come behind the model's own.
            template = template + torch.from_numpy(p.offset[: len(template)])
        with torch.no_grad():
            vertices, _ = lbs(
                torch.from_numpy(np.concatenate([betas, expression]))[None],
                torch.from_numpy(np.concatenate([p.rotation, p.neck, p.jaw, p.eyes]))[None],
                template,
                torch.cat([layer.shapedirs, layer.expr_dirs], dim=-1),
                layer.posedirs,
                layer.J_regressor,
                layer.parents,
                layer.lbs_weights,
            )
        return p.placed(vertices[0].numpy().astype(np.float64))


def _padded(values: npt.NDArray[np.float64], size: int, what: str) -> npt.NDArray[np.float64]:
    if values[size:].any():
        raise InputError(
            f"the parameters have {len(values)} coefficients of {what}",
            f"at most the model's {size}",
            "Use the full FLAME model (300 of shape, 100 of expression)",
        )
    kept = values[:size]
    return np.concatenate([kept, np.zeros(size - len(kept))])


def _evaluate(
    layer: Any, betas: npt.NDArray[np.float64], expression: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    import torch

    jaw = np.array([JAW_OPEN_RAD * expression[0], 0.0, 0.0])
    with torch.no_grad():
        out = layer(
            betas=torch.from_numpy(betas)[None],
            expression=torch.from_numpy(EXPRESSION_SCALE * expression[1:])[None],
            jaw_pose=torch.from_numpy(jaw)[None],
        )
    return out.vertices[0].numpy().astype(np.float64)


def load_flame(root: Path) -> FlameHead:
    """Load FLAME from a model file, or from the folder that holds one.

    Raises
    ------
    InputError
        If there is no model or no landmark embedding, or either is not what it should be.
    DependencyError
        If ``smplx`` is not installed.
    """
    path = find_model(root)
    model = read_model(path)
    faces = np.ascontiguousarray(model["f"], np.int32)
    carriers, weights = read_landmark_embedding(path, model, len(faces))
    layer = _layer(model, carriers, weights)
    size = int(layer.num_expression_coeffs)
    rest, jaw = np.zeros(1 + size), np.eye(1, 1 + size)[0]
    betas = np.zeros(int(layer.num_betas))
    neutral = _evaluate(layer, betas, rest)
    opening = neutral[:, 1] - _evaluate(layer, betas, jaw)[:, 1]
    points = np.einsum("lc,lcd->ld", weights, neutral[faces[carriers]])
    eyeballs, interior = split_parts(neutral, faces, points)
    regions = label_regions(neutral, points, opening=opening, faces=faces, eyeballs=eyeballs, interior=interior)
    template = HeadTemplate("flame", neutral, faces, regions, carriers, weights)
    return FlameHead(
        template=template,
        texture=read_texture(path.parent, template),
        expression_names=("jaw_open", *(f"exp_{k:03d}" for k in range(size))),
        _layer=layer,
    )


def find_model(root: Path) -> Path:
    """Return the model file: ``root`` itself, or the best-named .npz or .pkl in it.

    Raises
    ------
    InputError
        If there is none.
    """
    if root.is_file():
        return root
    files = sorted(p for p in root.glob("*") if p.suffix in (".npz", ".pkl")) if root.is_dir() else []
    for start in PREFERRED_NAMES:
        for path in files:
            if path.name.lower().startswith(start):
                return path
    raise InputError(
        f"there is no FLAME model in {root}",
        f"a file named {', '.join(PREFERRED_NAMES)} ending in .npz or .pkl",
        "Register at flame.is.tue.mpg.de, download the model and put the file there with landmark_embedding.npy",
    )


def read_model(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a FLAME file, .npz or official .pkl.

    Raises
    ------
    InputError
        If it cannot be read, or an array is missing or of the wrong shape.
    """
    if path.suffix == ".npz":
        content: dict[str, Any] = read_npz(path, expected="a FLAME model file", fix="Download it again")
    else:
        try:
            with path.open("rb") as stream:
                content = load_inert(stream, str(path))
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path} cannot be read ({error})", "a FLAME model file", "Download it again") from None
    missing = [k for k in MODEL_KEYS if not isinstance(content, dict) or k not in content]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}", f"the FLAME arrays {', '.join(MODEL_KEYS)}", "Check which file it is"
        )
    arrays = {k: as_array(v, f"{path}: {k}") for k, v in content.items() if k in MODEL_KEYS or k.startswith(_LMK)}
    count = len(arrays["v_template"])
    shapes_ok = arrays["v_template"].shape == (count, 3) and arrays["shapedirs"].shape[:2] == (count, 3)
    faces = arrays["f"]
    if not (shapes_ok and faces.ndim == 2 and faces.shape[1] == 3 and len(faces) and faces.max() < count):
        raise InputError(
            f"{path}: v_template {arrays['v_template'].shape}, shapedirs {arrays['shapedirs'].shape} and "
            f"f {faces.shape} do not fit together",
            "(V, 3), (V, 3, B) and (F, 3) with indices below V",
            "Download the model again",
        )
    if arrays["shapedirs"].shape[2] < 20:
        raise InputError(
            f"{path} has {arrays['shapedirs'].shape[2]} shape directions",
            "400 (300 of shape, 100 of expression), or 20 of the small model",
            "Use the full FLAME model",
        )
    return arrays


_LMK = ("lmk_", "full_lmk_")


def read_landmark_embedding(
    path: Path, model: dict[str, npt.NDArray[Any]], face_count: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Return face (68,) and barycentric weights (68, 3) of the landmarks.

    They come from ``landmark_embedding.npy`` or ``.npz`` beside the model file, or from arrays of the same names
    in the file itself.

    Raises
    ------
    InputError
        If there are none, or not 68.
    """
    source, content = str(path), model
    for name in EMBEDDING_NAMES:
        beside = path.parent / name
        if beside.is_file():
            source = str(beside)
            if beside.suffix == ".npy":
                loaded = load_npy(beside)
                content = loaded if isinstance(loaded, dict) else {}
            else:
                content = read_npz(beside, expected="an .npz archive", fix="Copy it again")
            break
    for face_key, weight_key in LANDMARK_KEYS:
        if face_key in content and weight_key in content:
            faces = as_array(content[face_key], f"{source}: {face_key}").reshape(-1).astype(np.int32)
            weights = as_array(content[weight_key], f"{source}: {weight_key}").reshape(-1, 3).astype(np.float64)
            if len(faces) == len(weights) == 68 and faces.min() >= 0 and faces.max() < face_count:
                return faces, weights / weights.sum(axis=1, keepdims=True)
    raise InputError(
        f"{source} holds no embedding of 68 landmarks",
        f"{' and '.join(LANDMARK_KEYS[0])} for 68 landmarks (17 of the jaw, 51 of the face)",
        f"Put landmark_embedding.npy, which comes with trackers such as DECA or VHAP, into {path.parent}",
    )


def _layer(
    model: dict[str, npt.NDArray[Any]], carriers: npt.NDArray[np.int32], weights: npt.NDArray[np.float64]
) -> Any:
    """Build smplx's layer; it only reads from a folder, so it gets one."""
    try:
        import torch
        from smplx import FLAME
    except ImportError as error:
        raise DependencyError(
            f"the package smplx cannot be imported ({error})",
            "smplx 0.1.28, which evaluates FLAME",
            "Install it with: pip install smplx==0.1.28",
        ) from None
    small = model["shapedirs"].shape[2] < SHAPE_SIZE + EXPRESSION_SIZE
    arrays = {k: np.asarray(model[k], np.float64) for k in MODEL_KEYS}
    for key in ("f", "kintree_table"):
        arrays[key] = np.asarray(model[key]).astype(np.int64)
    with tempfile.TemporaryDirectory(prefix="canonface-flame-") as folder:
        np.savez(os.path.join(folder, "FLAME_NEUTRAL.npz"), **arrays)  # type: ignore[arg-type, unused-ignore]
        with open(os.path.join(folder, "flame_static_embedding.pkl"), "wb") as stream:
            pickle.dump({"lmk_face_idx": carriers.astype(np.int64), "lmk_b_coords": weights}, stream)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return FLAME(
                    folder,
                    ext="npz",
                    num_betas=SMALL_SIZE if small else SHAPE_SIZE,
                    num_expression_coeffs=SMALL_SIZE if small else EXPRESSION_SIZE,
                    dtype=torch.float64,
                )
        except (ValueError, IndexError, RuntimeError) as error:
            raise InputError(
                f"smplx cannot use this FLAME model ({error})", "FLAME 2017, 2020 or 2023", "Download the model again"
            ) from None
