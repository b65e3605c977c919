"""The codec of compact datasets: exact, idempotent, the same compiled and in NumPy, and refusing what nobody wrote."""

from __future__ import annotations

import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs import BloscCodec, Crc32cCodec

from datagen.shards import ARRAYS, codec_kernels, codec_reference
from datagen.shards.chunks import ChunkError
from datagen.shards.codec import CODEC_NAME, ChunkCodec, decode_into, encode, encoded_bytes, quantise_image
from datagen.shards.zarr_codecs import ResidualCodec

DTYPES = {"image": np.uint8, "surface": np.uint16, "rows": np.int8}
# Widths below, at and above those of vector registers; rows that fill their last byte and that do not.
SIDES = st.tuples(st.sampled_from([1, 2, 3, 4, 5, 9]), st.sampled_from([1, 2, 3, 15, 16, 17, 33, 70]))
IMAGES = SIDES.flatmap(lambda side: hnp.arrays(np.uint8, (3, *side), elements=st.integers(0, 255)))
EXTREMES = np.tile(np.array([0, 255, 255, 0, 1, 254], np.uint8), 36).reshape(3, 9, 8)


def surfaces(maps: int) -> st.SearchStrategy[np.ndarray]:
    values = st.one_of(st.integers(0, 65535), st.sampled_from([0, 1, 63, 64, 65, 65471, 65535]))
    return SIDES.flatmap(lambda side: hnp.arrays(np.uint16, (maps, *side), elements=values))


@settings(max_examples=60, deadline=None)
@example(EXTREMES, 0)
@example(EXTREMES, 1)
@example(EXTREMES, 2)
@given(IMAGES, st.integers(0, 2))
def test_images_stay_within_their_error_and_are_stored_as_they_come_back(image: np.ndarray, error: int) -> None:
    data = encode(image, "image", error)
    back = np.empty_like(image)
    decode_into(data, "image", back)
    assert len(data) == encoded_bytes("image", image.shape, 1)
    assert np.abs(back.astype(int) - image).max() <= error
    assert np.array_equal(back, quantise_image(image, error))
    # What came back is written as the very same bytes: merging, or writing again, moves nothing further.
    assert np.array_equal(encode(back, "image", error), data)


@settings(max_examples=40, deadline=None)
@given(IMAGES, st.integers(0, 2))
def test_compiled_images_are_those_in_numpy(image: np.ndarray, error: int) -> None:
    data = [np.empty(encoded_bytes("image", image.shape, 1) - 1, np.uint8) for _ in range(2)]
    values = [np.empty_like(image) for _ in range(4)]
    for k, kernels in enumerate((codec_kernels, codec_reference)):
        kernels.encode_image(image, error, data[k], values[k])
    assert np.array_equal(*data)
    assert np.array_equal(*values[:2])
    # Any bytes at all, as damage may leave them.
    noise = np.random.default_rng(image.size).integers(0, 256, len(data[0])).astype(np.uint8)
    codec_kernels.decode_image(noise, error, values[2])
    codec_reference.decode_image(noise, error, values[3])
    assert np.array_equal(*values[2:])


@settings(max_examples=60, deadline=None)
@given(surfaces(2))
def test_surfaces_and_rows_come_back_and_are_the_same_in_numpy(values: np.ndarray) -> None:
    for name, given_values in (("surface", values), ("rows", values.view(np.uint8)[..., ::2].copy())):
        data = [np.empty_like(given_values) for _ in range(2)]
        back = [np.empty_like(given_values) for _ in range(2)]
        for k, kernels in enumerate((codec_kernels, codec_reference)):
            getattr(kernels, f"encode_{name}")(given_values, data[k])
            getattr(kernels, f"decode_{name}")(data[k], back[k])
            assert np.array_equal(back[k], given_values)
        assert np.array_equal(*data)


def test_what_is_smooth_leaves_little() -> None:
    row, column = np.mgrid[0:40, 0:50]
    plane = (30000 + 21 * row - 3 * column).astype(np.uint16)
    assert not encode(plane, "surface").reshape(40, 50)[2:].any()
    grey = np.repeat((2 * row)[None].astype(np.uint8), 3, axis=0)
    # Green says what red and blue do: of these nothing is left.
    steps = encode(grey, "image", 0)[:-1]
    assert np.count_nonzero(steps) < grey.size / 8


@pytest.mark.parametrize("error", [1, 2])
def test_of_noisy_images_every_error_is_as_frequent_as_any_other(error: int) -> None:
    smooth = np.broadcast_to(np.linspace(40, 200, 200)[:, None], (3, 200, 200))
    image = np.rint(smooth + np.random.default_rng(4).normal(0, 1.5 * error, smooth.shape)).astype(np.uint8)
    off = quantise_image(image, error).astype(int) - image
    shares = [np.mean(off == k) for k in range(-error, error + 1)]
    assert abs(off.mean()) < 0.02
    assert np.abs(off.mean(axis=(0, 2))).max() < 0.25
    np.testing.assert_allclose(shares, 1 / (2 * error + 1), atol=0.02)


