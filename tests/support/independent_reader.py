"""A second reader, written from docs/dataset-format.md with zarr-python alone: ``independent_reader.py IN OUT``."""

import sys

import numpy as np
import zarr
from zarr.abc.codec import ArrayBytesCodec


class Residuals(ArrayBytesCodec):
    @classmethod
    def from_dict(cls, data):
        return type("Residuals", (cls,), data["configuration"])()

    async def _decode_single(self, chunk, spec):
        data, dtype = chunk.as_numpy_array().view(np.uint8).ravel(), spec.dtype.to_native_dtype()
        values = getattr(self, self.predictor)(data, spec.shape).astype(f"u{dtype.itemsize}")
        return spec.prototype.nd_buffer.from_numpy_array(values.view(dtype).reshape(spec.shape))

    def rows(self, data, shape):
        return data.reshape(shape).cumsum(-2, np.uint8)

    def surface(self, data, shape):
        z, v = data.view("<u2").reshape(shape).astype(np.int64), np.zeros(shape, np.int64)
        for y in range(shape[-2]):
            slope = np.clip(v[..., y - 1, :] - v[..., max(y - 2, 0), :], -64, 64) * (y > 0)
            both = slope[..., [0, *range(shape[-1] - 1)]] + slope[..., [*range(1, shape[-1]), -1]]
            steps = z[..., y, :] >> 1 ^ -(z[..., y, :] & 1)
            v[..., y, :] = (v[..., y - 1, :] + (slope + both + 1) // 3 + steps) % 65536
        return v

    def image(self, data, shape):
        (h, w), e, z, at = shape[-2:], int(data[-1]), np.zeros((3 * shape[-2], shape[-1]), np.int64), 0
        for begin, bits in ((0, 2), (2, 2), (4, 4)):
            for y in range(3 * h):
                z[y] |= (data[at + y * bits // 8 * w :][:w] >> y * bits % 8 & 2**bits - 1).astype(np.int64) << begin
            at += -(-3 * h * bits // 8) * w
        steps, v = (z >> 1 ^ -(z & 1)).reshape(3, h, w) * (2 * e + 1), np.zeros((3, h, w), np.int64)
        for y in range(h):
            above = v[:, y - 1] if y else np.full((3, w), 128)
            p = (above[:, [0, *range(w - 1)]] + 2 * above + above[:, [*range(1, w), -1]] + 2) >> 2
            for c in (1, 0, 2):
                expected = p[c] if c == 1 else np.clip(p[c] + v[1, y] - p[1], 0, 255)
                v[c, y] = np.clip(expected + steps[c, y], 0, 255) if e else (expected + steps[c, y]) % 256
        return v


zarr.registry.register_codec("canonface.residuals", Residuals)
zarr.config.set({"codecs": {"canonface.residuals": "__main__.Residuals"}})
group, found = zarr.open_group(sys.argv[1], mode="r"), {}
q = {"canonical": 1 / 8191, "normal": 1 / 127, "confidence": 1 / 255, "spread": 6.25e-5, "depth": 0}
for path, array in group.members(max_depth=None):
    place, _, name = path.rpartition("/")
    if isinstance(array, zarr.Array):
        found[path] = array[...] if place == "template" else array[...][group[f"{place}/valid"][...] == 1]
        if name in q or array.dtype == "int16":  # vertices of frames; the template's are metres
            found[path] = found[path] * (q.get(name, 1e-5) or group.attrs["depth_scale"]) - (name == "canonical")
        if name in ("subject", "sequence", "camera"):
            found[path] = np.asarray(group.attrs[f"{name}s"])[found[path]]
np.savez(sys.argv[2], **found)
