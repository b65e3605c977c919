"""Whether a video file is all there, by its own structure: decoders pass over what is missing without a word."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

CUT, DAMAGED = "the file goes on where it ends", "its structure is damaged"
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"meta", b"sidx", b"styp", b"moof", b"mfra"}
_TS_PACKETS = (188, 192)  # bytes; the latter with four of a time before
_EBML, _SEGMENT, _CLUSTER = b"\x1aE\xdf\xa3", b"\x18S\x80g", b"\x1fC\xb6u"
# What lies in a segment or in a cluster of Matroska (RFC 9559): heads, blocks, and what may be anywhere.
_HEADS = (0x1A45DFA3, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1043A770, 0x1C53BB6B, 0x1941A469, 0x1254C367)
_BLOCKS = (0xA3, 0xA0, 0xE7, 0xAB, 0xA7, 0x5854, 0xAF, 0xEC, 0xBF)


def fault_of(path: Path) -> str | None:
    """Return what is wrong with an MP4, Matroska, AVI, MPEG-TS or GIF file as a whole; None if nothing shows."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_TS_PACKETS[-1] + 5)
        if head[4:8] in _BOXES:
            return _fault_of_boxes(file, size)
        if head[:4] == b"RIFF":
            return _fault_of_chunks(file, size)
        if head[:4] == _EBML:
            return _fault_of_elements(file, size)
        if head[:3] == b"GIF":
            file.seek(max(size - 64, 0))
            return None if file.read().rstrip(b"\0").endswith(b";") else CUT
        for length, start in zip(_TS_PACKETS, (0, 4), strict=True):
            if head[start : start + 1] == head[start + length : start + length + 1] == b"G":
                return CUT if size % length else None
    return None


def _fault_of_boxes(file: BinaryIO, size: int) -> str | None:
    at = 0
    while at < size:
        head = _at(file, at)
        if head[4:8] not in _BOXES:  # what some phones append
            return None
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: to the end of the file
            return None if length == 0 else DAMAGED
        at += length
    return CUT if at > size else None


def _fault_of_chunks(file: BinaryIO, size: int) -> str | None:
    at, end = 0, 0
    while at < (end or size) - 7 or (at < size - 7 and _at(file, at)[:4] == b"RIFF"):
        head = _at(file, at)
        name, length = head[:4], int.from_bytes(head[4:8], "little")
        if name == b"RIFF":
            whole = length not in {0, 0xFFFFFFFF}  # else it was never finished
            end = at + 8 + length if whole else size
            if end > size:
                return CUT
        if not all(32 <= code < 127 for code in name):
            return DAMAGED
        at += 12 if name in {b"RIFF", b"LIST"} else 8 + length + length % 2
    return CUT if at > size + 1 else None


def _fault_of_elements(file: BinaryIO, size: int) -> str | None:
    at, end, strange = 0, size, 0
    while at < end:
        head = _at(file, at)
        wide = 9 - head[0].bit_length()
        if wide > 4 or wide >= len(head) or not head[wide]:
            return DAMAGED
        name, digits = head[:wide], 9 - head[wide].bit_length()
        length = int.from_bytes(head[wide : wide + digits], "big") & ((1 << 7 * digits) - 1)
        endless = length == (1 << 7 * digits) - 1  # sent live, or never finished
        at += wide + digits
        if name == _SEGMENT and not endless:
            end = at + length
            if end > size:
                return CUT
        if name in {_SEGMENT, _CLUSTER}:
            continue  # to what it holds
        strange = 0 if int.from_bytes(name, "big") in (*_BLOCKS, *_HEADS) else strange + 1
        if strange > 1 or endless:
            return DAMAGED
        at += length
    return CUT if at > end else None


def _at(file: BinaryIO, place: int) -> bytes:
    file.seek(place)
    return file.read(16)
