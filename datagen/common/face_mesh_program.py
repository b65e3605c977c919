"""MediaPipe's face mesh as a program that reads pictures and writes the points that it finds.

Run by a Python that has mediapipe, which may be another than this project's: nothing else of the project is imported.
Standard input brings pictures: a line of JSON with ``width`` and ``height``, then the bytes of its RGB. Standard output
answers each by a line of JSON with the number of ``faces``, then their points as float32 (faces, 478, 3): pixels, the
top-left pixel's centre at 0.5, and a depth of the same unit. The first line of all tells that the program is ready.
"""

import json
import os
import sys
from importlib import import_module
from typing import Any

import numpy as np

MOST_FACES = 4
LEAST_CONFIDENCE = 0.3
POINTS = 478


def main() -> None:
    """Answer pictures until there are no more."""
    # What the package prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        package: Any = import_module("mediapipe")
        mesh = package.solutions.face_mesh.FaceMesh(
            static_image_mode=True,
            max_num_faces=MOST_FACES,
            refine_landmarks=True,
            min_detection_confidence=LEAST_CONFIDENCE,
        )
    except Exception as error:  # whatever goes wrong in there, the other side has to hear of it
        _tell(answers, {"error": f"{type(error).__name__}: {error}"})
        return
    _tell(answers, {"ready": str(package.__version__)})
    while line := sys.stdin.buffer.readline():
        size = json.loads(line)
        width, height = int(size["width"]), int(size["height"])
        data = sys.stdin.buffer.read(width * height * 3)
        picture = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        faces = mesh.process(picture).multi_face_landmarks or ()
        points = [[(p.x * width, p.y * height, p.z * width) for p in face.landmark] for face in faces]
        _tell(answers, {"faces": len(points)}, np.array(points, "<f4").reshape(-1, POINTS, 3).tobytes())


def _tell(answers: Any, content: dict[str, object], data: bytes = b"") -> None:
    answers.write(json.dumps(content).encode() + b"\n" + data)
    answers.flush()


if __name__ == "__main__":
    main()
