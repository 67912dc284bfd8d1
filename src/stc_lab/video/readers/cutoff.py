"""Does a file end before it should? Told from the sizes that MP4 and Matroska files state themselves.

Decoders report a cut-off file in many ways, or not at all; the stated sizes are exact and cheap to read.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

EBML_MAGIC = b"\x1a\x45\xdf\xa3"
SEGMENT_ID = b"\x18\x53\x80\x67"
MP4_TOP_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide")


def is_cut_off(path: Path) -> bool:
    """Whether an MP4/MOV or Matroska/WebM file ends too early. ``False`` for every other format."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(0)
        if head[:4] == EBML_MAGIC:
            return _matroska_is_cut(file, size)
        if head[4:8] in MP4_TOP_BOXES:
            return _mp4_is_cut(file, size)
    return False


def _mp4_is_cut(file: BinaryIO, size: int) -> bool:
    """Walk the top boxes: one reaches past the end, or the index (``moov``) never comes."""
    offset, has_index = 0, False
    while offset + 8 <= size:
        file.seek(offset)
        length, name = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        elif length == 0:  # "to the end of the file"
            length = size - offset
        if offset + length > size:
            return name in MP4_TOP_BOXES  # anything else is padding or rubbish after the last box
        if length < 8:
            return False
        has_index = has_index or name == b"moov"
        offset += length
    return not has_index


def _matroska_is_cut(file: BinaryIO, size: int) -> bool:
    """The ``Segment`` element, which holds all the rest, states a size that reaches past the end."""
    file.seek(len(EBML_MAGIC))
    header_length = _ebml_size(file)
    if header_length is None:
        return False
    file.seek(header_length, os.SEEK_CUR)
    if file.read(len(SEGMENT_ID)) != SEGMENT_ID:
        return False
    length = _ebml_size(file)
    return length is not None and file.tell() + length > size


def _ebml_size(file: BinaryIO) -> int | None:
    """A variable-length size; ``None`` for "unknown" (a live recording) and at the end of the file."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    num_more = 8 - first[0].bit_length()
    mask = (1 << (7 - num_more)) - 1
    value = int.from_bytes(bytes([first[0] & mask]) + file.read(num_more), "big")
    return None if value == (1 << (7 * (num_more + 1))) - 1 else value
