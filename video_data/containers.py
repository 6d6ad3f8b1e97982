"""Finds files that were cut or lack a piece, in formats whose decoder does not notice.

Each reader takes an open file and its size. It returns (what was lost, or None; how many pictures the
file says it holds, or None).
"""

import contextlib
import functools
import re
import struct
import zlib

import numpy as np

CUT = "is cut short"
HOLE = "lacks a piece, or is damaged"
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def look(path):
    """Chooses the reader of a file by its first bytes, and returns what that returns."""
    with open(path, "rb") as file:
        start = file.read(256)
        size = file.seek(0, 2)
        for magic, function in READERS.items():
            if start.startswith(magic):
                return function(file, size)
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return webp(file, size)
        for before, packet in ((0, 188), (4, 192)):  # Cameras write MPEG-TS with 4 bytes more.
            if start[before : before + 1] == start[before + packet : before + packet + 1] == b"G":
                return mpegts(file, size, before, packet)
    return None, None


def webp(file, size):
    """A WebP file is chunks, each of which states its length and is padded to an even one."""
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
    """A GIF is blocks that begin with their kind: pictures, others, and the trailer at the end."""
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
        file.seek(place - 1)
        bits, blocks = file.read(1), []
        while length := file.read(1):  # An empty sub-block ends the block.
            if not length[0]:
                break
            blocks.append(file.read(length[0]))
        if not length:
            return CUT, pictures
        place = file.tell()
        if head[:1] == b",":
            width, height = struct.unpack("<HH", head[5:9])
            if _pixels(b"".join(blocks), bits[0]) != width * height:
                return HOLE, pictures


def _palette(flags):
    return 3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0


