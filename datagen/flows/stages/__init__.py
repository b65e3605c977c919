"""The stages of a build, in their order."""

from __future__ import annotations

from typing import Any

from datagen.flows.stage import Stage
from datagen.flows.stages.bridge import BridgeStage
from datagen.flows.stages.faces import FacesStage
from datagen.flows.stages.finish import ReportStage, VerifyStage
from datagen.flows.stages.fit import FitStage
from datagen.flows.stages.person import PersonStage
from datagen.flows.stages.render import RenderStage
from datagen.flows.stages.simulate import SimulateStage
from datagen.flows.stages.warp import WarpStage

STAGES: tuple[Stage[Any, Any], ...] = (
    SimulateStage(),
    BridgeStage(),
    FitStage(),
    PersonStage(),
    WarpStage(),
    RenderStage(),
    FacesStage(),
    VerifyStage(),
    ReportStage(),
)
