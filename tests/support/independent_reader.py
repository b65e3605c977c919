"""A second reader, written from docs/dataset-format.md alone: it imports nothing of ``datagen``."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Blosc

SCALED = {"canonical": (2 / 16382, -1.0), "normal": (1 / 127, 0.0), "confidence": (1 / 255, 0.0)}
NO_CHUNK = 2**64 - 1


class IndependentReader:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.attrs = json.loads((root / "zarr.json").read_text())["attributes"]
        assert (self.attrs["format"], self.attrs["format_version"]) == ("canonface", 1)
        others = {key: value for key, value in self.attrs.items() if key != "attributes_digest"}
        text = json.dumps(others, sort_keys=True, indent=1, allow_nan=False)
        assert hashlib.sha256(text.encode()).hexdigest() == self.attrs["attributes_digest"]

    def value(self, split: str, array: str, sample: int) -> Any:
        """Return one sample of an array: metres and unit ranges, or the name behind an index."""
        meta = json.loads((self.root / split / array / "zarr.json").read_text())
        dtype = np.dtype(meta["data_type"]).newbyteorder("<")
        shape = meta["shape"][1:]
        per_shard = self.attrs["samples_per_shard"]
        shard, position = divmod(sample, per_shard)
        data = (self.root / split / array / ("c." + ".".join(map(str, [shard] + [0] * len(shape))))).read_bytes()
        if meta["codecs"][0]["name"] == "sharding_indexed":
            index = self._checked(data[-(16 * per_shard + 4) :])
            offset, length = struct.unpack_from("<QQ", index, 16 * position)
            assert offset != NO_CHUNK, "never written"
            chunk = Blosc().decode(self._checked(data[offset : offset + length]))
            values = np.frombuffer(chunk, dtype).reshape(shape)
        else:
            values = np.frombuffer(self._checked(data), dtype).reshape(per_shard, *shape)[position]
        if meta["attributes"].get("rows") == "difference from the row above":
            values = np.cumsum(values, axis=-2, dtype=values.dtype)
        if array == "depth":
            return values * self.attrs["depth_scale"]
        if array in SCALED:
            return values * SCALED[array][0] + SCALED[array][1]
        tables = {"subject": "subjects", "sequence": "sequences", "camera": "cameras"}
        return self.attrs[tables[array]][int(values)] if array in tables else values

    @staticmethod
    def _checked(data: bytes) -> bytes:
        assert google_crc32c.value(data[:-4]) == int.from_bytes(data[-4:], "little"), "checksum"
        return data[:-4]
