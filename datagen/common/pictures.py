"""Reading a picture: one rule for turns, transparency, colours and depth of values, for captures and predictions.

A picture is read as 8-bit sRGB or refused. What a file says about itself is used (a colour profile, transparency,
a turn) or, where using it would be a guess, named: more than 8 bits a channel or another tone curve that nobody has
told, several pictures in one file, a turn beside masks or cameras that may or may not share it.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.deep_pictures import DEEP_ONLY, Transfer, deep_size, in_srgb, read_deep
from datagen.common.errors import DependencyError, InputError, StorageError

if TYPE_CHECKING:
    from PIL import Image

Orientation = Literal["stored", "upright"]
BACKDROP = (124, 116, 104)  # the mean of ImageNet, zero to the network: what lies behind transparent pixels
MASK_THRESHOLD = 128
_ORIENTATION = 0x0112
_TURNS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored and turned by 90 degrees",
    6: "turned by 90 degrees",
    7: "mirrored and turned by 90 degrees",
    8: "turned by 90 degrees",
}
_SWAPPED = frozenset({5, 6, 7, 8})
_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_COLOURS = frozenset({"1", "L", "P", "RGB", "RGBX", *_ALPHA})
_SRGB_GAMMA = 1 / 2.2
_GAMMA_TOLERANCE = 0.02
_TELL = (
    'Convert it with the program that developed it; in a capture, say its tone curve: "transfer": "srgb", '
    '"linear", "rec709" or "gamma2.2" in capture.json'
)
HEIC_SUFFIXES = (".heic", ".heif")
_AVIF_HEAD = 1 << 16
# By their number in H.273: BT.709 or not said; BT.709, not said, BT.601, sRGB, BT.2020 of 10 and 12 bits.
_SCREEN_PRIMARIES = frozenset({1, 2})
_SCREEN_CURVES = frozenset({1, 2, 6, 13, 14, 15})
_SAME = 2  # of 255: what a colour engine rounds
# A second picture of the kinds phones append (a preview, a gain map) is not another frame.
_MAIN_FIRST = frozenset({"MPO"})
_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT})


@dataclass(frozen=True)
class Picture:
    """A picture in memory.

    Attributes
    ----------
    image : Image
        Mode RGB, sRGB values; may be smaller than the file's picture where that was allowed.
    size : tuple of int
        Width and height of the file's picture, as oriented.
    """

    image: Image.Image
    size: tuple[int, int]

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The values, (height, width, 3) uint8."""
        return np.asarray(self.image, np.uint8)


def picture_size(path: Path, *, orientation: Orientation | None, ask: str) -> tuple[int, int]:
    """Return width and height of a picture from its header; raises as :func:`read_picture`, but for the pixels."""
    if path.suffix.lower() in DEEP_ONLY:
        return deep_size(path)
    with _opened(path, "picture") as opened:
        return _oriented_size(opened, _turn(opened, path, orientation, ask))


