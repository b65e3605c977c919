"""One rule for pictures: what a file says about itself is used, or the file is refused by name."""

from __future__ import annotations

import errno
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from datagen.common.errors import InputError, StorageError
from datagen.common.pictures import BACKDROP, picture_size, read_mask, read_picture
from tests.support.turned import TURNS

ASK = "Say which"


def _upright(height: int = 20, width: int = 28) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _save(path: Path, image: Image.Image, **how: Any) -> Path:
    image.save(path, **how)
    return path


@pytest.mark.parametrize("tag", sorted(TURNS))
def test_a_turn_is_applied_left_or_asked_about(tag: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = Image.fromarray(_upright()).transpose(TURNS[tag])
    path = _save(tmp_path / "a.png", stored, exif=exif)
    assert np.array_equal(read_picture(path, orientation="upright", ask=ASK).pixels, _upright())
    assert picture_size(path, orientation="upright", ask=ASK) == (28, 20)
    assert np.array_equal(read_picture(path, orientation="stored", ask=ASK).pixels, np.asarray(stored))
    assert picture_size(path, orientation="stored", ask=ASK) == stored.size
    for read in (read_picture, picture_size, read_mask):
        with pytest.raises(InputError, match=rf"EXIF orientation {tag}.*Say which"):
            read(path, orientation=None, ask=ASK)


def test_a_turn_that_a_png_tells_behind_its_pixels_is_found(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = _save(tmp_path / "a.png", Image.fromarray(_upright()), exif=exif)
    data = path.read_bytes()
    at, end = data.index(b"eXIf") - 4, data.index(b"IEND") - 4
    after = at + 12 + int.from_bytes(data[at : at + 4], "big")
    assert data.index(b"IDAT") > at
    path.write_bytes(data[:at] + data[after:end] + data[at:after] + data[end:])
    with pytest.raises(InputError, match="EXIF orientation 6"):
        picture_size(path, orientation=None, ask=ASK)
    assert read_picture(path, orientation="upright", ask=ASK).size == (20, 28)


def test_a_picture_without_a_turn_is_never_asked_about(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.png", Image.fromarray(_upright()))
    for orientation in (None, "stored", "upright"):
        assert np.array_equal(read_picture(path, orientation=orientation, ask=ASK).pixels, _upright())


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["RGBA", "LA", "P"]), st.integers(0, 2**32 - 1))
def test_what_is_hidden_under_transparency_never_shows(mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    alpha = rng.choice(np.array([0, 255], np.uint8), (9, 11))
    alpha[0, 0] = 255
    shown: Image.Image
    if mode == "P":
        shown = Image.fromarray(rng.integers(0, 7, (9, 11), np.uint8)).convert("P")
        shown.putpalette(rng.integers(0, 256, 768, np.uint8).tolist())
        hidden = 3
        alpha = np.where(np.asarray(shown) == hidden, 0, 255).astype(np.uint8)
        how: dict[str, Any] = {"transparency": hidden}
        if not alpha.any():
            return
    else:
        bands = rng.integers(0, 256, (9, 11, 4 if mode == "RGBA" else 2), np.uint8)
        bands[..., -1] = alpha
        shown, how = Image.fromarray(bands, mode), {}
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", **how)
    read = _from_bytes(buffer.getvalue())
    assert (read[alpha == 0] == BACKDROP).all()
    assert np.array_equal(read[alpha == 255], np.asarray(shown.convert("RGBA"))[..., :3][alpha == 255])


def _from_bytes(data: bytes) -> np.ndarray[Any, Any]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(data)
        return np.array(read_picture(path, orientation=None, ask=ASK).pixels)


def _deep_rgb_png(path: Path) -> Path:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + np.full((4, 3), 4095, ">u2").tobytes() for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def test_what_would_be_a_guess_is_refused(tmp_path: Path) -> None:
    grey = np.full((8, 8), 4095, np.uint16)
    frame, other = Image.new("L", (8, 8)), Image.new("L", (8, 8), 9)
    pictures = {
        "more than 8 bits": [
            _save(tmp_path / "deep.png", Image.fromarray(grey)),
            _save(tmp_path / "deep.tif", Image.fromarray(grey)),
            _save(tmp_path / "float.tif", Image.fromarray(np.ones((8, 8), np.float32))),
            _deep_rgb_png(tmp_path / "deep_rgb.png"),
        ],
        "colours CMYK": [_save(tmp_path / "print.jpg", Image.new("CMYK", (8, 8)))],
        "holds 2 pictures": [_save(tmp_path / "film.gif", frame, save_all=True, append_images=[other])],
        "every pixel": [_save(tmp_path / "clear.png", Image.new("RGBA", (8, 8)))],
        "gamma 1": [tmp_path / "linear.png"],
        "cannot be read": [tmp_path / "missing.png", tmp_path / "text.png", tmp_path / "cut.png", tmp_path],
    }
    from PIL.PngImagePlugin import PngInfo

    told = PngInfo()
    told.add(b"gAMA", (100000).to_bytes(4, "big"))
    Image.fromarray(_upright()).save(tmp_path / "linear.png", pnginfo=told)
    (tmp_path / "text.png").write_text("no picture")
    whole = _save(tmp_path / "whole.png", Image.fromarray(_upright())).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for words, paths in pictures.items():
        for path in paths:
            with pytest.raises(InputError, match=words) as raised:
                read_picture(path, orientation="upright", ask=ASK)
            assert str(path) in str(raised.value)


def test_a_colour_profile_is_applied_and_that_of_srgb_changes_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = _save(tmp_path / "a.png", Image.fromarray(_upright()), icc_profile=srgb)
    assert np.array_equal(read_picture(path, orientation=None, ask=ASK).pixels, _upright())
    # The same profile with the red and the green primary exchanged: pure red must come out as green.
    tags = bytearray(srgb)
    red, green = tags.find(b"rXYZ"), tags.find(b"gXYZ")
    tags[red : red + 4], tags[green : green + 4] = b"gXYZ", b"rXYZ"
    solid = np.zeros((4, 4, 3), np.uint8)
    solid[..., 0] = 255
    path = _save(tmp_path / "b.png", Image.fromarray(solid), icc_profile=bytes(tags))
    assert np.abs(read_picture(path, orientation=None, ask=ASK).pixels.astype(int) - [0, 255, 0]).max() <= 3
    path = _save(tmp_path / "c.png", Image.fromarray(solid), icc_profile=b"no profile")
    with pytest.raises(InputError, match="colour profile"):
        read_picture(path, orientation=None, ask=ASK)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_pictures_are_refused_or_read(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"]))
    Image.fromarray(_upright()).save(buffer, kind)
    bytes_ = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
    with suppress(InputError):
        assert _from_bytes(bytes(bytes_[: data.draw(st.integers(1, len(bytes_)))])).ndim == 3


def test_masks_are_white_on_black_or_refused(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:7] = True
    white = np.where(mask, 255, 0).astype(np.uint8)
    soft = white.copy()
    soft[1, 3:7] = 100
    for name, image in {"grey": white, "soft": soft, "rgb": np.stack([white] * 3, -1), "black": white * 0}.items():
        path = _save(tmp_path / f"{name}.png", Image.fromarray(image))
        assert np.array_equal(read_mask(path, orientation=None, ask=ASK), mask & (name != "black"))
    assert np.array_equal(
        read_mask(_save(tmp_path / "bits.png", Image.fromarray(mask)), orientation=None, ask=ASK), mask
    )
    palette = Image.fromarray(mask.astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0] + [0] * 750)
    refused = {
        "brightest value .* is 1": Image.fromarray(mask.astype(np.uint8)),
        "has colours": palette,
        "transparent": Image.fromarray(np.dstack([np.zeros((8, 8, 3), np.uint8), white])),
        "more than 8 bits": Image.fromarray(white.astype(np.uint16) * 257),
    }
    for words, picture in refused.items():
        with pytest.raises(InputError, match=words):
            read_mask(_save(tmp_path / "refused.png", picture), orientation=None, ask=ASK)


def test_a_machine_that_refuses_is_not_a_bad_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path / "a.png", Image.fromarray(_upright()))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(StorageError, match="Too many open files"):
        read_picture(path, orientation=None, ask=ASK)