def _pixels(packed, bits):
    """How many pixels a GIF's picture unpacks to (LZW, appendix F of GIF89a); None: it is damaged.

    A code stands for one pixel, or for the pixels of an earlier code and one more. So a code has as
    many pixels as the chain of codes from it to a single pixel is long. bits: of a pixel.
    """
    if not 1 <= bits <= 8:
        return None
    data = np.frombuffer(packed + bytes(3), np.uint8).astype(np.uint32)
    clear, start, pixels = 1 << bits, 0, 0
    while True:
        for count in (4096, 8 * len(packed) // bits):  # Codes may go on when the table is full.
            places, widths = _places(bits, count)
            places = places[: np.searchsorted(places + widths, 8 * len(packed) - start, "right")] + start
            byte = places >> 3
            codes = (data[byte] | data[byte + 1] << 8 | data[byte + 2] << 16) >> (places & 7).astype(
                np.uint32)
            codes = (codes & (1 << widths[: len(codes)]) - 1).astype(np.int64)
            stops = np.flatnonzero((codes == clear) | (codes == clear + 1))
            if len(stops) or len(codes) < 4096:
                break
        end = stops[0] if len(stops) else len(codes)
        links = np.maximum(codes[:end] - (clear + 2), -1)
        if (links >= np.arange(end)).any():
            return None
        lengths = np.ones(end, np.int64)
        while (open := links >= 0).any():
            lengths[open] += lengths[links[open]]
            links[open] = links[links[open]]
        pixels += int(lengths.sum())
        if end == len(codes) or codes[end] != clear:
            return pixels
        start = int(places[end] + widths[end])


@functools.cache
def _places(bits, count):
    """The first bit of each of `count` codes after an empty table, and how many bits each has."""
    free = 2**bits + 1 + np.maximum(1, np.arange(count))  # The next free place in the table.
    widths = np.clip(np.frexp(free)[1], bits + 1, 12)
    return np.cumsum(widths) - widths, widths


def mpegts(file, size, before, packet):
    """An MPEG-TS file is packets of one length, and each stream numbers its packets.

    before: how many bytes stand in front of each packet.
    """
    if size % packet:
        return CUT, None
    file.seek(0)
    latest = {}
    while block := file.read(packet * 2**16):
        rows = np.frombuffer(block, np.uint8).reshape(-1, packet)[:, before : before + 6]
        if (rows[:, 0] != ord("G")).any():
            return HOLE, None
        streams = (rows[:, 1] & 31).astype(int) << 8 | rows[:, 2]
        flags, filled = rows[:, 3], (rows[:, 3] & 16 > 0) & (streams != 8191)  # 8191 is padding.
        # A file that was appended to another starts its numbers anew, where a picture begins.
        afresh = (rows[:, 1] & 64 > 0) | (flags & 32 > 0) & (rows[:, 4] > 0) & (rows[:, 5] & 128 > 0)
        for stream in np.unique(streams[filled]):
            of_stream = filled & (streams == stream)
            numbers = rows[of_stream, 3] & 15
            steps = np.diff(numbers, prepend=latest.get(stream, numbers[0])) & 15
            if ((steps > 1) & ~afresh[of_stream]).any():  # A packet may come twice.
                return HOLE, None
            latest[stream] = numbers[-1]
    return None, None


def png(file, size):
    """A PNG is chunks, the last of which is IEND."""
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
    """An Ogg file is pages, and each stream numbers its pages."""
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
    """The CRC-32 of an Ogg page (RFC 3533). It reads the bits of a byte in the reverse order of zlib."""
    mirrored = zlib.crc32(page.translate(MIRRORED), 2**32 - 1) ^ (2**32 - 1)
    return int(f"{mirrored:032b}"[::-1], 2).to_bytes(4, "little")


def asf(file, size):
    """An ASF file is a header and packets of one length; each part states its length."""
    file.seek(16)
    length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
    if length + 24 > size:
        return CUT, None
    file.seek(0)
    properties = file.read(length).partition(ASF_FILE)[2]
    name, data = struct.unpack("<16sQ", file.read(24))
    if name != ASF_DATA:
        return HOLE, None
    if length + data > size:
        return CUT, None
    if len(properties) < 88:
        return None, None
    packet, most = struct.unpack("<II", properties[76:84])
    if packet == most > 0:
        file.seek(length + 50)
        packets = (file.read(packet) for _ in range((data - 50) // packet))
        with contextlib.suppress(NotImplementedError):
            return None if _asf_is_whole(packets) else HOLE, None
    return None, None


def _asf_is_whole(packets):
    """Whether packets hold every piece of every object: a picture, or a stretch of sound.

    Raises NotImplementedError where a piece holds several objects, which is not read here.
    """
    latest = {}  # By stream: the number of its latest object, the bytes read of that, the bytes missing.
    for packet in packets:
        try:
            for stream, number, mask, offset, whole, length in _asf_pieces(packet):
                before, end, left = latest.get(stream, (None, 0, 0))
                if offset and (before, end) != (number, offset) or not offset and (
                        left or before is not None and number != before + 1 & mask):
                    return False
                latest[stream] = number, offset + length, whole - offset - length
        except (struct.error, IndexError, ValueError):
            return False
    return not any(left for *_, left in latest.values())


def _asf_pieces(packet):
    """Yields the pieces in a packet (section 5.2 of the ASF specification).

    A piece is (stream, number of its object, mask of such numbers, offset in the object, length of the
    object, length of the piece). Raises ValueError where the packet contradicts itself.
    """
    place = 1 + (packet[0] & 15) if packet[0] & 128 else 0

    def take(kind):
        nonlocal place
        bytes_ = (0, 1, 2, 4)[kind & 3]
        place += bytes_
        return int.from_bytes(packet[place - bytes_ : place], "little")

    flags, kinds = take(1), take(1)
    length = take(flags >> 5) or len(packet)
    take(flags >> 1)
    end = length - take(flags >> 3)
    place += 6  # Skips the time of the packet and its duration.
    several = take(1) if flags & 1 else 0
    for _ in range(several & 63 or 1):
        stream, number, offset, more = take(1), take(kinds >> 4), take(kinds >> 2), take(kinds)
        if more == 1:
            raise NotImplementedError
        whole, = struct.unpack("<I", packet[place : place + 4])
        place += more
        length = take(several >> 6) if several else end - place
        place += length
        if place > end or offset + length > whole or not (length and stream & 127):
            raise ValueError("a piece is longer than its object or its packet")
        yield stream & 127, number, (1 << 8 * (0, 1, 2, 4)[kinds >> 4 & 3]) - 1, offset, whole, length
    if several and place != end:
        raise ValueError("the packet is longer than its pieces")


def matroska(file, size):
    """A Matroska file is nested elements that state their lengths, except in a live recording."""
    place, ends = 0, []  # The ends of the elements around the current one.
    while place < size:
        while ends and place >= ends[-1]:
            if place > ends.pop():
                return HOLE, None
        file.seek(place)
        head = file.read(16)
        name, name_bytes = _ebml_number(head)
        length, size_bytes = _ebml_number(head[name_bytes:])
        if name is None or length is None:
            # Junk after the outermost element is harmless.
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
    """A number of EBML, whose first bits state how many bytes it has: (number, bytes)."""
    length = 9 - head[0].bit_length() if head else 9
    if length > 8 or len(head) < length:
        return None, 0
    return int.from_bytes(head[:length], "big") ^ (1 << 7 * length), length


READERS = {b"GIF8": gif, b"\x89PNG": png, b"OggS": ogg, ASF_HEADER: asf, b"\x1aE\xdf\xa3": matroska}
