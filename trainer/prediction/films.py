"""The videos of a prediction: one of each modality, and the grand tour that shows them side by side."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.prediction.ply import Orbit
from trainer.prediction.shown import NAMES, Ranges, Shown, panel
from trainer.prediction.video import VideoWriter

Pixels = npt.NDArray[np.uint8]
FILMS = (*NAMES, "tracks", "pointcloud", "grand_tour")
STILL_FRAMES = 48  # of a single image: the point cloud turns once there and back
_LONGEST = 384  # small maps are enlarged until a side has this many pixels
_TAIL = 12  # frames a track's tail goes back
_YAW_DEG, _TURN_FRAMES = 30.0, 96
_LABEL_ROWS = 20
_TOUR = (("image", "depth", "normal"), ("canonical", "tracks", "pointcloud"))


class Films:
    """Write ``videos/<name>.mp4``.

    Parameters
    ----------
    folder : Path
    rate : float
        Frames per second.
    ranges : Ranges
    box : tuple of slice
        What of the square maps is shown, in every frame.
    still : bool
        There is one frame only: it stays for two seconds while the point cloud turns.
    track_colours : (N, 3) uint8 or None
        None leaves the tracks out.
    """

    def __init__(
        self,
        folder: Path,
        rate: float,
        ranges: Ranges,
        box: tuple[slice, slice],
        still: bool,
        track_colours: Pixels | None,
    ) -> None:
        folder.mkdir(parents=True)
        names = [name for name in FILMS if name != "tracks" or track_colours is not None]
        self._ranges, self._box, self._still, self._colours = ranges, box, still, track_colours
        self._open = ExitStack()
        self._writers = {name: self._open.enter_context(VideoWriter(folder / f"{name}.mp4", rate)) for name in names}
        longest = max(box[0].stop - box[0].start, box[1].stop - box[1].start)
        self._factor = max(round(_LONGEST / longest), 1)
        self._tail: list[npt.NDArray[np.float32]] = []
        self._orbit: Orbit | None = None

    def add(self, shown: Shown) -> None:
        """Append a frame."""
        pictures = {name: self._enlarged(panel(shown.frame, name, self._ranges)) for name in NAMES}
        if self._colours is not None:
            pictures["tracks"] = self._with_tracks(pictures["image"], shown)
        for turn in range(STILL_FRAMES if self._still else 1):
            step = shown.number + turn
            period = STILL_FRAMES if self._still else _TURN_FRAMES
            yaw = _YAW_DEG * float(np.sin(2 * np.pi * step / period))
            pictures["pointcloud"] = self._cloud(shown, yaw, pictures["image"].shape[:2])
            pictures["grand_tour"] = _side_by_side(pictures)
            for name, writer in self._writers.items():
                writer.add(pictures[name])

    def close(self) -> None:
        """Finish the files."""
        self._open.close()

    def abandon(self) -> None:
        """Close the files without finishing them."""
        for writer in self._writers.values():
            writer.close(finish=False)

    def _enlarged(self, pixels: Pixels) -> Pixels:
        cut = pixels[self._box]
        return np.ascontiguousarray(cut.repeat(self._factor, 0).repeat(self._factor, 1))

    def _with_tracks(self, image: Pixels, shown: Shown) -> Pixels:
        from PIL import Image, ImageDraw

        assert self._colours is not None
        corner = np.array([self._box[1].start, self._box[0].start])
        if shown.tracks is not None:
            seen = np.where(shown.tracks.visible[:, None], shown.tracks.xy, np.nan)
            self._tail = [*self._tail[-_TAIL:], (seen - corner) * self._factor]
        canvas = Image.fromarray((image * 0.6 + 100 * 0.4).astype(np.uint8))
        pen = ImageDraw.Draw(canvas)
        for k, colour in enumerate(map(tuple, self._colours.tolist())):
            path: list[tuple[float, float]] = []
            for row in self._tail:  # a tail does not bridge frames in which its point was lost
                path = [*path, (float(row[k, 0]), float(row[k, 1]))] if np.isfinite(row[k]).all() else []
            if len(path) > 1:
                pen.line(path, fill=colour, width=2)
            if self._tail and np.isfinite(self._tail[-1][k]).all():
                x, y = self._tail[-1][k]
                pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline=(0, 0, 0))
        return np.asarray(canvas)

    def _cloud(self, shown: Shown, yaw_deg: float, size: tuple[int, int]) -> Pixels:
        valid = shown.frame.valid & (shown.frame.normal != 0).any(0)
        points, colours = shown.points[:, valid].T, shown.frame.image[:, valid].T
        orbit = self._orbit or Orbit.about(points, shown.camera_to_world[:3, :3].T)
        if len(points):
            self._orbit = orbit
        side = max(size)
        drawn = orbit.draw(points, colours, yaw_deg, side)
        top, left = (side - size[0]) // 2, (side - size[1]) // 2
        return np.ascontiguousarray(drawn[top : top + size[0], left : left + size[1]])


def _side_by_side(pictures: dict[str, Pixels]) -> Pixels:
    from PIL import Image, ImageDraw

    height, width = pictures["image"].shape[:2]
    rows = len(_TOUR)
    canvas = Image.new("RGB", (3 * width, rows * (height + _LABEL_ROWS)), (19, 19, 22))
    pen = ImageDraw.Draw(canvas)
    for r, names in enumerate(_TOUR):
        for c, name in enumerate(names):
            shown = name if name in pictures else "canonical_confidence"
            top = r * (height + _LABEL_ROWS)
            canvas.paste(Image.fromarray(pictures[shown]), (c * width, top + _LABEL_ROWS))
            pen.text((c * width + 6, top + 4), shown.replace("_", " "), fill=(225, 225, 230))
    return np.asarray(canvas)
