"""Compiled solid noise: smooth and cellular functions of a point in space, the same on every machine and thread."""

from __future__ import annotations

import numpy as np

from datagen.common.compiled import compiled


@compiled
def lattice_hash(i, j, k, seed):  # type: ignore[no-untyped-def]
    """Return a well-mixed 32-bit number of a lattice point (an integer hash after Wang and Jenkins)."""
    h = np.uint32(i) * np.uint32(0x8DA6B343)
    h ^= np.uint32(j) * np.uint32(0xD8163841)
    h ^= np.uint32(k) * np.uint32(0xCB1AB31F)
    h ^= np.uint32(seed) * np.uint32(0x9E3779B9)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(12)
    h *= np.uint32(0x297A2D39)
    h ^= h >> np.uint32(15)
    return h


@compiled
def _corner(i, j, k, seed, x, y, z):  # type: ignore[no-untyped-def]
    """Return a pseudo-random gradient's value at an offset, and the gradient itself."""
    h = lattice_hash(i, j, k, seed)
    scale = np.float32(1.0 / 512.0)
    gx = np.float32(np.int32(h & np.uint32(1023)) - 512) * scale
    gy = np.float32(np.int32((h >> np.uint32(10)) & np.uint32(1023)) - 512) * scale
    gz = np.float32(np.int32((h >> np.uint32(20)) & np.uint32(1023)) - 512) * scale
    return gx * x + gy * y + gz * z, gx, gy, gz


@compiled
def smooth_noise(px, py, pz, seed):  # type: ignore[no-untyped-def]
    """Gradient noise (Perlin 2002, quintic fade) with its analytic gradient.

    Returns
    -------
    value, dx, dy, dz : float32
        Value of about unit variance, and its derivatives; features have the size 1.
    """
    x, y, z = np.float32(px), np.float32(py), np.float32(pz)
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    i, j, k = np.int32(fx), np.int32(fy), np.int32(fz)
    x, y, z = x - fx, y - fy, z - fz
    # float32 spelt out: beside a plain number numba would continue in float64.
    one = np.float32(1.0)
    u = x * x * x * (x * (x * np.float32(6) - np.float32(15)) + np.float32(10))
    v = y * y * y * (y * (y * np.float32(6) - np.float32(15)) + np.float32(10))
    w = z * z * z * (z * (z * np.float32(6) - np.float32(15)) + np.float32(10))
    du = np.float32(30) * x * x * (x * (x - np.float32(2)) + one)
    dv = np.float32(30) * y * y * (y * (y - np.float32(2)) + one)
    dw = np.float32(30) * z * z * (z * (z - np.float32(2)) + one)
    value, gx, gy, gz = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for a in range(2):
        sx = u if a else one - u
        tx = du if a else -du
        for b in range(2):
            sy = v if b else one - v
            ty = dv if b else -dv
            for c in range(2):
                sz = w if c else one - w
                tz = dw if c else -dw
                n, hx, hy, hz = _corner(i + a, j + b, k + c, seed, x - a, y - b, z - c)
                weight = sx * sy * sz
                value += weight * n
                gx += weight * hx + tx * sy * sz * n
                gy += weight * hy + sx * ty * sz * n
                gz += weight * hz + sx * sy * tz * n
    # Standard deviation of the sum above, measured over many points.
    gain = np.float32(1.0 / 0.191)
    return value * gain, gx * gain, gy * gain, gz * gain


@compiled
def cell_noise(px, py, pz, seed):  # type: ignore[no-untyped-def]
    """Cellular noise (Worley 1996): the nearest of one random point per unit cell, among the eight nearest cells.

    Returns
    -------
    distance : float32
        To the nearest point.
    dx, dy, dz : float32
        Offset of the place from that point.
    value : float32
        A number in [0, 1) that belongs to the point.
    """
    x, y, z = np.float32(px), np.float32(py), np.float32(pz)
    half = np.float32(0.5)
    i0, j0, k0 = np.int32(np.floor(x - half)), np.int32(np.floor(y - half)), np.int32(np.floor(z - half))
    best, bx, by, bz, number = np.float32(9), np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    scale = np.float32(0.8 / 1023.0)
    for a in range(2):
        for b in range(2):
            for c in range(2):
                h = lattice_hash(i0 + a, j0 + b, k0 + c, seed)
                # Points keep to the middle 80 % of their cells, so that the eight nearest cells hold the nearest one.
                qx = x - (i0 + a) - np.float32(0.1) - scale * np.float32(h & np.uint32(1023))
                qy = y - (j0 + b) - np.float32(0.1) - scale * np.float32((h >> np.uint32(10)) & np.uint32(1023))
                qz = z - (k0 + c) - np.float32(0.1) - scale * np.float32((h >> np.uint32(20)) & np.uint32(1023))
                d = qx * qx + qy * qy + qz * qz
                if d < best:
                    best, bx, by, bz = d, qx, qy, qz
                    mixed = (np.uint64(h) * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
                    number = np.float32(mixed >> np.uint64(8)) * np.float32(1.0 / 16777216.0)
    return np.sqrt(best), bx, by, bz, number
