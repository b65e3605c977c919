"""The plan of a build as its folder decides it: with what earlier runs settled, and what was asked for some frames."""

from __future__ import annotations

from datagen.common.errors import InputError
from datagen.flows.choice import Choice, choose
from datagen.flows.history import read_history
from datagen.flows.own_settings import read_own, with_own
from datagen.flows.planning import BuildPlan, plan_build, plan_grown
from datagen.layout import BuildLayout
from datagen.manifest import Manifest

NO_CHOICE = Choice()


def plan_in(
    layout: BuildLayout, manifest: Manifest | None = None, choice: Choice = NO_CHOICE, *, afresh: bool = False
) -> BuildPlan:
    """Return the plan of a build.

    Parameters
    ----------
    layout : BuildLayout
    manifest : Manifest, optional
        By default the one that the build follows.
    choice : Choice
        Which frames are to be built.
    afresh : bool
        Whether nothing that was decided before counts.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If this is not a build folder, its captures can no longer be planned, or what is to be built cannot be chosen.
    """
    manifest = manifest or layout.read_manifest()
    if afresh:
        plan = plan_build(manifest)
    else:
        history = read_history(layout)
        if choice and history.steps:
            raise InputError(
                f"{layout.root} holds the dataset of all frames, or a part of it, which {choice} would replace",
                "a folder in which no shard of all frames is written yet",
                "Choose another --out",
            )
        plan = with_own(plan_grown(manifest, history), read_own(layout))
    return choose(plan, choice) if choice else plan
