"""A few samples of a dataset as a page that can be sent to somebody: pictures and what they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datagen.audit.browsing import KINDS, Browsing, encoded
from datagen.common.files import atomic_write_bytes, staged_folder
from datagen.common.pages import render_page
from datagen.common.scales import CONFIDENCE, DEPTH, scale_stops

PAGE = "index.html"


def export_page(browsing: Browsing, out: Path, samples: int) -> Path:
    """Write ``index.html`` and the pictures of evenly spread samples; an earlier export there is replaced.

    Raises
    ------
    StorageError
        If the folder holds something that is not ours, or the disk refuses.
    """
    dataset = browsing.dataset
    # Whole instants, so that cameras can be compared.
    every = [(split, [int(i) for i in view]) for split in dataset for view in dataset[split].views()]
    instants = max(samples // max(len(dataset.plan.cameras), 1), 1)
    spread = np.linspace(0, len(every) - 1, min(instants, len(every)))
    places = [int(place) for place in np.unique(spread.round())] if every else []
    chosen = [(split, i) for split, view in (every[place] for place in places) for i in view][:samples]
    sequences: dict[str, Any] = {}
    history: dict[str, Any] = {}
    with staged_folder(out, replace=True) as folder:
        for split, i in chosen:
            subject, sequence, frame, camera = browsing.name(split, i).split("/")
            info = sequences.setdefault(f"{subject}/{sequence}", {"split": split, "frames": {}})
            number = dataset.plan.cameras.index(camera)
            info["frames"].setdefault(int(frame), {})[str(number)] = i
            history[f"{split}-{i}"] = browsing.history(split, i)
            for kind in KINDS:
                picture = encoded(browsing.picture(split, i, kind))
                atomic_write_bytes(folder / "pictures" / f"{split}-{i}-{kind}.png", picture)
        for info in sequences.values():
            info["frames"] = [{"frame": str(f), "samples": at} for f, at in sorted(info["frames"].items())]
        contents = browsing.contents()
        # Where it lies on this machine is nobody else's business.
        contents |= {"url": "a few samples of a dataset", "marks": [], "commands": {}}
        contents["sequences"] = [
            one for one in contents["sequences"] if f"{one['subject']}/{one['sequence']}" in sequences
        ]
        contents["scales"] = {"confidence": scale_stops(CONFIDENCE), "depth": scale_stops(DEPTH)}
        contents["static"] = {"sequences": sequences, "history": history}
        atomic_write_bytes(folder / PAGE, render_page("datagen.audit", "templates", "browse.html", page=contents))
    return out / PAGE