def read_picture(
    path: Path,
    *,
    orientation: Orientation | None,
    ask: str,
    at_least: int | None = None,
    transfer: Transfer | None = None,
) -> Picture:
    """Read a picture file as sRGB of 8 bits.

    Transparent pixels show :data:`BACKDROP`, never the colour hidden under them. A colour profile is applied.

    Parameters
    ----------
    path : Path
    orientation : ``"stored"``, ``"upright"`` or None
        Whether the pixels are taken as the file stores them, or turned as its EXIF tag says. None refuses a picture
        with a turn: what describes its pixels elsewhere (a mask, a camera) may mean the one or the other.
    ask : str
        How the reader of the message answers that question, such as "pass --orientation".
    at_least : int, optional
        Pixels a side that suffice: a larger JPEG is decoded at a fraction of its size.
    transfer : str, optional
        Tone curve of the values, as somebody has told it: then pictures of 16 bits and EXR are read too.

    Raises
    ------
    InputError
        If the file is missing, broken, not one picture, turned, wholly transparent, or of another colour space; if it
        is deeper than 8 bits, or of another tone curve, and nobody told which.
    StorageError
        If the disk or the machine refuses.
    DependencyError
        If a package is missing that such a file needs.
    """
    if path.suffix.lower() in DEEP_ONLY:
        if transfer is None:
            raise InputError(f"{path} is an EXR, whose tone curve is not told", "8 bits a channel, sRGB", _TELL)
        return _picture(read_deep(path, transfer), 1)
    with _opened(path, "picture") as opened:
        deep = _is_deep(opened)
        _refuse_what_is_not_srgb(opened, path, told=transfer is not None)
        turn = _turn(opened, path, orientation, ask)
        size = _oriented_size(opened, turn)
        if transfer is not None and deep:
            if opened.info.get("icc_profile"):
                raise InputError(
                    f"{path} has more than 8 bits a channel and a colour profile",
                    "one of the two",
                    "Convert it to sRGB",
                )
            return _picture(read_deep(path, transfer), turn)
        if at_least is not None:
            opened.draft("RGB", (2 * at_least, 2 * at_least))
        opened.load()
        image = _in_srgb(_on_backdrop(opened, path), opened.info.get("icc_profile"), path)
        if transfer not in {None, "srgb"} and not opened.info.get("icc_profile"):
            return _picture(in_srgb(np.asarray(image, np.float32) / np.float32(255), transfer or "srgb"), turn)
        return Picture(_turned(image, turn), size)


def _picture(pixels: npt.NDArray[np.uint8], turn: int) -> Picture:
    from PIL import Image

    image = _turned(Image.fromarray(pixels), turn)
    return Picture(image, image.size)


def read_mask(path: Path, *, orientation: Orientation | None, ask: str) -> npt.NDArray[np.bool_]:
    """Read a foreground mask: true where the grey value is 128 or more.

    Parameters
    ----------
    path, orientation, ask
        As of :func:`read_picture`.

    Returns
    -------
    (height, width) bool; all false for a mask that is all black

    Raises
    ------
    InputError
        As :func:`read_picture`; also if the mask has colours or transparency, or if it is not black but nowhere
        bright, as masks of 0 and 1 and pictures of labels are.
    """
    white = "white (255) on black (0), one channel of 8 bits"
    with _opened(path, "mask") as opened:
        _refuse_what_is_not_srgb(opened, path, "mask")
        turn = _turn(opened, path, orientation, ask)
        opened.load()
        rgba = np.asarray(_turned(opened.convert("RGBA"), turn))
    if (rgba[..., 3] < 255).any():
        raise InputError(f"mask {path} has transparent pixels", white, "Save its alpha channel as a grey picture")
    grey = rgba[..., 0]
    if (rgba[..., :3] != grey[..., None]).any():
        raise InputError(f"mask {path} has colours", white, "Save foreground white and everything else black")
    largest = int(grey.max(initial=0))
    if 0 < largest < MASK_THRESHOLD:
        raise InputError(f"the brightest value of mask {path} is {largest}", white, "Scale its values to 0 and 255")
    return np.asarray(grey >= MASK_THRESHOLD)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Any]:
    """Open a file as a picture; every failure of a decoder, here and in the block, names the file."""
    from PIL import Image

    if path.suffix.lower() in HEIC_SUFFIXES:
        _learn_heic()
    try:
        with open(path, "rb") as file, Image.open(file) as opened:
            yield opened
    except (InputError, StorageError, DependencyError):
        raise
    except MemoryError:
        raise InputError(f"{kind} {path} does not fit into memory", "a smaller picture", "Scale it down") from None
    except Exception as error:  # decoders raise many kinds on broken bytes
        number = error.errno if isinstance(error, OSError) else None
        if number in _MACHINE:
            raise StorageError(f"reading {path} failed: {error}", "a disk that answers", "Run it again") from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if "cannot identify" in reason:
            reason = "it is not of a kind that is read here"
        raise InputError(
            f"{kind} {path} cannot be read ({reason or type(error).__name__})",
            "a complete PNG, JPEG, TIFF, BMP, WebP or AVIF",
            "Copy, convert or export it again",
        ) from None


