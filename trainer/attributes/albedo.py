"""How the colour of skin differs among the training people, told from their pictures."""

from __future__ import annotations

import numpy as np
import torch

from datagen.shards import Dataset
from trainer.attributes.data import ARRAYS, HeadTruth, sample_colours
from trainer.attributes.face_model import FaceModel
from trainer.attributes.light import linear, relative_colour, shade
from trainer.data import decode

_SAMPLES, _TOGETHER = 600, 16
_FEWEST = 3  # people that differ
_RANGE = (0.2, 3.0)
_KNOWN = 1e-3


def learn_albedo(
    dataset: Dataset, face: FaceModel, truth: HeadTruth, components: int, size: int
) -> tuple[FaceModel, torch.Tensor]:
    """Learn the model of the skin's colour: the mean of the people, and their main components.

    Each picture's colours at visible vertices are taken over what a skin of one colour would show under the light that
    fits the picture best; a person's are the mean of their pictures.

    Returns
    -------
    face : FaceModel
        With albedo.
    known : (S, A)
        The components of each subject of the dataset's table; 0 for those who are not of the training split.
    """
    split, device = dataset["train"], face.template.device
    people, n = len(dataset.plan.subjects), len(face.vertices)
    total, weight = (torch.zeros(people, n, c, device=device) for c in (3, 1))
    chosen = np.unique(np.linspace(0, len(split) - 1, min(len(split), _SAMPLES)).round().astype(np.int64))
    for first in range(0, len(chosen), _TOGETHER):
        samples = chosen[first : first + _TOGETHER]
        stored = split.read(ARRAYS, samples, decode=False)
        batch = {k: decode(k, torch.from_numpy(v).to(device), dataset.depth_scale) for k, v in stored.items()}
        views, target = truth.crops(batch, samples, size)
        normals = face.normals(target.shape @ target.rotation.transpose(1, 2))
        colours = linear(sample_colours(views.images, target.positions))
        ratio = relative_colour(colours, shade(target.light, normals)).clamp(*_RANGE)
        # Grazing skin and blurred outlines say little.
        counted = (target.visible & target.lit[:, None] & (normals[..., 2] < 0)) * (-normals[..., 2]).clamp(min=0)
        whose = torch.from_numpy(split.index.subject[samples].astype(np.int64)).to(device)
        total.index_add_(0, whose, ratio * counted[..., None])
        weight.index_add_(0, whose, counted[..., None])
    mean = torch.where(
        weight.sum(0) > _KNOWN, total.sum(0) / weight.sum(0).clamp(min=_KNOWN), torch.ones(n, 3, device=device)
    )
    own = torch.where(weight > _KNOWN, total / weight.clamp(min=_KNOWN), mean) - mean
    there = torch.unique(torch.from_numpy(split.index.subject.astype(np.int64))).to(device)
    count = min(components, len(there) - 1) if len(there) >= _FEWEST else 0
    rows = own[there].flatten(1)
    centre = rows.mean(0)
    _, _, vt = torch.linalg.svd(rows - centre, full_matrices=False)
    basis = vt[:count]
    known = torch.zeros(people, count, device=device)
    known[there] = (rows - centre) @ basis.T
    std = known[there].std(0) if count else known.new_zeros(0)
    face = face.with_albedo(mean + centre.reshape(n, 3), basis.reshape(count, n, 3), std.clamp(min=1e-4))
    return face, known
