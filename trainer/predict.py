"""Predicting an image, a folder of images, a video, or a clip of a dataset."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.console import say
from datagen.common.errors import InputError
from datagen.common.face_mesh import FaceMesh
from datagen.common.pictures import Orientation
from datagen.common.progress import Progress, announce
from datagen.common.pyav import have_video
from datagen.common.video_pictures import VIDEO_SUFFIXES
from datagen.shards import open_dataset
from trainer.inference import Maps
from trainer.prediction.cameras import FieldOfView, FrameCamera, GivenCameras, Origin, assumed_intrinsics, write_cameras
from trainer.prediction.foreground import Foreground, MaskFolder, Rule, make_crop
from trainer.prediction.frames import Crop, DatasetClip, FrameSource, ImageFiles, SourceFrame, image_files
from trainer.prediction.heads import LOOK_PX, Head, choose, find_heads, given_heads
from trainer.prediction.output import MARKER, check_target, prediction_folder
from trainer.prediction.show import ShowConfig, write_shown
from trainer.prediction.store import FrameStore, PredictedFrame, normals_from_depth
from trainer.prediction.tracks import TrackConfig
from trainer.prediction.video import VideoFile
from trainer.prediction.viewer import Truth
from trainer.prediction.windows import Drift, WindowModel, cut_windows, stitch_windows
from trainer.prediction.writers import write_marker
from trainer.run.checkpoint import build_model, kind_of, pick_device, read_checkpoint

_DEFAULT_RATE = 12.0
_SAME_RATE = 0.05  # times are stored in whole milliseconds, or less
PARTS = ("maps", "ply", "tracks", "raw", "videos", "viewer")


@dataclass(frozen=True)
class PredictOptions:
    """What is predicted of a source, and how.

    Attributes
    ----------
    frames : int
        A window: frames predicted together; 1 is frame by frame.
    overlap : int or None
        Frames two windows share; a quarter of the window by default.
    drift : "fade" or "chain" or None
        See :func:`trainer.prediction.windows.stitch_windows`; by default what suits the checkpoint's depth.
    start, stop, step : int, int or None, int
        Which frames of a folder or video, as in a Python slice.
    size : int or None
        Pixels of the longer side; the training resolution by default.
    masks : Path or None
        Folder of foreground masks.
    crop : str or None
        "each" or "all" (about the masks), or "left,top,right,bottom"; see :mod:`trainer.prediction.foreground`.
    foreground : str
        See :class:`trainer.prediction.foreground.Foreground`.
    cameras : Path or None
        A ``cameras.json``.
    boxes : tuple of str
        "left,top,width,height" of each head, the same in all frames, in place of ``crop``.
    detector_python : Path or None
        A Python with MediaPipe, whose face detector finds the heads of each frame, in place of ``crop``.
    head : int, "all" or None
        Which head of several, from 1; "all": each into a folder of its own. By default the first, which is said.
    orientation : "stored", "upright" or None
        Whether pictures, masks and cameras are those of the stored pixels or of the picture as it is shown. By default
        pictures are turned upright, and refused where they would be and masks or cameras are given.
    fov_deg : float or None
        Field of view along the longer side, where ``cameras`` is not given.
    without : tuple of str
        Of :data:`PARTS`: what is not written.
    rate : float or None
        Frames per second of the videos; the source's by default.
    split, index : str, int
        For a dataset: the clip that holds this sample; by default the first of ``val``.
    """

    frames: int = 4
    overlap: int | None = None
    drift: Drift | None = None
    start: int = 0
    stop: int | None = None
    step: int = 1
    size: int | None = None
    masks: Path | None = None
    crop: str | None = None
    boxes: tuple[str, ...] = ()
    detector_python: Path | None = None
    head: int | Literal["all"] | None = None
    foreground: Rule = "auto"
    cameras: Path | None = None
    orientation: Orientation | None = None
    fov_deg: float | None = None
    without: tuple[str, ...] = ()
    tracks: TrackConfig = field(default_factory=TrackConfig)
    rate: float | None = None
    split: str | None = None
    index: int | None = None

    def checked_overlap(self) -> int:
        """Check the options against each other and return the overlap.

        Raises
        ------
        InputError
            If they contradict each other.
        """
        overlap = self.frames // 4 if self.overlap is None else self.overlap
        if not 0 <= overlap < self.frames:
            raise InputError(
                f"--overlap {overlap} with --frames {self.frames}", "an overlap shorter than the window", "Lower it"
            )
        if self.step < 1 or self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise InputError(
                "--start, --stop and --step choose no frames", "start < stop, step 1 or more", "Change them"
            )
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise InputError(f"--rate {self.rate:g}", "frames per second, above 0", "Correct it")
        unknown = sorted(set(self.without) - set(PARTS))
        if unknown:
            raise InputError(f"--without {unknown[0]}", f"one of {', '.join(PARTS)}", "Choose another")
        if self.cameras is not None and self.fov_deg is not None:
            raise InputError("both --cameras and --fov are given", "one of them", "Leave one out")
        ways = {"--crop": self.crop, "--box": self.boxes, "--detector-python": self.detector_python}
        given = [name for name, value in ways.items() if value]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} are given", "one way to say where the head is", "Leave one out")
        if self.head is not None and given not in (["--box"], ["--detector-python"]):
            raise InputError(
                f"--head {self.head} without --box or --detector-python", "heads to choose from", "Give one of them"
            )
        if self.masks is not None and self.foreground != "auto":
            raise InputError("both --masks and --foreground are given", "one of them", "Leave one out")
        return overlap

    def turned(self) -> Orientation | None:
        """Return how pictures are to be turned; None asks where it matters."""
        if self.orientation is None and self.masks is None and self.cameras is None:
            return "upright"
        return self.orientation


def predict(
    checkpoint: Path, source: Path, out: Path, options: PredictOptions | None = None, *, device_name: str = "auto"
) -> dict[str, Any]:
    """Predict and write everything docs/prediction.md lists.

    Frames are read, predicted and written one window at a time; memory does not depend on their number.

    Parameters
    ----------
    checkpoint : Path
        A checkpoint, or a run folder (then its ``best.pt``).
    source : Path
        A dataset, an image, a folder of images (in the order of their names), or a video.
    out : Path
        A folder, which appears when all is written. An earlier prediction is replaced.

    Returns
    -------
    dict
        What ``prediction.json`` holds; of all heads, their number of frames and each one's under ``heads``.

    Raises
    ------
    CheckpointError, DatasetError, DependencyError, InputError, StorageError
        If something cannot be used, read or written; then ``out`` is as it was.
    """
    options = options or PredictOptions()
    overlap = options.checked_overlap()
    if options.head != "all":
        check_target(out)
    announce("predict", "reading the model")
    content = read_checkpoint(checkpoint)
    device = pick_device(device_name)
    model, config = build_model(content, device)
    patch = model.backbone.patch
    resolution = options.size or int(content["dataset"]["resolution"])
    if resolution % patch:
        raise InputError(f"--size {resolution}", f"a multiple of the model's patch, {patch}", "Round it")
    masks = None if options.masks is None else MaskFolder(options.masks, options.turned())
    heads = _heads_of(source, content, options, patch)
    usual = assumed_intrinsics(model.depth_unit.focal_over_width, resolution)
    network = WindowModel(model, usual, knows_surface="surface" not in content.get("untrained", ()))
    drift: Drift = options.drift or ("chain" if content.get("depth_up_to_scale") else "fade")
    task = _Task(source, options, content, resolution, overlap, drift, config.loss.confidence_lambda)

    def one(crop: Crop | None, place: Path) -> dict[str, Any]:
        frames = _frames_of(source, resolution, content, options, patch, crop)
        return _predict_one(task, network, frames, masks, place)

    if heads is None:
        return one(make_crop(options.crop, masks), out)
    if options.head != "all":
        return one(choose(heads.found, options.head, heads.frames), out)
    places = [out / f"head{number}" for number in range(1, len(heads.found) + 1)]
    for place in places:
        check_target(place)
    left = [path.name for path in sorted(out.glob("head*")) if path not in places] if out.is_dir() else []
    if left:
        say(f"{out} holds {', '.join(left)} of earlier, which are left as they are", to=sys.stderr)
    done = [
        one(choose(heads.found, number, heads.frames), place) | {"out": place.name}
        for number, place in enumerate(places, start=1)
    ]
    return {"format": "canonface-predictions", "heads": done, "frames": sum(each["frames"] for each in done)}


@dataclass(frozen=True)
class _Heads:
    """Heads that were given or found, in how many frames they were looked for; 0 where they were given."""

    found: list[Head]
    frames: int


def _heads_of(source: Path, content: dict[str, Any], options: PredictOptions, patch: int) -> _Heads | None:
    """Return the heads of the source; None where nobody asked for any."""
    if not options.boxes and options.detector_python is None:
        return None
    if kind_of(source) == "a dataset":
        name = "--box" if options.boxes else "--detector-python"
        raise InputError(f"{name} with a dataset", "a dataset's images as they are stored", "Leave it out")
    if options.detector_python is None:
        return _Heads(given_heads(options.boxes), 0)
    frames = _frames_of(source, LOOK_PX, content, options, patch, None)
    looked = 0

    def counted(progress: Progress) -> Iterator[tuple[int, SourceFrame]]:
        nonlocal looked
        for item in _sliced(frames, options):
            looked += 1
            progress.update(looked)
            yield item

    with (
        FaceMesh(options.detector_python) as detector,
        Progress("look for heads", _expected(frames.count, options), "frames") as progress,
    ):
        found = find_heads(counted(progress), detector, linked=frames.numbered)
    return _Heads(found, looked)


@dataclass(frozen=True)
class _Task:
    """What is the same for every head of a source."""

    source: Path
    options: PredictOptions
    content: dict[str, Any]
    resolution: int
    overlap: int
    drift: Drift
    confidence_lambda: float


def _predict_one(
    task: _Task, network: WindowModel, frames: FrameSource, masks: MaskFolder | None, out: Path
) -> dict[str, Any]:
    """Predict one head's frames into a folder; return what ``prediction.json`` holds."""
    options, content = task.options, task.content
    without = _left_out(options)
    half_extent_m = float(content["dataset"]["half_extent_m"])
    first_pass = _FirstPass(network, options, masks)
    first_pass.assign(frames)
    with prediction_folder(out) as staging:
        hidden = staging / ".frames"
        store = FrameStore(hidden if "maps" in without else staging / "maps" / "raw")
        cameras = first_pass.run(frames, task.overlap, task.drift, store)
        write_cameras(staging, cameras)
        show = ShowConfig(
            half_extent_m=half_extent_m,
            centre=np.array(content["dataset"]["space"].get("centre", (0.0, 0.0, 0.0)), np.float64),
            confidence_lambda=task.confidence_lambda,
            tracks=options.tracks,
            rate=options.rate or _rate(frames.rate, cameras, options.step),
            title=task.source.name or "prediction",
            without=frozenset(without),
            truth=_truth(frames, options),
        )
        tracks = write_shown(staging, store, cameras, show)
        if "raw" not in without:
            store.write_joined(staging / "raw_predictions.npz", _others(cameras, half_extent_m))
        summary: dict[str, Any] = {
            "format": "canonface-prediction",
            "format_version": 1,
            "source": task.source.name,
            "frames": len(cameras),
            "size": task.resolution,
            "space": content["dataset"]["space"],
            "window": options.frames,
            "overlap": task.overlap,
            "drift": task.drift,
            "step_of_checkpoint": content.get("step"),
            "intrinsics_from": sorted({camera.intrinsics_from for camera in cameras}),
            "pose_from": sorted({camera.pose_from for camera in cameras}),
            "written": [part for part in PARTS if part not in without],
            **first_pass.summary(),
            **tracks,
        }
        write_marker(staging / MARKER, summary)
        if hidden.is_dir():
            shutil.rmtree(hidden)
    return summary