def _learn_heic() -> None:
    """Let Pillow read HEIC."""
    try:
        import pi_heif
    except ImportError:
        raise DependencyError(
            "HEIC pictures need pi-heif, which is not installed",
            "the extra `heic`",
            "Install it with `pip install 'canonface[heic]'`, or convert the pictures to PNG or JPEG",
        ) from None
    pi_heif.register_heif_opener()


def _turn(opened: Image.Image, path: Path, orientation: Orientation | None, ask: str) -> int:
    """Return the EXIF orientation to apply, 1 for none."""
    if opened.format == "HEIF" and opened.info.get("original_orientation") not in {None, 1}:
        if orientation == "upright":
            return 1
        raise InputError(
            f"{path} may have been turned when it was decoded, as every reader of HEIC does",
            "pictures as the camera stored them, or a word that cameras and masks are of the upright ones",
            ask if orientation is None else "Convert the pictures to PNG as your calibration read them",
        )
    tag = _exif(opened).get(_ORIENTATION, 1)
    if tag not in _TURNS or orientation == "stored":
        return 1
    if orientation is None:
        raise InputError(
            f"{path} is stored {_TURNS[tag]} (EXIF orientation {tag}), and masks and cameras may be of the stored "
            "or of the upright picture",
            "pictures without a turn, or a word which of the two is meant",
            ask,
        )
    return int(tag)


def _exif(opened: Image.Image) -> Any:
    from PIL import Image
    from PIL.PngImagePlugin import PngImageFile

    # For a PNG Pillow decodes every pixel to see what comes after them, which is nearly always nothing.
    if isinstance(opened, PngImageFile) and not _says_more_after_pixels(opened.fp):
        return Image.Image.getexif(opened)
    return opened.getexif()


def _says_more_after_pixels(file: Any) -> bool:
    """Whether a PNG has text or EXIF behind its pixels."""
    place, pixels = file.tell(), False
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            pixels = pixels or kind == b"IDAT"
            if pixels and kind in {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}:
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def _oriented_size(opened: Image.Image, turn: int) -> tuple[int, int]:
    width, height = opened.size
    return (height, width) if turn in _SWAPPED else (width, height)


def _turned(image: Image.Image, turn: int) -> Image.Image:
    from PIL.Image import Transpose

    how = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(how[turn]) if turn in how else image


def _is_deep(opened: Any) -> bool:
    return opened.mode.startswith(("I", "F")) or any(deep in _raw_mode(opened) for deep in ("16", "12", "32"))


def _refuse_what_is_not_srgb(opened: Any, path: Path, kind: str = "picture", *, told: bool = False) -> None:
    if getattr(opened, "n_frames", 1) > 1 and opened.format not in _MAIN_FIRST:
        raise InputError(f"{path} holds {opened.n_frames} pictures", "one in each file", "Export the frames one by one")
    if _is_deep(opened):
        if told:
            return
        raise InputError(
            f"{kind} {path} has more than 8 bits a channel, whose black, white and tone curve are not told",
            "8 bits a channel, sRGB",
            _TELL if kind == "picture" else "Convert it with the program that developed it",
        )
    _refuse_other_code_points(opened, path, kind)
    if opened.mode not in _COLOURS and not (opened.mode in {"CMYK", "LAB"} and opened.info.get("icc_profile")):
        raise InputError(
            f"{kind} {path} has the colours {opened.mode}", "grey or RGB", "Convert it to sRGB, 8 bits a channel"
        )
    gamma = opened.info.get("gamma")
    # Either overrides the gamma of a PNG, as does whoever tells the curve.
    told = told or "srgb" in opened.info or "icc_profile" in opened.info
    if gamma is not None and not told and abs(gamma - _SRGB_GAMMA) > _GAMMA_TOLERANCE:
        raise InputError(
            f"{kind} {path} is stored with the gamma {gamma:g}", f"{_SRGB_GAMMA:.5f}, as of sRGB", "Convert it to sRGB"
        )


