"""A model as a function from the frames of a window to their maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CheckpointError
from trainer.prediction.frames import SourceFrame
from trainer.prediction.windows import FrameMaps

if TYPE_CHECKING:
    import torch

    from trainer.model.joint import JointModel


class WindowModel:
    """Run a model on windows.

    Parameters
    ----------
    model : JointModel
    device : torch.device
    usual_intrinsics : (3, 3) float32
        For frames that come without.
    knows_surface : bool
        Whether the surface was ever learnt; published weights have none.
    """

    def __init__(
        self,
        model: JointModel,
        device: torch.device,
        usual_intrinsics: npt.NDArray[np.float32],
        *,
        knows_surface: bool = True,
    ) -> None:
        self._model = model
        self._device = device
        self._knows_surface = knows_surface
        self.usual_intrinsics = usual_intrinsics

    def __call__(self, frames: Sequence[SourceFrame]) -> list[FrameMaps]:
        """Predict the frames of one window together.

        Raises
        ------
        CheckpointError
            If the maps are not finite.
        """
        import torch

        from trainer.data import normalise_image

        images = normalise_image(np.stack([frame.image for frame in frames]))
        K = np.stack([self.usual_intrinsics if f.intrinsics is None else f.intrinsics for f in frames])
        with torch.inference_mode():
            p = self._model(torch.from_numpy(images)[None].to(self._device), torch.from_numpy(K)[None].to(self._device))

        def array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
            return tensor[0].float().cpu().numpy()

        depth, canonical = array(p.depth_m), array(p.canonical)
        of_depth, of_canonical = array(p.depth_confidence), array(p.canonical_confidence)
        maps = {"depth": depth, "canonical": canonical}
        maps |= {"depth confidence": of_depth, "canonical confidence": of_canonical}
        for name, values in maps.items():
            if not np.isfinite(values).all():
                raise CheckpointError(
                    f"the model's {name} is not finite at {frames[0].name}", "finite maps", "Take another checkpoint"
                )
        surface = array(p.surface_logit.sigmoid()) if self._knows_surface else None
        poses, own_K = self._cameras(p.camera, images.shape[-2:])
        return [
            FrameMaps(
                depth[k],
                canonical[k],
                of_depth[k],
                of_canonical[k],
                None if surface is None else surface[k],
                None if own_K is None else own_K[k],
                None if poses is None else poses[k],
            )
            for k in range(len(frames))
        ]

    def _cameras(
        self, encoded: torch.Tensor | None, size: tuple[int, ...]
    ) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]:
        """Return world to camera (S, 4, 4), metres, and intrinsics (S, 3, 3) of the camera head, if there is one."""
        if encoded is None:
            return None, None
        from trainer.model.camera import decode_camera

        camera_to_world, K = decode_camera(encoded[0].double().cpu(), (size[0], size[1]))
        poses = camera_to_world.numpy()
        poses[:, :3, 3] *= self._model.depth_unit.unit
        return np.linalg.inv(poses).astype(np.float32), K.numpy().astype(np.float32)