class _FirstPass:
    """Read, predict and stitch; leave every frame in the store."""

    def __init__(self, network: WindowModel, options: PredictOptions, masks: MaskFolder | None) -> None:
        self._network = network
        self._options = options
        self._foreground = Foreground(options.foreground)
        self._masks = masks
        self._given: GivenCameras | FieldOfView | None = None
        if options.cameras is not None:
            self._given = GivenCameras(options.cameras)
        elif options.fov_deg is not None:
            self._given = FieldOfView(options.fov_deg)
        self._blank: list[str] = []

    def assign(self, frames: FrameSource) -> None:
        """Find the mask and the camera of every frame that is wanted, before anything is predicted."""
        if self._masks is None and not isinstance(self._given, GivenCameras):
            return
        options = self._options
        names = frames.names(options.stop)
        wanted = range(len(names))[options.start : options.stop : options.step]
        if self._masks is not None:
            self._masks.assign(names, wanted, numbered=frames.numbered)
        if isinstance(self._given, GivenCameras):
            self._given.assign(names, wanted)

    def run(self, frames: FrameSource, overlap: int, drift: Drift, store: FrameStore) -> list[FrameCamera]:
        """Return the cameras of the frames, in order."""
        cameras: list[FrameCamera] = []
        options = self._options
        windows = cut_windows(self._prepared(frames), options.frames, overlap)
        with Progress("predict", _expected(frames.count, options), "frames") as progress:
            for frame, maps in stitch_windows(windows, self._network, overlap, drift):
                camera = _camera(frame, maps, self._network.usual_intrinsics)
                valid = self._foreground(frame, maps)
                if not valid.any():
                    self._blank.append(frame.name)
                store.add(camera.stem(len(store)), _predicted(frame, maps, camera, valid))
                cameras.append(camera)
                progress.update(len(store))
        if not cameras:
            raise InputError("--start, --stop and --step leave no frame of the source", "at least one", "Change them")
        if self._masks is not None:
            self._masks.check_any()
        if self._blank:
            some = ", ".join(self._blank[:5]) + (", ..." if len(self._blank) > 5 else "")
            say(f"no surface was found in {len(self._blank)} of {len(cameras)} frames: {some}", to=sys.stderr)
        return cameras

    def summary(self) -> dict[str, Any]:
        """Say how the foreground was found, and in how many frames it was not."""
        return {
            "foreground": "masks" if self._masks is not None else self._options.foreground,
            "confidence_threshold": self._foreground.threshold,
            "frames_without_surface": len(self._blank),
        }

    def _prepared(self, frames: FrameSource) -> Iterator[SourceFrame]:
        for number, frame in _sliced(frames, self._options):
            seen = frame if self._given is None else self._given.attach(frame, number)
            yield seen if self._masks is None else self._masks.attach(seen, number)


