"""Warps, persons and bridges on disk: the same bytes for the same result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from datagen.common.documents import parse_json, read_json
from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes, npz_bytes, read_npz
from datagen.geometry.space import CanonicalSpace
from datagen.heads.base import HeadTemplate
from datagen.warp.bridge import Bridge
from datagen.warp.parameters import HeadParameters
from datagen.warp.personal import SequencePrior
from datagen.warp.personal_marks import PersonalMarks
from datagen.warp.result import BRIDGE_FILE, PERSON_FILE, VERDICT_FILE, WARP_FILE, Verdict, Warp

ARRAYS = (
    "scan_vertices",
    "scan_faces",
    "canonical",
    "confidence",
    "region",
    "registered_vertices",
    "registered_faces",
    "head_to_world",
    "spread_m",
    "usual_height_m",
)
PARAMETER_ARRAYS = ("identity", "expression", "model_to_head", "rms_mm")


def warp_bytes(warp: Warp) -> bytes:
    """Return the content of ``warp.npz``: every array of :class:`Warp`, the space's ``centre`` and ``half_extent``.

    The head model's parameters are ``parameter_*``.
    """
    arrays = {name: np.asarray(getattr(warp, name)) for name in ARRAYS}
    arrays |= {f"parameter_{name}": np.atleast_1d(getattr(warp.parameters, name)) for name in PARAMETER_ARRAYS}
    arrays["centre"] = np.array(warp.space.centre)
    arrays["half_extent"] = np.array(warp.space.half_extent)
    arrays["space"] = np.frombuffer(json.dumps(warp.space.to_attrs(), sort_keys=True).encode(), np.uint8)
    return npz_bytes(arrays, compress=False)


def verdict_bytes(verdict: Verdict) -> bytes:
    """Return the content of ``verdict.json``: ``verdict``, ``reasons`` and ``figures``."""
    metrics = {name: round(float(value), 6) for name, value in sorted(verdict.metrics.items())}
    content = {"verdict": verdict.status, "reasons": list(verdict.reasons), "figures": metrics}
    return (json.dumps(content, indent=1) + "\n").encode()


def write_warp(folder: Path, warp: Warp) -> None:
    """Write ``warp.npz`` and then ``verdict.json`` into ``folder``, each atomically."""
    atomic_write_bytes(folder / WARP_FILE, warp_bytes(warp))
    atomic_write_bytes(folder / VERDICT_FILE, verdict_bytes(warp.verdict))


def read_verdict(folder: Path) -> Verdict:
    """Read ``verdict.json``.

    Raises
    ------
    InputError
        If it is missing or broken.
    """
    path = folder / VERDICT_FILE
    try:
        content = read_json(path)
        return Verdict(content["verdict"], tuple(content["reasons"]), dict(content["figures"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a verdict", "Warp the frame again") from None


def read_warp(folder: Path) -> Warp:
    """Read what :func:`write_warp` wrote.

    Raises
    ------
    InputError
        If a file is missing or broken, or of an older kind: without parameters, or with them in other shapes.
    """
    path = folder / WARP_FILE
    named = {name: f"parameter_{name}" for name in PARAMETER_ARRAYS}
    arrays = read_npz(path, (*ARRAYS, *named.values(), "space"), expected="a warp", fix="Warp the frame again")
    found = {name: arrays.pop(stored) for name, stored in named.items()}
    spread, shapes = arrays["spread_m"].shape, [array.shape for array in found.values()]
    fits = spread in ((0,), (len(arrays["registered_vertices"]),)) and [len(shape) for shape in shapes[:2]] == [1, 1]
    fits &= arrays["usual_height_m"].size == 1
    if not fits or shapes[2:] != [(4, 4), (1,)]:
        raise InputError(
            f"{path} has spread_m {spread} and parameters of the shapes {shapes}",
            "(V,) like the registered vertices, and (K,), (E,), (4, 4) and (1,)",
            "Warp the frame again",
        )
    try:
        space = CanonicalSpace.from_attrs(parse_json(arrays.pop("space").tobytes()))
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a warp", "Warp the frame again") from None
    parameters = HeadParameters(
        found["identity"], found["expression"], found["model_to_head"], float(found["rms_mm"].item())
    )
    usual = float(arrays.pop("usual_height_m").item())
    return Warp(**arrays, space=space, verdict=read_verdict(folder), parameters=parameters, usual_height_m=usual)


PERSON_ARRAYS = ("neutral", "frames", "head", "amplitude", "usual_m", "marks_sigma_m")
MARK_ARRAYS = ("indices", "faces", "barycentric", "offset_m")
NO_MARKS = PersonalMarks(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 3)), 0.0)


def prior_bytes(prior: SequencePrior) -> bytes:
    """Return the content of ``person.npz``: everything of :class:`SequencePrior`, its marks as ``marks_*``."""
    marks = prior.marks or NO_MARKS
    return npz_bytes(
        {
            "neutral": prior.neutral,
            "frames": np.array(prior.frames, np.int64),
            "head": np.frombuffer(prior.head.encode(), np.uint8),
            "amplitude": np.array([prior.amplitude]),
            "usual_m": prior.usual_m,
            "marks_sigma_m": np.array([marks.sigma_m]),
            **{f"marks_{name}": getattr(marks, name) for name in MARK_ARRAYS},
        }
    )


def read_prior(folder: Path, template: HeadTemplate | None = None) -> SequencePrior:
    """Read ``person.npz``.

    Parameters
    ----------
    template : HeadTemplate, optional
        That the person must be in the topology of.

    Raises
    ------
    InputError
        If the file is missing or broken, or the person is in another topology.
    """
    path = folder / PERSON_FILE
    fix = "Remove its folder and build again"
    marked = tuple(f"marks_{name}" for name in MARK_ARRAYS)
    found = read_npz(path, (*PERSON_ARRAYS, *marked), expected="a person", fix=fix)
    neutral = found["neutral"]
    try:
        indices, faces, barycentric, offset = (found[name] for name in marked)
        marks = PersonalMarks(indices, faces, barycentric, offset, found["marks_sigma_m"].item())
        prior = SequencePrior(
            found["head"].tobytes().decode(),
            neutral,
            tuple(int(frame) for frame in found["frames"]),
            found["amplitude"].item(),
            marks if len(marks.indices) else None,
            found["usual_m"],
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a person", fix) from None
    if template is not None and (prior.head, neutral.shape) != (template.name, template.vertices.shape):
        raise InputError(
            f"the person {path} is in the topology of {prior.head!r} ({len(neutral)} vertices)",
            f"{template.name!r} with {len(template.vertices)} vertices",
            fix,
        )
    return prior


BRIDGE_ARRAYS = ("neutral", "corners", "barycentric", "offset", "valid", "canonical", "confidence", "region")
_TEXTS = ("source", "source_digest", "template_digest")


def bridge_bytes(bridge: Bridge) -> bytes:
    """Return the content of ``bridge.npz``: the arrays of :class:`Bridge`, and what it connects."""
    arrays = {name: getattr(bridge, name) for name in BRIDGE_ARRAYS}
    texts = (bridge.source, bridge.source_digest, bridge.template.digest)
    arrays |= {name: np.frombuffer(text.encode(), np.uint8) for name, text in zip(_TEXTS, texts, strict=True)}
    return npz_bytes(arrays)


def read_bridge(folder: Path, template: HeadTemplate) -> Bridge:
    """Read ``bridge.npz`` and ``verdict.json``.

    Raises
    ------
    InputError
        If a file is missing or broken, or the bridge leads to another template.
    """
    path = folder / BRIDGE_FILE
    fix = "Remove its folder and build again"
    arrays = read_npz(path, (*BRIDGE_ARRAYS, *_TEXTS), expected="a bridge", fix=fix)
    source, source_digest, template_digest = (arrays.pop(name).tobytes().decode() for name in _TEXTS)
    if template_digest != template.digest:
        raise InputError(f"the bridge {path} leads to another template", f"{template.name!r}", fix)
    return Bridge(template=template, source=source, source_digest=source_digest, verdict=read_verdict(folder), **arrays)
