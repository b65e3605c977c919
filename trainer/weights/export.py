"""A fitted model as one file that runs without this package: a `torch.export` program, or ONNX."""

from __future__ import annotations

import glob
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CheckpointError, DependencyError, InputError, StorageError
from datagen.common.files import staged_files, storage_errors
from datagen.common.progress import unwatched
from trainer.run.checkpoint import build_model, check_output, checkpoint_file, read_checkpoint

if TYPE_CHECKING:
    import torch

    from trainer.model.joint import JointModel

# Runs a written program on images and intrinsics.
Run = Callable[[Any, Any], list[npt.NDArray[Any]]]
MOST_FRAMES = 64  # of a program for any number of frames
EXPORT_STEPS = 4
TOLERANCE = 1e-4  # of the largest value of each output
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Format:
    """A kind of file that a model can be exported to.

    Attributes
    ----------
    save : callable
        Writes a traced program to a path, with the names of its outputs and what its user has to know.
    read : callable
        Reads the file back, to be compared with the model.
    check : callable
        Raises a DependencyError if a package is missing.
    """

    save: Callable[[Any, Path, list[str], dict[str, Any]], None]
    read: Callable[[Path], Run]
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    frames : str
        Numbers of frames it takes.
    size : int
        Pixels a side.
    outputs : list of str
        Names, as in :class:`trainer.model.joint.Prediction`.
    differences : dict
        For each number of frames tried: the largest difference to the model, relative to each output's largest value.
    """

    path: Path
    frames: str
    size: int
    outputs: list[str]
    differences: dict[int, float]
    seconds: float
    mib: float

    @property
    def passed(self) -> bool:
        """Whether the program agrees with the model."""
        return all(value <= TOLERANCE for value in self.differences.values())


def export_model(
    checkpoint: Path,
    out: Path,
    kind: str = "torch",
    *,
    frames: int | None = None,
    size: int | None = None,
    overwrite: bool = False,
    on_step: Callable[[str], None] = unwatched,
) -> Exported:
    """Export a checkpoint, read the file back, and compare it with the model on random images.

    The program computes in float32. Its inputs are ``images`` (1, S, 3, R, R), ImageNet-normalised, and ``intrinsics``
    (1, S, 3, 3) in pixels.

    Parameters
    ----------
    checkpoint : Path
        A checkpoint, or a run folder (then its ``best.pt``).
    out : Path
        The file; written only if it agrees with the model. ONNX of more than 2 GB also writes ``<out>.data``.
    kind : str
        One of :data:`FORMATS`.
    frames : int, optional
        S, fixed. Without it, any number from the fewest for which the model chooses a reference frame, to 64.
    size : int, optional
        R; the training resolution by default.
    overwrite : bool
        Whether a file ``out`` that exists is replaced.
    on_step : callable
        Called with what begins, :data:`EXPORT_STEPS` times.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be used or the model cannot be exported in this way.
    DependencyError
        If the packages for ONNX are missing.
    InputError, StorageError
        If the size does not suit the model; if there is a file already, or it cannot be written.
    """
    import torch

    from trainer.model.backbone import FEWEST_FRAMES

    form = FORMATS[kind]
    form.check()
    check_output(out, checkpoint_file(checkpoint), overwrite=overwrite)
    on_step("reading the model")
    content = read_checkpoint(checkpoint)
    model, _ = build_model(content, torch.device("cpu"))
    # Autocast belongs to the training machine; the file's user chooses precision by other means.
    model.backbone.config = model.backbone.config.model_copy(update={"precision": "float32"})
    side = size or int(content["dataset"]["resolution"])
    if side % model.backbone.patch:
        raise InputError(f"--size {side}", f"a multiple of the model's patch, {model.backbone.patch}", "Round it")
    fewest = FEWEST_FRAMES
    tried = [frames] if frames is not None else [fewest, fewest + 2, fewest + 5]
    started = time.monotonic()
    names = _output_names(model, side)
    on_step("tracing the network")
    program = _program(model, names, frames, fewest, side)
    about = _description(content, model, side, names)
    with _disk_errors(out), staged_files(out, overwrite=overwrite) as folder:
        staged = folder / out.name
        on_step(f"writing {out.name}")
        form.save(program, staged, names, about)
        on_step("comparing the file with the model")
        run = form.read(staged)
        differences = {count: _difference(model, run, names, count, side) for count in tried}
        result = Exported(
            path=out,
            frames=str(frames) if frames is not None else f"{fewest} to {MOST_FRAMES}",
            size=side,
            outputs=names,
            differences=differences,
            seconds=time.monotonic() - started,
            mib=sum(path.stat().st_size for path in folder.glob(f"{glob.escape(out.name)}*")) / 2**20,
        )
        if not result.passed:
            for path in list(folder.iterdir()):
                path.unlink()
    return result


def _program(model: JointModel, names: list[str], frames: int | None, fewest: int, side: int) -> Any:
    """Trace the model into a graph."""
    import torch

    class Named(torch.nn.Module):
        """The model with a tuple of tensors for an output."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor, intrinsics: torch.Tensor) -> tuple[torch.Tensor, ...]:
            prediction = self.model(images, intrinsics)
            return tuple(getattr(prediction, name) for name in names)

    shapes: dict[str, dict[int, Any]] | None = None
    if frames is None:
        some = torch.export.Dim("frames", min=fewest, max=MOST_FRAMES)
        shapes = {"images": {1: some}, "intrinsics": {1: some}}
    example = _random_clip(frames or fewest + 2, side, seed=0)
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(Named().eval(), example, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # tracing fails with many kinds: all mean that this network has no such graph
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        fix = "Give a fixed number with --frames" if frames is None else "Report the configuration"
        raise CheckpointError(f"the model cannot be exported ({reason})", "a network that can be traced", fix) from None


def _save_torch(program: Any, path: Path, names: list[str], about: dict[str, Any]) -> None:
    import torch

    del names
    # Through memory: torch's own file writer ends the process where the disk is full.
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"canonface.json": json.dumps(about)})
    path.write_bytes(buffer.getbuffer())