def _frames_of(
    source: Path, resolution: int, content: dict[str, Any], options: PredictOptions, patch: int, crop: Crop | None
) -> FrameSource:
    kind = kind_of(source)
    if kind == "a dataset":
        for name in ("size", "crop", "orientation"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name} with a dataset", "a dataset's images as they are stored", "Leave it out")
        from trainer.evaluate import check_fit

        dataset = open_dataset(source)
        check_fit(content, dataset, patch)
        return DatasetClip(dataset, options.split or "val", options.index or 0, options.frames)
    if kind in {"a run of `trainer fit`", "a checkpoint", "nothing"}:
        raise InputError(
            f"{source} does not exist" if kind == "nothing" else f"{source} is {kind}",
            "an image, a folder of images, a video or a dataset",
            "Check the path",
        )
    if options.split is not None or options.index is not None:
        raise InputError("--split or --index without a dataset", "a dataset, or neither of them", "Leave them out")
    if source.is_file() and source.suffix.lower() in VIDEO_SUFFIXES:
        return VideoFile(source, resolution, crop, options.turned())
    return ImageFiles(image_files(source), resolution, crop, options.turned())


def _rate(declared: float | None, cameras: list[FrameCamera], step: int) -> float:
    """Return frames a second of what is written: as declared, or as the frames' own times say where these differ."""
    usual = (declared or _DEFAULT_RATE * step) / step
    times = [camera.time_s for camera in cameras if camera.time_s is not None]
    if declared is None or len(times) < 2 or times[-1] <= times[0]:
        return usual
    measured = (len(times) - 1) / (times[-1] - times[0])
    return usual if abs(measured / usual - 1) < _SAME_RATE else measured


