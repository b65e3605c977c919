"""``capture.json``: what one sequence of the folder layout declares about itself."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_serializer, model_validator

from datagen.common.deep_pictures import Transfer
from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.names import checked_pattern
from datagen.common.pictures import Orientation
from datagen.common.settings import Name, Section, parse
from datagen.common.video_frames import frame_at
from datagen.common.video_pictures import VIDEO_SUFFIXES
from datagen.geometry.landmark_orders import ORDERS, Order, order_problem
from datagen.geometry.space import metres_per
from datagen.shards.schema import MAX_FRAME
from datagen.sources.camera_entry import CameraEntry, Number, RecordedCamera, recorded_camera
from datagen.sources.depth_maps import DepthEntry
from datagen.sources.topology import checked_topology_name

CAPTURE_FILE = "capture.json"
CAPTURE_FORMAT = "canonface-capture"
CAPTURE_VERSION = 1
SIMULATION = "canonface simulation"  # the generator of simulated captures
UNKNOWN_UNIT = "unknown"  # of structure from motion; a recipe may find the scale
TIME_TOLERANCE = 0.1  # of the time between two frames
NOTE = "_"  # keys that begin with it are notes, where they hold text
OPEN = "?"  # a value that is still to be filled in
_OPEN_SHOWN = 6
_SEE = "See docs/capture-format.md for the layout"


def _pixel_centre(value: float) -> float:
    if value not in {0.0, 0.5}:
        raise ValueError("0.5 (centre of the top-left pixel at (0.5, 0.5)) or 0 (at (0, 0))")
    return value


def is_video(pattern: str) -> bool:
    """Whether a pattern of pictures names a video for each camera."""
    return pattern.lower().endswith(VIDEO_SUFFIXES)


def _picture_pattern(pattern: str) -> str:
    return checked_pattern(pattern, camera=True, frame=not is_video(pattern))


# Datasets state them.
Text = Annotated[str, Field(min_length=1, max_length=2000)]
PixelCentre = Annotated[float, AfterValidator(_pixel_centre)]
FramePattern = Annotated[str, AfterValidator(partial(checked_pattern, camera=False))]
TopologyName = Annotated[str, AfterValidator(checked_topology_name)]
PicturePattern = Annotated[str, AfterValidator(_picture_pattern)]
EvidencePattern = Annotated[str, AfterValidator(partial(checked_pattern, camera=True))]


class RegistrationEntry(Section):
    """Vertices of each frame in the topology of a head model, or in one the captures bring with them."""

    head: str | None = Field(None, description="head model whose topology the files have")
    topology: TopologyName | None = Field(
        None,
        description="or the captures' own: <root>/topologies/<name>.ply (neutral mesh) and <name>.json (landmarks)",
    )
    kind: Literal["vertices", "parameters"] = Field(
        "vertices", description="what the files hold: meshes, or parameters that pose the head model (FLAME)"
    )
    pattern: str = Field(
        "registrations/{frame:06d}.ply", description="of the files; one of parameters may hold all frames"
    )
    unit: str | None = Field(
        None, description="unit of the files, where it is not the capture's; parameters are in m unless it is said"
    )
    spread: FramePattern | None = Field(
        None,
        description="of .npz files whose `spread_m` (V,) says how far each vertex may be off, in metres, as "
        "`datagen fit` writes them",
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.head is None) == (self.topology is None):
            raise ValueError("give `head` (a head model) or `topology` (one under topologies/), one of the two")
        if self.kind == "parameters" and self.head != "flame":
            raise ValueError('`kind: "parameters"` goes with `head: "flame"`')
        checked_pattern(self.pattern, camera=False, frame=self.kind == "vertices" or "{" in self.pattern)
        return self

    @property
    def name(self) -> str:
        """The head model's or the topology's name."""
        return str(self.head or self.topology)


class LandmarksEntry(Section):
    """Landmarks of each frame, in our files or in those of other programs."""

    pattern: str = Field(description="of the files; those in pictures name {camera} too")
    kind: Literal["3d", "2d"] = Field("3d", description="points of space, or of pictures, which are triangulated")
    order: str | list[int] | None = Field(
        None, description=f"of files that do not say it: one of {', '.join(ORDERS)}, or iBUG's number of each point"
    )
    unit: str | None = Field(None, description="of files that do not say it, where it is not the capture's")
    pixel_center: Annotated[float, Field(ge=0, le=1, multiple_of=0.5)] | None = Field(
        None, description="of points in pictures: the top-left pixel's centre, where it is not the capture's"
    )
    most_px: float | None = Field(
        None, gt=0, description="of points in pictures: how far from where a camera shows it a point may be found"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        checked_pattern(self.pattern, camera=self.kind == "2d")
        problem = None if self.order is None else order_problem(self.order_of_points or "")
        if problem is not None:
            raise ValueError(f"`order` is {problem}")
        return self

    @property
    def order_of_points(self) -> Order | None:
        """The order, hashable."""
        return tuple(self.order) if isinstance(self.order, list) else self.order


def _named_pattern(value: object) -> object:
    return {"pattern": value} if isinstance(value, str) else value


class VideoEntry(Section):
    """How the capture's frames are found in videos."""

    by: Literal["number", "time"] = Field(
        "number", description="frame numbers are the videos', or frames are found by the time at which they are shown"
    )
    first: int = Field(0, ge=0, le=MAX_FRAME, description="by number: the frame number of a video's first frame")
    start_s: Number = Field(
        0.0, description="by time: when a video's first frame is, on the clock of `times_s`, or of frame / `fps`"
    )


