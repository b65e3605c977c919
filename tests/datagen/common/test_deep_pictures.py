"""Pictures of 16 bits and EXR are read once their tone curve is told, and refused by name until then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from datagen.common.deep_pictures import TRANSFERS, in_srgb
from datagen.common.errors import DependencyError, InputError
from datagen.common.pictures import picture_size, read_picture
from tests.support.deep_files import chunk, exr, png16

pytest.importorskip("av")

RNG = np.random.default_rng(0)
LIGHT = RNG.uniform(0, 1, (20, 28, 3))


def _srgb(light: np.ndarray) -> np.ndarray:
    """Return the curve of IEC 61966-2-1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


# Values of a tone curve, by the light that they stand for.
CURVES = {
    "srgb": _srgb,
    "linear": lambda light: light,
    "gamma2.2": lambda light: light ** (1 / 2.2),
    "rec709": lambda light: np.where(light < 0.018, 4.5 * light, 1.099 * light**0.45 - 0.099),
}


def _read(path: Path, transfer: str | None) -> np.ndarray:
    return read_picture(path, orientation=None, ask="say", transfer=transfer).pixels  # type: ignore[arg-type]


@pytest.mark.parametrize("transfer", CURVES)
def test_every_curve_leads_to_the_same_srgb(tmp_path: Path, transfer: str) -> None:
    expected = 255 * _srgb(LIGHT)
    values = CURVES[transfer](LIGHT)
    (tmp_path / "a.png").write_bytes(png16(np.rint(65535 * values).astype(np.uint16)))
    (tmp_path / "b.exr").write_bytes(exr(values.astype(np.float32)))
    (tmp_path / "c.exr").write_bytes(exr(values.astype(np.float16)))
    for name in ("a.png", "b.exr", "c.exr"):
        path = tmp_path / name
        assert picture_size(path, orientation=None, ask="say") == (28, 20)
        # Half a step of rounding, and what 16 bits leave out in the dark; half floats keep eleven bits.
        assert np.abs(_read(path, transfer) - expected).max() <= (0.7 if name == "c.exr" else 0.53)
        with pytest.raises(InputError, match=r"not told.*\"transfer\": \"srgb\""):
            _read(path, None)
    assert set(CURVES) == set(TRANSFERS)


def test_grey_and_bright_values(tmp_path: Path) -> None:
    grey = np.rint(65535 * LIGHT[..., 0]).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png16(grey))
    found = _read(tmp_path / "a.png", "srgb")
    np.testing.assert_array_equal(found, np.repeat(np.rint(255 * (grey[..., None] / 65535)), 3, axis=2))
    (tmp_path / "b.exr").write_bytes(exr((3 * LIGHT - 1).astype(np.float32)))
    np.testing.assert_array_equal(
        _read(tmp_path / "b.exr", "linear"), in_srgb((3 * LIGHT - 1).astype(np.float32), "linear")
    )
    assert in_srgb(np.array([[[-1.0, 0.5, 7.0]]], np.float32), "srgb").tolist() == [[[0, 128, 255]]]


def test_a_picture_of_8_bits_has_the_curve_too(tmp_path: Path) -> None:
    stored = np.rint(255 * LIGHT).astype(np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png")
    np.testing.assert_array_equal(_read(tmp_path / "a.png", "srgb"), stored)
    np.testing.assert_array_equal(_read(tmp_path / "a.png", "linear"), np.rint(255 * _srgb(stored / 255)))


@pytest.mark.parametrize("bad", ["alpha", "alpha of exr", "nan", "cut", "profile", "no exr"])
def test_what_cannot_be_used_is_refused(tmp_path: Path, bad: str) -> None:
    deep = np.rint(65535 * np.dstack([LIGHT, LIGHT[..., :1]])).astype(np.uint16)
    floats = np.dstack([LIGHT, LIGHT[..., :1]]).astype(np.float32)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    name, data, message = {
        "alpha": ("a.png", png16(deep), "transparent pixels"),
        "alpha of exr": ("a.exr", exr(floats), "transparent pixels"),
        "nan": ("a.exr", exr(np.where(floats[..., :3] > 0.5, np.nan, floats[..., :3])), "no numbers"),
        "cut": ("a.exr", exr(floats[..., :3])[:150], "cannot be read"),
        "profile": ("a.png", png16(deep[..., :3], _profile(profile)), "colour profile"),
        "no exr": ("a.exr", b"no picture at all", "cannot be read"),
    }[bad]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        _read(tmp_path / name, "linear")


def _profile(profile: bytes) -> bytes:
    import zlib

    return chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))


def test_without_pyav_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.exr").write_bytes(exr(LIGHT.astype(np.float32)))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DependencyError, match="convert the pictures to 8 bits"):
        _read(tmp_path / "a.exr", "linear")


def test_avif_of_8_bits_is_read_and_of_other_colours_refused(tmp_path: Path) -> None:
    smooth = np.rint(255 * np.linspace(0, 1, 20 * 28 * 3).reshape(20, 28, 3)).astype(np.uint8)
    path = tmp_path / "a.avif"
    Image.fromarray(smooth).save(path, quality=95, subsampling="4:4:4")
    assert picture_size(path, orientation=None, ask="say") == (28, 20)
    assert np.abs(_read(path, None).astype(int) - smooth).mean() < 3
    data = bytearray(path.read_bytes())
    at = data.index(b"colrnclx") + 8
    data[at + 3] = 16  # PQ
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"other than sRGB's \(H.273: 1, 16\)"):
        _read(path, None)


def test_avif_of_10_bits_is_refused(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.avif"
    with av.open(str(path), "w", format="avif") as container:
        stream = container.add_stream("libsvtav1", rate=1, options={"svtav1-params": "avif=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="more than 8 bits a channel"):
        _read(path, None)