def _refuse_other_code_points(opened: Any, path: Path, kind: str) -> None:
    """Refuse an AVIF or HEIC of more than 8 bits or other colours, which are read as 8 bits in silence."""
    if opened.format == "HEIF":
        if opened.info.get("bit_depth", 8) > 8:
            raise InputError(f"{kind} {path} has more than 8 bits a channel", "8 bits a channel, sRGB", "Convert it")
        profile = opened.info.get("nclx_profile") or {}
        _refuse_other_colours(path, kind, profile.get("color_primaries", 2), profile.get("transfer_characteristics", 2))
    if opened.format != "AVIF" or opened.fp is None:
        return
    place = opened.fp.tell()
    opened.fp.seek(0)
    head = opened.fp.read(_AVIF_HEAD)
    opened.fp.seek(place)
    config = head.find(b"av1C")
    if config >= 0 and len(head) > config + 6 and head[config + 6] & 0x40:
        raise InputError(f"{kind} {path} has more than 8 bits a channel", "8 bits a channel, sRGB", "Convert it")
    colours = head.find(b"colrnclx")
    if colours >= 0:
        primaries, curve = (int.from_bytes(head[colours + k : colours + k + 2], "big") for k in (8, 10))
        _refuse_other_colours(path, kind, primaries, curve)


def _refuse_other_colours(path: Path, kind: str, primaries: int, curve: int) -> None:
    if primaries not in _SCREEN_PRIMARIES or curve not in _SCREEN_CURVES:
        raise InputError(
            f"{kind} {path} has colours or brightness other than sRGB's (H.273: {primaries}, {curve})",
            "8 bits a channel, sRGB",
            "Convert it to sRGB",
        )


def _raw_mode(opened: Any) -> str:
    """Return how a file packs its values, such as "RGB;16B": Pillow keeps only the upper half of those, in silence."""
    if opened.format == "BMP":  # "BGR;16" are 5 or 6 bits a channel there
        return ""
    modes = [part for tile in getattr(opened, "tile", ()) for part in _texts(tile[3])]
    bits = getattr(opened, "tag_v2", {}).get(258, ())  # BitsPerSample of a TIFF
    return " ".join([*modes, *(str(bit) for bit in np.ravel(bits))])


def _texts(arguments: Any) -> list[str]:
    parts = arguments if isinstance(arguments, (tuple, list)) else (arguments,)
    return [part for part in parts if isinstance(part, str)]


def _on_backdrop(opened: Image.Image, path: Path) -> Image.Image:
    from PIL import Image

    if opened.mode not in _ALPHA and "transparency" not in opened.info:
        return opened.convert("RGB") if opened.mode in {"1", "L", "P", "RGBX"} else opened
    picture = opened.convert("RGBA")
    if picture.getchannel("A").getextrema() == (0, 0):
        raise InputError(f"every pixel of {path} is transparent", "a picture", "Save it without its alpha channel")
    return Image.alpha_composite(Image.new("RGBA", picture.size, (*BACKDROP, 255)), picture).convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None, path: Path) -> Image.Image:
    if not profile:
        return image
    from PIL import ImageCms

    try:
        given, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        mode = {"GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}.get(given.profile.xcolor_space.strip(), "RGB")
        transform = ImageCms.buildTransform(given, srgb, mode, "RGB")
        # Values of a profile that is sRGB under another name stay exactly as they are.
        probe = _probe() if mode == "RGB" else None
        if probe is not None and np.abs(_signed(transform.apply(probe)) - _signed(probe)).max() <= _SAME:
            return image.convert("RGB")
        return transform.apply(image if image.mode == mode else image.convert(mode))
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise InputError(
            f"the colour profile of {path} cannot be used ({error})",
            "a valid ICC profile, or none",
            "Convert the picture to sRGB",
        ) from None


def _probe() -> Image.Image:
    """Return a picture of colours from all over the cube."""
    from PIL import Image

    steps = np.arange(0, 256, 51).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    return Image.fromarray(cube)


def _signed(image: Image.Image) -> npt.NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)
