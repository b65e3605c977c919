"""An avatar adapted to a clip of another camera, without labels (Yoon et al., 2019).

The texture of a face hardly changes from one frame to the next. Unwrapped from two near frames through the meshes that
the network tells, it must agree; where it does not, one of the meshes lies wrong. So the network learns of the new
camera from its pictures alone: neither light nor background is modelled. And the texture must be that which the state
stands for, but for one 3 × 3 matrix from the studio's colours to the camera's.

Both are also content with a face that never moves and hides on a plain wall. Three things keep from it: a batch of
the studio, whose meshes are known, in each step; weights that are held near to where they began; and a look at the
studio error now and then: where it rises, the last weights that were well are taken again at half the rate.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch

from datagen.common.errors import InputError
from datagen.common.progress import Progress
from trainer.align.crops import ENLARGED
from trainer.avatar.clip import Clip
from trainer.avatar.colour import corrected, fit_colour
from trainer.avatar.config import AdaptConfig, AvatarConfig
from trainer.avatar.data import Studio
from trainer.avatar.loss import picture_terms
from trainer.avatar.network import Avatar, Driven
from trainer.avatar.skin import Skin
from trainer.avatar.unwrap import Unwrapped, coarse, coarse_texture, fine_detail, unwrap

_TOGETHER = 32
_COLOUR_FRAMES = 64
_LAST_RATE, _WARMUP = 0.05, 20
_RETURNS = 4
_FINE = 0.5  # share of the steps after which pictures are seen as they are
# Colours are compared over the clip's own brightness, and their distances grow linearly: highlights move.
_EPS = 1e-6


@dataclass(frozen=True)
class Adapted:
    """What came of an adaptation.

    Attributes
    ----------
    model : Avatar
        Adapted; in evaluation mode.
    colour : (3, 3)
        From the studio's colours to the clip's, linear light.
    studio_mm : tuple of float
        Mean distance of studio vertices, before the camera, at each look; the first is from before.
    kept_mm : float
        That of the weights which were kept.
    returns : int
        How often the studio error led back to the last weights that were well.
    stopped : int or None
        The step at which it ended for that; None if it went all the way.
    terms : dict
        Mean of each term over the last steps.
    """

    model: Avatar
    colour: torch.Tensor
    studio_mm: tuple[float, ...]
    kept_mm: float
    returns: int
    stopped: int | None
    terms: dict[str, float]


def adapt(avatar: Avatar, skin: Skin, clip: Clip, studio: Studio, learnt: AvatarConfig, config: AdaptConfig) -> Adapted:
    """Adapt an avatar to a clip; the one that is given stays as it is.

    Parameters
    ----------
    studio : Studio
        Pictures that it was learnt from.
    learnt : AvatarConfig
        How it was learnt: crops and terms of the studio batch are as then.

    Raises
    ------
    InputError
        If the clip is too short, no face is seen in it, or the loss is not finite.
    """
    if len(clip) < 2:
        raise InputError(
            f"the clip has {len(clip)} frames", "two at least: textures of frames are compared", "Add some"
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    run = Adaptation(avatar, skin, clip, studio, learnt, config)
    with Progress("adapt", config.steps, "steps") as progress:
        return run.all_steps(progress)


class Adaptation:
    """The network being adapted; the appearance model stays."""

    def __init__(
        self, avatar: Avatar, skin: Skin, clip: Clip, studio: Studio, learnt: AvatarConfig, config: AdaptConfig
    ) -> None:
        self.model = copy.deepcopy(avatar).train()
        _freeze(self.model.appearance)
        self.skin, self.clip, self.studio, self.learnt, self.config = skin, clip, studio, learnt, config
        self.moving = list(self.model.image.parameters())
        self.began = [p.detach().clone() for p in self.moving]
        self.optimiser = torch.optim.Adam(self.moving, lr=config.learning_rate)
        self.draws = np.random.default_rng([config.seed, 1])
        self.checked = studio.spread(config.check_pictures)
        self.colour = self.fitted_colour()
        self.pixels = config.coarsest

    def all_steps(self, progress: Progress) -> Adapted:
        """Take the steps, looking at the studio now and then."""
        config = self.config
        errors = [self.studio_error()]
        kept, kept_mm, returns, stopped = self._weights(), errors[0], 0, None
        recent: list[dict[str, float]] = []
        for step in range(config.steps):
            share = (1 + math.cos(math.pi * step / config.steps)) / 2 * min((step + 1) / _WARMUP, 1)
            rate = config.learning_rate * 0.5**returns
            for group in self.optimiser.param_groups:
                group["lr"] = rate * (_LAST_RATE + (1 - _LAST_RATE) * share)
            self.pixels = pixels_of(step / config.steps, config.coarsest)
            terms = self.step()
            recent = [*recent, terms][-config.check_every :]
            if (step + 1) % config.check_every == 0 or step + 1 == config.steps:
                errors.append(self.studio_error())
                # Not a number is no better.
                if errors[-1] <= config.studio_rise * errors[0]:
                    kept, kept_mm = self._weights(), errors[-1]
                else:
                    self.model.image.load_state_dict(kept)
                    self.optimiser = torch.optim.Adam(self.moving, lr=rate / 2)
                    returns += 1
                self.colour = self.fitted_colour()
                if returns == _RETURNS:
                    stopped = step + 1
                    progress.say(
                        f"ended at step {stopped}: the studio error rose from {errors[0]:.2f} to {errors[-1]:.2f} mm, "
                        "again at half the rate, and half of that; the weights are the last with which it had not"
                    )
                    break
            progress.update(step + 1, f"studio {errors[-1]:.2f} mm")
        means = {name: float(np.mean([terms[name] for terms in recent])) for name in recent[-1]}
        return Adapted(self.model.eval(), self.colour, tuple(errors), kept_mm, returns, stopped, means)

    def _weights(self) -> dict[str, torch.Tensor]:
        return copy.deepcopy(self.model.image.state_dict())

    def step(self) -> dict[str, float]:
        """Take one step; return its terms."""
        config = self.config
        self.optimiser.zero_grad(set_to_none=True)
        terms = self.clip_terms()
        if config.studio:
            terms |= self.studio_terms()
        if config.anchor:
            moved = [(now - then).square().sum() for now, then in zip(self.moving, self.began, strict=True)]
            terms["anchor"] = config.anchor * torch.stack(moved).sum()
        total = torch.stack(list(terms.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.moving, 1.0)
        if not bool(torch.isfinite(norm)):
            raise InputError(
                "the loss of the adaptation is not finite", "finite numbers", "Lower learning_rate, or check the clip"
            )
        self.optimiser.step()
        return {name: float(value.detach()) for name, value in terms.items()}

    def clip_terms(self) -> dict[str, torch.Tensor]:
        """Compare the textures of pairs of near frames, and with what their states stand for."""
        config, T = self.config, len(self.clip)
        if not (config.consistency or config.appearance or config.detail):
            return {}
        gap = self.draws.integers(1, min(config.gap, T - 1) + 1, config.pairs)
        first = (self.draws.random(config.pairs) * (T - gap)).astype(np.int64)
        frames = torch.from_numpy(np.concatenate([first, first + gap])).to(self.clip.crops.device)
        views = self.clip.views(frames)
        told = self.model(views)
        driven = self.model.driven(told, views)
        pixels = self.pixels
        texture = unwrap(coarse(views, pixels), driven.in_camera, self.skin)
        level = self.clip_level
        terms = {}
        if config.consistency:
            n = config.pairs
            distance = (texture.colours[:n] - texture.colours[n:]).abs().mean(-1) / level
            terms["consistency"] = config.consistency * _mean(distance, texture.weights[:n] * texture.weights[n:])
        texels = pixels * ENLARGED * self.skin.size / self.model.image_size
        # Meshes are to move, not states until they explain a lamp.
        stands_for = self.model.appearance.colours(told.state.detach(), driven.view.detach())
        expected = coarse_texture(stands_for, self.skin, texels)
        expected = corrected(expected, self.colour)
        if config.appearance:
            distance = (texture.colours - expected).abs().mean(-1) / level
            terms["appearance"] = config.appearance * _mean(distance, texture.weights)
        if config.detail:
            one, other = (fine_detail(c, texture.weights, self.skin, level) for c in (texture.colours, expected))
            terms["detail"] = config.detail * _mean((one - other).abs().mean(-1), texture.weights)
        return terms

    def studio_terms(self) -> dict[str, torch.Tensor]:
        """Ask of studio pictures what they were learnt with."""
        count, learnt = self.config.studio_pictures, self.learnt
        samples = self.draws.integers(0, len(self.studio.split), count).astype(np.int64)
        seeds = self.draws.integers(0, 2**62, count).tolist()
        size = self.model.image_size
        views, truth = self.studio.crops(self.studio.batch(samples), samples, size, learnt.augment, seeds)
        found = picture_terms(self.model, self.model(views), views, truth, learnt.loss)
        return {f"studio_{name}": self.config.studio * value for name, value in found.items()}

    @torch.no_grad()
    def studio_error(self) -> float:
        """Return the mean distance of vertices before the camera on studio pictures, millimetres."""
        self.model.eval()
        total = []
        for first in range(0, len(self.checked), _TOGETHER):
            samples = self.checked[first : first + _TOGETHER]
            views, truth = self.studio.crops(self.studio.batch(samples), samples, self.model.image_size)
            driven = self.model.driven(self.model(views), views)
            total.append((driven.in_camera - truth.driven.in_camera).norm(dim=-1).mean(1))
        self.model.train()
        return 1000 * float(torch.cat(total).mean())

    @torch.no_grad()
    def fitted_colour(self) -> torch.Tensor:
        """Return the matrix from what states stand for to what the clip shows."""
        texture, expected = self.textures()
        seen = texture.weights
        if float(seen.sum()) <= 0:
            raise InputError("no face is seen in the clip", "pictures of the person", "Check --box and the pictures")
        self.clip_level = (texture.colours.mean(-1) * seen).sum() / seen.sum()
        if float(self.clip_level) < _EPS:
            raise InputError("the clip is black where the face should be", "pictures of the person", "Check them")
        return fit_colour(expected, texture.colours, seen)

    @torch.no_grad()
    def textures(self) -> tuple[Unwrapped, torch.Tensor]:
        """Return textures of frames that are spread over the clip, and what their states stand for (B, P, 3)."""
        T = len(self.clip)
        chosen = np.unique(np.linspace(0, T - 1, min(T, _COLOUR_FRAMES)).round().astype(np.int64))
        self.model.eval()
        parts = []
        for first in range(0, len(chosen), _TOGETHER):
            views = self.clip.views(torch.from_numpy(chosen[first : first + _TOGETHER]).to(self.clip.crops.device))
            told = self.model(views)
            driven = self.model.driven(told, views)
            texture = unwrap(views, driven.in_camera, self.skin)
            parts.append((texture.colours, texture.weights, self.model.appearance.colours(told.state, driven.view)))
        self.model.train()
        colours, weights, expected = (torch.cat(values) for values in zip(*parts, strict=True))
        return Unwrapped(colours, weights), expected


@torch.no_grad()
def drive(avatar: Avatar, clip: Clip) -> tuple[torch.Tensor, Driven]:
    """Return the states (T, Z) of a clip's frames, and the faces that they stand for."""
    states, parts = [], []
    for first in range(0, len(clip), _TOGETHER):
        views = clip.views(slice(first, first + _TOGETHER))
        told = avatar(views)
        states.append(told.state)
        parts.append(avatar.driven(told, views))
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in Driven.__dataclass_fields__}
    return torch.cat(states), Driven(**joined)


def pixels_of(share: float, coarsest: int) -> int:
    """Return how many pixels are averaged after a share of the steps: halved at even times, 1 from half of them on."""
    halvings = max(coarsest, 1).bit_length() - 1
    return max(coarsest >> int(2 * share * (halvings + 1e-9)), 1) if share < _FINE else 1


def _freeze(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = False


def _mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=_EPS)
