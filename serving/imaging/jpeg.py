"""The header of a JPEG (ITU T.81, annex B): markers up to the first scan."""

from __future__ import annotations

from serving.errors import Undecodable
from serving.imaging import exif
from serving.imaging.header import Header
from serving.imaging.sniff import Data

_SEQUENTIAL = {0xC0, 0xC1}
_START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_START_OF_SCAN = 0xDA
_APP1 = 0xE1

# Encoders write about ten scans. Each may cover the whole image and take few bytes, so
# that a small file can ask for hours of work.
_MOST_SCANS = 32
_MOST_SEGMENTS = 10_000


def read(data: Data) -> Header:
    """Raises Undecodable where no frame header comes before the first scan."""
    data = bytes(data)
    width = height = components = precision = 0
    profile: bytes | None = None
    sequential = False
    position = 2
    for _ in range(_MOST_SEGMENTS):
        position = data.find(b"\xff", position)
        while position >= 0 and data[position + 1 : position + 2] == b"\xff":
            position += 1
        if position < 0 or position + 4 > len(data):
            raise Undecodable("broken JPEG: it ends before its first scan")
        marker = data[position + 1]
        if marker in _WITHOUT_LENGTH or marker == 0x00:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if marker in _START_OF_FRAME and len(segment) >= 6:
            sequential = marker in _SEQUENTIAL
            precision, components = segment[0], segment[5]
            height = int.from_bytes(segment[1:3], "big")
            width = int.from_bytes(segment[3:5], "big")
        elif marker == _APP1 and profile is None and segment.startswith(b"Exif\0\0"):
            profile = segment
        elif marker == _START_OF_SCAN:
            break
        position += 2 + max(length, 2)
    else:
        raise Undecodable(f"broken JPEG: more than {_MOST_SEGMENTS} segments before its first scan")
    if not width or not height:
        raise Undecodable("broken JPEG: no frame header with a width and a height")
    # Inside a scan 0xFF is always stuffed, so these two are markers and nothing else. A sequential
    # frame whose first scan has every component has no other: few files have to be counted through.
    alone = sequential and data[position + 4 : position + 5] == bytes([components])
    scans = 1 if alone else data.count(b"\xff\xda", position)
    whole = data.rfind(b"\xff\xd9", position) >= 0
    return Header(
        width,
        height,
        data,
        exif.orientation(profile or b""),
        # Without the end marker OpenCV's older releases paint the missing rows grey and say
        # nothing; Pillow tells a truncated file from one that only lacks the marker.
        plain=whole and precision == 8 and components in (1, 3),
        runaway=scans > _MOST_SCANS,
    )