def _save_onnx(program: Any, path: Path, names: list[str], about: dict[str, Any]) -> None:
    import torch

    try:
        with _quiet():
            onnx_program = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=["images", "intrinsics"], output_names=names
            )
    except Exception as error:
        lines = [line for line in str(error).splitlines() if "No ONNX function" in line or "Error" in line]
        reason = (lines or [type(error).__name__])[-1].strip()[:200]
        raise CheckpointError(
            f"the model cannot be turned into ONNX ({reason})", "operators that ONNX supports", "Use --format torch"
        ) from None
    assert onnx_program is not None
    onnx_program.model.metadata_props["canonface"] = json.dumps(about)
    onnx_program.save(str(path))


def _torch_runner(path: Path) -> Run:
    import torch

    with _quiet():
        module = torch.export.load(path).module()

    def run(images: Any, intrinsics: Any) -> list[npt.NDArray[Any]]:
        with torch.no_grad():
            return [x.numpy() for x in module(images, intrinsics)]

    return run


def _onnx_runner(path: Path) -> Run:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Any, intrinsics: Any) -> list[npt.NDArray[Any]]:
        return session.run(None, {"images": images.numpy(), "intrinsics": intrinsics.numpy()})

    return run


def _difference(model: JointModel, run: Run, names: list[str], frames: int, side: int) -> float:
    """Return the largest difference over all outputs, each relative to its largest value; inf if not finite."""
    import torch

    clip = _random_clip(frames, side, seed=1)
    with torch.no_grad():
        prediction = model(*clip)
    worst = 0.0
    for name, found in zip(names, run(*clip), strict=True):
        wanted = getattr(prediction, name).numpy()
        if found.shape != wanted.shape or not np.isfinite(found).all():
            return float("inf")
        away = np.abs(found.astype(np.float64) - wanted).max() / max(float(np.abs(wanted).max()), 1e-12)
        worst = max(worst, float(away))
    return worst


def _random_clip(frames: int, side: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    intrinsics = torch.eye(3).repeat(1, frames, 1, 1)
    intrinsics[..., 0, 0] = intrinsics[..., 1, 1] = 2.0 * side
    intrinsics[..., :2, 2] = side / 2
    return torch.randn(1, frames, 3, side, side, generator=generator), intrinsics


def _output_names(model: JointModel, side: int) -> list[str]:
    """Return the tensors this model gives; heads that are off give none."""
    import torch

    with torch.no_grad():
        prediction = model(*_random_clip(1, side, seed=0))
    return [f.name for f in fields(prediction) if isinstance(getattr(prediction, f.name), torch.Tensor)]


def _description(content: dict[str, Any], model: JointModel, side: int, outputs: list[str]) -> dict[str, Any]:
    """Return what the file's user has to know: sizes, units, the canonical space, the input's normalisation."""
    from trainer.data import IMAGE_MEAN, IMAGE_STD

    return {
        "inputs": ["images", "intrinsics"],
        "outputs": outputs,
        "size": side,
        "patch": model.backbone.patch,
        "image_mean": np.ravel(IMAGE_MEAN).tolist(),
        "image_std": np.ravel(IMAGE_STD).tolist(),
        "focal_over_width": model.depth_unit.focal_over_width,
        "half_extent_m": float(content["dataset"]["half_extent_m"]),
        "space": content["dataset"]["space"],
        "step": content.get("step"),
    }


def _check_onnx() -> None:
    missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"ONNX needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            "the extra `onnx`",
            "Install it with `pip install 'canonface[onnx]'`, or use --format torch",
        )


FORMATS = {
    "torch": Format(_save_torch, _torch_runner),
    "onnx": Format(_save_onnx, _onnx_runner, _check_onnx),
}


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    with storage_errors(f"writing {out}"):
        try:
            yield
        except RuntimeError as error:  # how torch reports a full disk
            raise StorageError(
                f"writing {out} failed: {error}",
                "a writable folder with space",
                "Free space, or choose another --out",
            ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings (other packages, deprecations within torch) off the terminal."""
    loggers = [logging.getLogger("torch.onnx._internal.exporter._registration"), logging.getLogger("onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
