"""Files that are cut or lack a piece, where the decoder does not see it: by how their formats are built.

Each function takes an open file and its size, and returns (what was lost, or None; how many pictures the
file holds, or None where it does not tell).
"""

import re
import struct
import zlib

CUT = "is cut short"
HOLE = "lacks a piece, or is damaged"
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def look(path):
    """Returns (what a file has lost, or None; how many pictures it holds, or None)."""
    with open(path, "rb") as file:
        start = file.read(256)
        size = file.seek(0, 2)
        for magic, function in READERS.items():
            if start.startswith(magic):
                return function(file, size)
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return webp(file, size)
        for before, packet in ((0, 188), (4, 192)):  # MPEG-TS, and as cameras write it.
            if start[before : before + 1] == start[before + packet : before + packet + 1] == b"G":
                return CUT if size % packet else None, None
    return None, None


def webp(file, size):
    """RIFF: chunks one after the other, each as long as it says and padded to an even length."""
    file.seek(4)
    end = struct.unpack("<I", file.read(4))[0] + 8
    if end > size:
        return CUT, None
    place, pictures = 12, 0
    while place + 8 <= end:
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        if not re.fullmatch(rb"[A-Z0-9 ]{4}", name) or place + 8 + length > end:
            return HOLE, None
        pictures += name == b"ANMF"
        place += 8 + length + length % 2
    return None, pictures


def gif(file, size):
    """Blocks that begin with their kind; a picture is one; the last is the trailer."""
    file.seek(10)
    flags = file.read(3)[0]
    place, pictures = 13 + _palette(flags), 0
    while True:
        file.seek(place)
        head = file.read(10)
        if not head:
            return CUT, pictures
        if head[:1] == b";":
            return HOLE if size - place > 1024 else None, pictures
        if head[:1] == b"!":
            place += 2
        elif head[:1] == b"," and len(head) == 10:
            pictures += 1
            place += 11 + _palette(head[9])
        else:
            return HOLE, pictures
        file.seek(place)
        while length := file.read(1):  # Sub-blocks, up to an empty one.
            place += 1 + length[0]
            if not length[0]:
                break
            file.seek(place)
        if not length:
            return CUT, pictures


def _palette(flags):
    return 3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0


def png(file, size):
    """Chunks up to IEND."""
    place = 8
    while place < size:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return CUT, None
        length, name = struct.unpack(">I4s", head)
        place += 12 + length
        if name == b"IEND":
            return None, None
    return CUT, None


def ogg(file, size):
    """Pages, whose numbers count up in each stream."""
    place, numbers = 0, {}
    while place < size:
        file.seek(place)
        head = file.read(27)
        if len(head) < 27:
            return CUT, None
        if head[:4] != b"OggS":
            return HOLE, None
        stream, number = struct.unpack("<II", head[14:22])
        if number != numbers.get(stream, number - 1) + 1:
            return HOLE, None
        numbers[stream] = number
        segments = file.read(head[26])
        page = head[:22] + bytes(4) + head[26:] + segments + file.read(sum(segments))
        place += len(page)
        if len(page) < 27 + head[26] + sum(segments):
            return CUT, None
        if _ogg_checksum(page) != head[22:26]:
            return HOLE, None
    return None, None


MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page):
    """The CRC-32 of an Ogg page (RFC 3533), which takes bits from the other end than zlib does."""
    mirrored = zlib.crc32(page.translate(MIRRORED), 2**32 - 1) ^ (2**32 - 1)
    return int(f"{mirrored:032b}"[::-1], 2).to_bytes(4, "little")


def asf(file, size):
    """A header and the data, each as long as it says."""
    file.seek(16)
    length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
    if length + 24 > size:
        return CUT, None
    file.seek(length)
    name, data = struct.unpack("<16sQ", file.read(24))
    if name != ASF_DATA:
        return HOLE, None
    return CUT if length + data > size else None, None


def y4m(file, size):
    """A line, and frames of one length, each behind a line of its own."""
    file.seek(0)
    words = file.readline(256).split()
    sides = {word[:1]: word[1:] for word in words[1:] if word[:1] in (b"W", b"H", b"C")}
    try:
        width, height = int(sides[b"W"]), int(sides[b"H"])
    except (KeyError, ValueError):
        return None, None  # The decoder will say.
    kind = sides.get(b"C", b"420").decode(errors="replace")
    half = (-(-width // 2), -(-height // 2))
    colours = {"420": half[0] * half[1], "422": half[0] * height, "444": width * height,
               "411": -(-width // 4) * height, "mono": 0}
    chroma = next((count for name, count in colours.items() if kind.startswith(name)), 0)
    length = width * height + 2 * chroma
    length *= 1 + (re.search(r"p1\d$|mono1\d$", kind) is not None)
    left = size - file.tell()
    return CUT if left % (length + len("FRAME\n")) else None, None


def matroska(file, size):
    """Elements in elements, each as long as it says; those that are written as they come do not say."""
    place, ends = 0, []  # Where the elements end that we are in.
    while place < size:
        while ends and place >= ends[-1]:
            if place > ends.pop():
                return HOLE, None
        file.seek(place)
        head = file.read(16)
        name, name_bytes = _ebml_number(head)
        length, size_bytes = _ebml_number(head[name_bytes:])
        if name is None or length is None:
            # Behind the end of all, junk is harmless.
            return CUT if len(head) < 12 else HOLE if ends else None, None
        name |= 1 << 7 * name_bytes
        place += name_bytes + size_bytes
        unknown = length == (1 << 7 * size_bytes) - 1
        if not unknown and place + length > size:
            return CUT, None
        if name in (SEGMENT, CLUSTER):
            ends += [] if unknown else [place + length]
        elif unknown:
            return None, None
        else:
            place += length
    return None, None


SEGMENT, CLUSTER = 0x18538067, 0x1F43B675


def _ebml_number(head):
    """A number whose first bits tell how many bytes it has: (it without them, bytes)."""
    length = 9 - head[0].bit_length() if head else 9
    if length > 8 or len(head) < length:
        return None, 0
    return int.from_bytes(head[:length], "big") ^ (1 << 7 * length), length


READERS = {b"GIF8": gif, b"\x89PNG": png, b"OggS": ogg,
           ASF_HEADER: asf, b"YUV4MPEG2": y4m, b"\x1aE\xdf\xa3": matroska}
