"""What a camera makes of light: lens, exposure, noise, colour response, sharpening, JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from datagen.common.arrays import F32
from datagen.common.compiled import compiled

TABLE_SIZE = 4096


@dataclass(frozen=True)
class Sensor:
    """One camera's way of making a picture.

    Attributes
    ----------
    exposure : float
        Scales light before anything clips.
    white_balance : 3 floats
        Gains that are not quite right.
    vignette : float
        Loss of light in the corners, as a share.
    blur_px : float
        Standard deviation of the lens's blur.
    electrons : float
        Electrons at white: photon noise is their square root.
    read_noise : float
        Share of white.
    contrast : float
        Steepness of the tone curve's middle; 0 is linear light in sRGB encoding.
    sharpen : float
        Amount of the in-camera sharpening.
    jpeg_quality : int
        0 keeps the picture as it is.
    """

    exposure: float = 1.0
    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    vignette: float = 0.0
    blur_px: float = 0.0
    electrons: float = 1e9
    read_noise: float = 0.0
    contrast: float = 0.0
    saturation: float = 1.0
    black: float = 0.0
    sharpen: float = 0.0
    jpeg_quality: int = 0
    curve: npt.NDArray[np.uint8] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Tabulate the tone curve."""
        object.__setattr__(self, "curve", _curve(self.contrast, self.black))


def random_sensor(rng: np.random.Generator) -> Sensor:
    """Draw one camera model: a studio camera, a machine-vision camera or a telephone."""
    u = rng.uniform(size=10)
    gains = np.exp(rng.normal(0, [0.045, 0.012, 0.055]))
    kind = int(rng.integers(3))
    electrons = (18000, 6000, 2500)[kind] * (0.6 + 0.8 * u[0])
    return Sensor(
        exposure=float(np.exp(rng.normal(0, 0.12))),
        white_balance=(float(gains[0]), float(gains[1]), float(gains[2])),
        vignette=float(0.25 * u[1] ** 2),
        blur_px=float((0.45, 0.55, 0.5)[kind] + 0.45 * u[2] ** 2),
        electrons=float(electrons),
        read_noise=float((0.0012, 0.003, 0.004)[kind] * (0.6 + 0.9 * u[3])),
        contrast=float((0.55, 0.3, 0.75)[kind] * (0.6 + 0.8 * u[4])),
        saturation=float((1.0, 0.88, 1.08)[kind] + 0.12 * (u[5] - 0.5)),
        black=float(0.012 * u[6] ** 2),
        sharpen=float((0.3, 0.1, 0.7)[kind] * u[7]),
        jpeg_quality=round((94, 90, 86)[kind] - 14 * float(u[8]) ** 2),
    )


def vary_sensor(sensor: Sensor, rng: np.random.Generator) -> Sensor:
    """Return a sibling of the same model, slightly out of step, as cameras of one rig are."""
    gains = np.array(sensor.white_balance) * np.exp(rng.normal(0, 0.012, 3))
    return replace(
        sensor,
        exposure=sensor.exposure * float(np.exp(rng.normal(0, 0.03))),
        white_balance=(float(gains[0]), float(gains[1]), float(gains[2])),
        blur_px=sensor.blur_px * float(rng.uniform(0.85, 1.3)),
    )


def expose(linear: F32, sensor: Sensor, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Turn linear light into a picture.

    Parameters
    ----------
    linear : (H, W, 3) float32
        Linear RGB, 1 is white at exposure 1.
    rng : numpy Generator
        Draws the noise.

    Returns
    -------
    (H, W, 3) uint8
        sRGB.
    """
    noise = rng.standard_normal(linear.shape, np.float32)
    light = blurred(linear, sensor.blur_px) if sensor.blur_px > 0.05 else linear
    gains = np.array(sensor.white_balance, np.float32) * np.float32(sensor.exposure)
    raw = np.empty_like(light)
    _read_out(
        np.ascontiguousarray(light), noise, gains, sensor.vignette, 1 / sensor.electrons, sensor.read_noise,
        sensor.saturation, raw,
    )  # fmt: skip
    if sensor.sharpen > 0.01:
        raw += np.float32(sensor.sharpen) * (raw - blurred(raw, 0.9))
    index = np.clip(raw * np.float32(TABLE_SIZE - 1) + np.float32(0.5), 0, TABLE_SIZE - 1).astype(np.int32)
    picture = sensor.curve[index]
    return _jpeg(picture, sensor.jpeg_quality) if sensor.jpeg_quality else picture


def _srgb(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)


def _curve(contrast: float, black: float) -> npt.NDArray[np.uint8]:
    """Tabulate the tone curve over linear light (square-root spaced would waste none; fine steps are cheap)."""
    x = np.linspace(0, 1, TABLE_SIZE)
    y = _srgb(x)
    # A filmic S: deeper shadows, a shoulder before white, the middle grey kept.
    shaped = y + contrast * 0.55 * y * (1 - y) * (y - 0.42) * 1.6
    return np.rint(np.clip(black + (1 - black) * shaped, 0, 1) * 255).astype(np.uint8)


def _jpeg(picture: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=2 if quality < 90 else 0)
    return np.asarray(Image.open(buffer).convert("RGB")).copy()


def blurred(image: F32, sigma_px: float) -> F32:
    """Return an image (H, W, C) float32 convolved with a Gaussian; edges repeat."""
    radius = max(1, int(np.ceil(2.5 * sigma_px)))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
    out = np.empty_like(image)
    _convolve(np.ascontiguousarray(image), (taps / taps.sum()).astype(np.float32), out)
    return out


@compiled
def _convolve(image, taps, out):  # type: ignore[no-untyped-def]
    height, width, channels = image.shape
    radius, count = len(taps) // 2, width * channels
    half = np.empty((height, count), np.float32)
    # A row with its ends repeated, flat, so that the inner loop is a plain sum of shifted rows.
    row = np.empty(count + 2 * radius * channels, np.float32)
    for y in range(height):
        for x in range(-radius, width + radius):
            at = min(max(x, 0), width - 1)
            for c in range(channels):
                row[(x + radius) * channels + c] = image[y, at, c]
        total = half[y]
        total[:] = 0
        for t in range(len(taps)):
            tap, shift = taps[t], t * channels
            for i in range(count):
                total[i] += tap * row[i + shift]
    flat = out.reshape(height, count)
    for y in range(height):
        total = flat[y]
        total[:] = 0
        for t in range(len(taps)):
            tap, other = taps[t], half[min(max(y + t - radius, 0), height - 1)]
            for i in range(count):
                total[i] += tap * other[i]


@compiled
def _read_out(light, noise, gains, vignette, per_electron, read_noise, saturation, out):  # type: ignore[no-untyped-def]
    """Apply fall-off, noise, white balance and saturation to each pixel."""
    height, width = light.shape[:2]
    for y in range(height):
        dy = (y + 0.5) / height * 2 - 1
        for x in range(width):
            dx = (x + 0.5) / width * 2 - 1
            fall = 1 - vignette * (dx * dx + dy * dy) / 2
            grey = np.float32(0)
            for k in range(3):
                value = light[y, x, k] * gains[k] * fall
                value += noise[y, x, k] * np.sqrt(max(value, 0.0) * per_electron + read_noise * read_noise)
                out[y, x, k] = value
            grey = 0.2126 * out[y, x, 0] + 0.7152 * out[y, x, 1] + 0.0722 * out[y, x, 2]
            for k in range(3):
                out[y, x, k] = grey + saturation * (out[y, x, k] - grey)