@pytest.mark.parametrize("name", [name for name, spec in ARRAYS.items() if "H" in spec.shape])
@pytest.mark.parametrize("codecs", ["compact", "standard"])
def test_chunks_of_every_array_come_back(name: str, codecs: str) -> None:
    spec = ARRAYS[name]
    codec = ChunkCodec.of(spec, codecs, 0)
    info = np.iinfo(spec.dtype)
    values = np.random.default_rng(1).integers(info.min, info.max + 1, spec.sample_shape(29)).astype(spec.dtype)
    chunk = codec.compress(values)
    assert codec.compress(values[...]) == chunk
    read_only = np.frombuffer(values.tobytes(), spec.dtype).reshape(values.shape)
    assert codec.compress(read_only) == chunk
    out = [np.empty_like(values) for _ in range(4)]
    threads = [threading.Thread(target=codec.decompress_into, args=(memoryview(chunk), part)) for part in out]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(part, values) for part in out)


def test_bytes_that_nobody_wrote_are_refused() -> None:
    codec = ChunkCodec.of(ARRAYS["image"], "compact", 1)
    image = np.zeros((3, 8, 8), np.uint8)
    data = encode(image, "image", 1)
    data[-1] = 7
    with pytest.raises(ChunkError, match="within 7 of 255"):
        decode_into(data, "image", image)
    chunk = codec.compress(image)
    for words, wrong, out in (
        ("bytes decoded", chunk, np.zeros((3, 8, 9), np.uint8)),
        ("not a Blosc frame", b"", image),
        ("a frame of", chunk + b"\0", image),
    ):
        with pytest.raises(ChunkError, match=words):
            codec.decompress_into(memoryview(wrong), out)


def test_without_numba_the_same_bytes_are_written_and_read(tmp_path: Path) -> None:
    image = np.random.default_rng(2).integers(0, 256, (3, 21, 18)).astype(np.uint8)
    np.save(tmp_path / "image.npy", image)
    code = f"""
import sys
sys.modules["numba"] = None
import numpy as np
from datagen.shards.codec import decode_into, encode, kernels
image = np.load("{tmp_path}/image.npy")
data, back = encode(image, "image", 1), np.empty_like(image)
decode_into(data, "image", back)
assert kernels().__name__.endswith("codec_reference") and abs(back.astype(int) - image).max() == 1
np.save("{tmp_path}/data.npy", data)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert np.array_equal(np.load(tmp_path / "data.npy"), encode(image, "image", 1))


@pytest.mark.parametrize("predictor", DTYPES)
def test_zarr_writes_and_reads_with_the_codec(predictor: str) -> None:
    dtype = np.dtype(DTYPES[predictor])
    info = np.iinfo(dtype)
    values = np.random.default_rng(3).integers(info.min, info.max + 1, (4, 3, 11, 13)).astype(dtype)
    array = zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=values.shape,
        dtype=dtype,
        chunks=(2, 3, 11, 13),
        shards=(4, 3, 11, 13),
        serializer=ResidualCodec(predictor),
        compressors=[BloscCodec(cname="zstd"), Crc32cCodec()],
    )
    array[:] = values
    assert np.array_equal(array[:], values)
    assert np.array_equal(array[3, 1], values[3, 1])
    named = array.metadata.to_dict()["codecs"][0]["configuration"]["codecs"][0]
    assert named == {"name": CODEC_NAME, "configuration": {"predictor": predictor, "error": 0}}


def test_zarr_is_told_what_cannot_be() -> None:
    for words, make in {
        "predictor 'paeth'": lambda: ResidualCodec("paeth"),
        "error 3": lambda: ResidualCodec("image", 3),
        "error 1": lambda: ResidualCodec("rows", 1),
    }.items():
        with pytest.raises(ValueError, match=words):
            make()
    for predictor, dtype, shape in (("surface", "uint8", (1, 3, 8, 8)), ("image", "uint8", (1, 2, 8, 8))):
        with pytest.raises(ValueError, match=f"predictor {predictor} for"):
            zarr.create_array(
                zarr.storage.MemoryStore(), shape=shape, chunks=shape, dtype=dtype, serializer=ResidualCodec(predictor)
            )


def test_an_installed_package_is_found_by_zarr() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["zarr.codecs"][CODEC_NAME].partition(":")
    assert getattr(sys.modules[module], name) is ResidualCodec