def _truth(frames: FrameSource, options: PredictOptions) -> Callable[[int], Truth] | None:
    """Return what gives the truth of the frames that are kept, by their number among these."""
    if not isinstance(frames, DatasetClip):
        return None
    kept = range(frames.count)[options.start : options.stop : options.step]
    return lambda number: frames.truth(kept[number])


def _left_out(options: PredictOptions) -> set[str]:
    without = set(options.without)
    if "videos" not in without and not have_video():
        say("videos are left out: PyAV is not installed (extra `video`)", to=sys.stderr)
        without.add("videos")
    return without


def _sliced(frames: FrameSource, options: PredictOptions) -> Iterator[tuple[int, SourceFrame]]:
    """Yield the frames that are wanted, with their numbers in the source."""
    # Not itertools.islice: that would read on after the last frame that is wanted, into what may be damaged.
    for number, frame in enumerate(frames):
        if number >= options.start and (number - options.start) % options.step == 0:
            yield number, frame
        if options.stop is not None and number + 1 >= options.stop:
            return


def _expected(count: int | None, options: PredictOptions) -> int:
    """Return how many frames there will be, 0 if that is not known."""
    return 0 if count is None else len(range(count)[options.start : options.stop : options.step])


def _camera(frame: SourceFrame, maps: Maps, usual: npt.NDArray[np.float32]) -> FrameCamera:
    K_from: Origin = "assumed"
    pose_from: Origin = "assumed"
    K, pose = usual, np.eye(4, dtype=np.float32)
    if frame.intrinsics is not None:
        K, K_from = frame.intrinsics, "given"
    elif maps.intrinsics is not None:
        K, K_from = maps.intrinsics, "model"
    if frame.world_to_camera is not None:
        pose, pose_from = frame.world_to_camera, "given"
    elif maps.world_to_camera is not None:
        pose, pose_from = maps.world_to_camera, "model"
    return FrameCamera(
        frame.name, K, pose, frame.content, frame.original, frame.region, frame.time_s, K_from, pose_from
    )