class CaptureFile(Section):
    """The content of ``capture.json``; unknown keys are errors."""

    format: Literal["canonface-capture"]
    version: Literal[1]
    unit: str = Field(description="unit of scans, and of registrations and camera translations that name no other")
    camera_unit: str | None = Field(None, description="unit of the cameras' translations, where it is another")
    fps: float | None = Field(None, gt=0, description="frames a second; times are counted from the first frame")
    times_s: list[float] | None = Field(
        None, description="or the time of each frame, in seconds of whatever clock the capture has, such as unix time"
    )
    epoch_s: float | None = Field(None, description="with fps: what that clock showed at the first frame")
    frames: list[int] = Field(min_length=1)
    pixel_center: PixelCentre = Field(description="0.5 (ours) or 0: integer pixel centres, K is shifted by 0.5")
    cameras: dict[Name, CameraEntry] = Field(min_length=1)
    scan: FramePattern = "scans/{frame:06d}.ply"
    surface: Literal["scan", "depth", "registration", "none"] = Field(
        "scan",
        description="what is warped: the files of `scan`, or, where there are none, what is fused from `depth`, "
        "or the registered meshes themselves; `none` of pictures that heads are to be fitted to",
    )
    depth: DepthEntry | None = Field(None, description="depth maps of the cameras, which samples may show")
    registration: RegistrationEntry | None = None
    landmarks: Annotated[LandmarksEntry | None, BeforeValidator(_named_pattern)] = Field(
        None, description="a pattern, or what else is to be said of the files"
    )
    images: PicturePattern | None = Field(None, description="one picture for each camera and frame, or one video each")
    masks: PicturePattern | None = None
    evidence: EvidencePattern | Annotated[list[EvidencePattern], Field(min_length=1)] | None = Field(
        None, description="files of template points seen in pictures: a pattern, or one for each program that saw them"
    )
    video: VideoEntry | None = Field(None, description="which frames of videos are meant; by number if left out")
    transfer: Transfer | None = Field(
        None, description="tone curve of images; with it pictures of 16 bits and EXR are read too"
    )
    orientation: Orientation | None = Field(
        None, description="of images with an EXIF turn: are K, size and masks those of the stored or the upright one"
    )
    shaded: bool | None = Field(
        None, description="whether the pictures are simulated shading of meshes that came without any"
    )
    licence: Text | None = Field(None, description="of these captures, as datasets made from them state it")
    citation: Text | None = Field(None, description="what those who use them are asked to cite")
    generator: dict[str, str] | None = Field(None, description="free notes of the program that wrote the sequence")

    @field_serializer("landmarks")
    def _short(self, landmarks: LandmarksEntry | None) -> Any:
        content = None if landmarks is None else landmarks.model_dump(mode="json", exclude_defaults=True)
        return content["pattern"] if content is not None and len(content) == 1 else content

    @model_validator(mode="after")
    def _has_surface(self) -> Self:
        if self.surface == "none" and self.evidence is None and self.images is None:
            raise ValueError("`surface` is 'none', but there are neither `images` nor `evidence` to fit a head to")
        if self.surface not in {"scan", "none"} and getattr(self, self.surface) is None:
            raise ValueError(f"`surface` is {self.surface!r}, but there is no `{self.surface}`")
        if self.surface != "scan" and "scan" in self.model_fields_set:
            raise ValueError(f"`scan` is given, but `surface` is {self.surface!r}; leave one of them out")
        return self

    @model_validator(mode="after")
    def _has_times(self) -> Self:
        if (self.fps is None) == (self.times_s is None):
            raise ValueError("give `fps`, or `times_s` (the time of each frame), one of the two")
        if self.times_s is not None and len(self.times_s) != len(self.frames):
            raise ValueError(f"`times_s` has {len(self.times_s)} times for {len(self.frames)} frames")
        if self.times_s is not None and self.epoch_s is not None:
            raise ValueError("`epoch_s` goes with `fps`; with `times_s` the first of them is the epoch")
        return self

    def recorded(self, name: str, *, straighten_later: bool = False) -> tuple[RecordedCamera, ...]:
        """Return the cameras in metres and with pixel centres at +0.5, validated, in the file's order.

        Parameters
        ----------
        name : str
            Of the file, for messages.
        straighten_later : bool
            See :func:`datagen.sources.camera_entry.recorded_camera`.

        Raises
        ------
        InputError
            If a camera is not valid, or the unit is none.
        """
        metres = metres_per(self.camera_unit or self.length_unit, name)
        return tuple(
            recorded_camera(
                camera,
                entry,
                self.frames,
                metres=metres,
                pixel_center=self.pixel_center,
                name=name,
                straighten_later=straighten_later,
            )
            for camera, entry in self.cameras.items()
        )

    @property
    def evidence_patterns(self) -> tuple[str, ...]:
        """The patterns of files of seen points; none if there are none."""
        return (self.evidence,) if isinstance(self.evidence, str) else tuple(self.evidence or ())

    @property
    def length_unit(self) -> str:
        """The unit that lengths are read in: that of an unknown one is one metre, until they are scaled."""
        return "m" if self.unit == UNKNOWN_UNIT else self.unit

    @property
    def epoch(self) -> float:
        """What the capture's clock showed at the first frame, in seconds; 0 if it is not said."""
        return self.times_s[0] if self.times_s is not None else self.epoch_s or 0.0

    def seconds(self, frame: int) -> float:
        """Return the time of a frame since the sequence's first: large counters would leave no digits for it."""
        if self.times_s is not None:
            return self.times_s[bisect_left(self.frames, frame)] - self.times_s[0]
        return (frame - self.frames[0]) / (self.fps or math.nan)

    def in_video(self, frame: int, path: Path) -> int:
        """Return the number of a frame in a video, counted from 0.

        Raises
        ------
        InputError
            If the video has none at that time.
        """
        video = self.video or VideoEntry()
        if video.by == "number":
            return frame - video.first
        fps = self.fps or math.nan
        time = frame / fps if self.times_s is None else self.times_s[bisect_left(self.frames, frame)]
        return frame_at(path, time - video.start_s)

    @property
    def shortest_step_s(self) -> float:
        """Shortest time between two neighbouring frames; 0 for a single one."""
        times = [self.seconds(frame) for frame in self.frames]
        return min((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def check_storable(self, name: str) -> None:
        """Refuse frame numbers and times that a dataset cannot hold, before anything is made of them.

        Raises
        ------
        InputError
            If a number is too large, or times do not increase, run into each other, or are beyond all numbers.
        """
        if self.frames[-1] > MAX_FRAME:
            raise InputError(
                f"{name} has the frame number {self.frames[-1]}",
                f"numbers from 0 to {MAX_FRAME}, which is what a dataset can hold",
                "Number the frames 0, 1, 2, ... (time stamps may be given as `times_s`)",
            )
        times = [self.seconds(frame) for frame in self.frames]
        for k, (earlier, later) in enumerate(pairwise(times), start=1):
            before, frame = self.frames[k - 1 : k + 1]
            if self.times_s is not None:
                if not (math.isfinite(later) and later > earlier):
                    raise InputError(
                        f"{name}: frame {frame} has the time {self.times_s[k]!r} s, "
                        f"and frame {before} before it {self.times_s[k - 1]!r} s",
                        "times in seconds that increase from frame to frame",
                        "Correct `times_s`",
                    )
            elif self.fps is not None:
                step = (frame - before) / self.fps
                if not (math.isfinite(later) and abs(later - earlier - step) <= TIME_TOLERANCE * step):
                    raise InputError(
                        f"{name}: frame {frame} comes {later:.6g} s after the first, where the times of "
                        f"neighbouring frames can no longer be told apart",
                        "times that float64 holds to a tenth of a frame",
                        "Cut the recording into several sequences, and check `fps`",
                    )


def read_capture_file(folder: Path) -> CaptureFile:
    """Read ``capture.json`` of a sequence folder.

    Raises
    ------
    InputError
        If it is missing, not JSON, still has "?" for a value, or is not valid: with the key, what was found and the
        nearest known key.
    """
    path = folder / CAPTURE_FILE
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no {CAPTURE_FILE}",
            f"a {CAPTURE_FILE} in every sequence folder",
            f"`datagen init {folder}` writes one from the files it finds. {_SEE}",
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a JSON file", _SEE) from None
    content = without_notes(content)
    places = open_places(content)
    if places:
        more = f" and {len(places) - _OPEN_SHOWN} more" if len(places) > _OPEN_SHOWN else ""
        raise InputError(
            f'{path} still has "{OPEN}" for {", ".join(places[:_OPEN_SHOWN])}{more}',
            "a value in place of each",
            f"The note beside each, a key that begins with {NOTE}, says what is known. {_SEE}",
        )
    return parsed_capture(content, str(path))


def parsed_capture(content: object, name: str) -> CaptureFile:
    """Return the capture that JSON data without notes declares; ``name`` says where they are from.

    Raises
    ------
    InputError
        If they are not valid.
    """
    capture = parse(CaptureFile, content, name, _SEE, "the keys of docs/capture-format.md", InputError)
    if sorted(set(capture.frames)) != capture.frames or capture.frames[0] < 0:
        raise InputError(
            f"{name}: `frames` is not an increasing list of numbers from 0 on", "each frame once, in order", _SEE
        )
    return capture


def without_notes(content: object) -> object:
    """Return JSON data without the notes in it: keys that begin with ``_`` and hold text, or a list of texts.

    Those that hold anything else stay: a camera may have such a name, and a mistyped key is an error.
    """
    if isinstance(content, list):
        return [without_notes(value) if isinstance(value, (dict, list)) else value for value in content]
    if isinstance(content, dict):
        return {key: without_notes(value) for key, value in content.items() if not _is_note(key, value)}
    return content


def _is_note(key: str, value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return key.startswith(NOTE) and bool(texts) and all(isinstance(text, str) for text in texts)


def open_places(content: object, place: str = "") -> list[str]:
    """Return the dotted keys of JSON data whose value is still ``"?"``."""
    if isinstance(content, dict):
        inner = [(f"{place}.{key}" if place else key, value) for key, value in content.items()]
        return [found for key, value in inner for found in open_places(value, key)]
    return [place] if content == OPEN else []


def capture_file_bytes(capture: CaptureFile) -> bytes:
    """Return the text of ``capture.json``: the same content always gives the same bytes."""
    content = capture.model_dump(mode="json", exclude_none=True)
    if capture.surface != "scan":
        content.pop("scan")
    return (json.dumps(content, indent=1) + "\n").encode()
