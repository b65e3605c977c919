"""The videos of a prediction: one of each modality, and the grand tour that shows them side by side."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.prediction.shown import NAMES, Ranges, Shown, panel
from trainer.prediction.video import VideoWriter

Pixels = npt.NDArray[np.uint8]
FILMS = (*NAMES, "tracks", "pointcloud", "grand_tour")
STILL_FRAMES = 48  # of a single image: the point cloud turns once there and back
_LONGEST = 384  # small maps are enlarged until a side has this many pixels
_TAIL = 12  # frames a track's tail goes back
_YAW_DEG, _TURN_FRAMES = 30.0, 96
_LABEL_ROWS = 20
_MOST_POINTS = 60_000
_VIEW_DISTANCE = 4.0  # radii of the cloud from its centre
_TOUR = (("image", "depth", "normal"), ("canonical", "tracks", "pointcloud"))


class Films:
    """Write ``videos/<name>.mp4``.

    Parameters
    ----------
    rate : float
        Frames per second.
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


@dataclass(frozen=True)
class Orbit:
    """A camera that turns about a cloud's centre.

    Attributes
    ----------
    centre : (3,) float64
    radius : float
        Of the cloud, in its unit.
    attitude : (3, 3) float64
        From the cloud's axes to those of the camera before it turns: x right, y down, z away.
    """

    centre: npt.NDArray[np.float64]
    radius: float
    attitude: npt.NDArray[np.float64]

    @classmethod
    def about(cls, points: npt.NDArray[np.floating], attitude: npt.NDArray[np.float64]) -> Orbit:
        """Return the orbit about points (N, 3); about a metre at the origin if there are none."""
        if not len(points):
            return cls(np.zeros(3), 1.0, attitude)
        centre = np.median(points, axis=0).astype(np.float64)
        away = np.linalg.norm(points - centre, axis=1)
        return cls(centre, max(float(np.percentile(away, 98)), 1e-6), attitude)

    def draw(
        self, points: npt.NDArray[np.floating], colours: npt.NDArray[np.uint8], yaw_deg: float, size: int
    ) -> npt.NDArray[np.uint8]:
        """Draw points (N, 3) with colours (N, 3), seen from ``yaw_deg`` to the side.

        Returns
        -------
        (size, size, 3) uint8 on white
        """
        picture = np.full((size, size, 3), 255, np.uint8)
        if not len(points):
            return picture
        step = -(-len(points) // _MOST_POINTS)
        c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
        turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        at = (points[::step] - self.centre) @ (turn @ self.attitude).T / self.radius
        z = at[:, 2] + _VIEW_DISTANCE
        focal = 0.46 * size * _VIEW_DISTANCE
        x, y = focal * at[:, 0] / z + size / 2, focal * at[:, 1] / z + size / 2
        # As wide as the points lie apart where they cover a disc of the cloud's radius.
        side = int(np.clip(np.ceil(1.8 * 0.46 * size / np.sqrt(len(at))), 1, 12))
        order = np.argsort(-z, kind="stable")
        left, top = np.floor(x - side / 2 + 0.5).astype(int)[order], np.floor(y - side / 2 + 0.5).astype(int)[order]
        shades = colours[::step][order]
        # Far to near: what is written last stays. One pass an offset would let far points cover near ones.
        offsets = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
        columns = (left[:, None] + offsets[:, 0]).ravel()
        rows = (top[:, None] + offsets[:, 1]).ravel()
        inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size) & (np.repeat(z[order], side**2) > 0.1)
        picture[rows[inside], columns[inside]] = np.repeat(shades, side**2, axis=0)[inside]
        return picture