def _predicted(frame: SourceFrame, maps: Maps, camera: FrameCamera, valid: npt.NDArray[np.bool_]) -> PredictedFrame:
    return PredictedFrame(
        image=frame.image,
        depth=maps.depth_m,
        normal=normals_from_depth(maps.depth_m, camera.intrinsics, valid),
        canonical=maps.canonical,
        depth_confidence=maps.depth_confidence,
        canonical_confidence=maps.canonical_confidence,
        surface=np.ones_like(maps.depth_m) if maps.surface is None else maps.surface,
        valid=valid,
        intrinsics=camera.intrinsics,
        world_to_camera=camera.world_to_camera,
    )


def _others(cameras: list[FrameCamera], half_extent_m: float) -> dict[str, npt.NDArray[Any]]:
    return {
        "names": np.array([c.name for c in cameras]),
        "intrinsics": np.stack([c.intrinsics for c in cameras]),
        "extrinsics": np.stack([c.world_to_camera for c in cameras]),
        "intrinsics_known": np.array(all(c.intrinsics_from == "given" for c in cameras)),
        "extrinsics_known": np.array(all(c.pose_from == "given" for c in cameras)),
        "content_box": np.array([c.content for c in cameras], np.int64),
        "image_region": np.array([c.region for c in cameras]),
        "half_extent_m": np.array(half_extent_m),
    }
