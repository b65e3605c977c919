"""Pictures of a sequence beside a person's appearance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from datagen.common.arrays import F64
from datagen.common.errors import InputError
from datagen.evidence.texels import Texels, Unwrapped, face_texels, unwrap_picture
from datagen.evidence.texture import Appearance, seen_in_texture
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadTemplate
from datagen.render.contract import Renderer
from datagen.sources.frame import Frame

# Half a millimetre a texel on a face: pictures of 500 px show no more, and sharper ones need none.
TEXTURE_SIZE = 512


@dataclass(frozen=True, eq=False)
class TextureLook:
    """Looks at pictures through a template registered to their frame."""

    template: HeadTemplate
    texels: Texels
    renderer: Renderer

    @classmethod
    def of(cls, template: HeadTemplate, renderer: Renderer) -> TextureLook:
        """Prepare a template."""
        return cls(template, face_texels(template, TEXTURE_SIZE, renderer), renderer)

    def pictures(self, frame: Frame, vertices: F64) -> Iterator[tuple[str, Unwrapped]]:
        """Unwrap a frame's pictures, camera by camera; those that cannot be read say nothing.

        Parameters
        ----------
        vertices : (V, 3) float64
            The template registered to the frame, world metres.
        """
        cameras = [camera for camera in frame.cameras if camera.name in frame.images]
        drawn = self.renderer.rasterise(vertices, self.template.faces, cameras) if cameras else []
        for camera, shown in zip(cameras, drawn, strict=True):
            try:
                mask = frame.masks[camera.name]() if camera.name in frame.masks else None
                picture = frame.images[camera.name]()
            except InputError:
                continue
            yield camera.name, unwrap_picture(self.texels, self.template, vertices, camera, picture, shown, mask)

    def evidence(self, frame: Frame, vertices: F64, appearance: Appearance) -> list[PixelEvidence]:
        """Return what a frame's pictures say beside the person's appearance."""
        cameras = {camera.name: camera for camera in frame.cameras}
        found = []
        for name, picture in self.pictures(frame, vertices):
            camera = cameras[name]
            size = (camera.width, camera.height)
            points = seen_in_texture(appearance, self.texels, name, picture, size, self.template.digest)
            if len(points):
                found.append(PixelEvidence(points, camera))
        return found
