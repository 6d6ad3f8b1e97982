"""Encoded files as cameras and editors write them: which frames are read, and which losses are named."""

import struct
import subprocess

import av
import numpy as np
import pytest
import twins
from PIL import Image
from test_videos import FFMPEG, LOSSLESS, area_resized, distance, numbered, read, write

from video_data import containers, videos

READERS = videos.Readers()


def video_of(path, **options):
    """(frames, Video) of a file of one video."""
    frames, (video,), _ = READERS.read(videos.Request(str(path), videos.Form(), **options))
    return frames, video


def refusal(path):
    with pytest.raises(videos.Broken) as broken:
        video_of(path)
    return str(broken.value)


def without(path, out, dropped):
    """Copies the packets of a file but those whose numbers are dropped."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if packet.size and number not in dropped:
                packet.stream = copy
                target.mux(packet)
    return out


# ----------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("aspect, squeezed", [("2:1", 2), ("1:2", 1)])
def test_pixels_that_are_no_squares(aspect, squeezed, fit, tmp_path):
    """A film of 128 x 128 that stores only every second column or row looks like the whole one."""
    frames = twins.movie(2, 4, 128, 128)
    stored = frames[:, :, ::2] if squeezed == 2 else frames[:, ::2]
    path = write(tmp_path / "a.mkv", stored, *LOSSLESS, "-vf", f"setsar={aspect.replace(':', '/')}")
    np.save(tmp_path / "a.npy", frames)
    assert distance(read(path, fit=fit), read(tmp_path / "a.npy", fit=fit)) < 4
    wide = frames[:, 32:96]  # 128 x 64 as it is shown.
    stored = wide[:, :, ::2] if squeezed == 2 else wide[:, ::2]
    path = write(tmp_path / "b.mkv", stored, *LOSSLESS, "-vf", f"setsar={aspect.replace(':', '/')}")
    np.save(tmp_path / "b.npy", wide)
    assert distance(read(path, fit=fit), read(tmp_path / "b.npy", fit=fit)) < 4


@pytest.mark.parametrize("codec", [["libvpx", "-auto-alt-ref", "0"], ["libvpx-vp9"]])
def test_what_is_transparent_in_webm_is_black(codec, tmp_path):
    frames = np.concatenate([twins.movie(0, 6, 96, 96), np.zeros([6, 96, 96, 1], np.uint8)], -1)
    frames[:, :, :48, 3] = 255  # The rest is white, and not to be seen.
    frames[:, :, 48:, :3] = 255
    expected = area_resized(frames[..., :3] * (frames[..., 3:] / 255.0))
    path = write(tmp_path / "a.webm", frames, "-c:v", *codec, "-b:v", "2M", "-pix_fmt", "yuva420p")
    seen = read(path)
    assert len(seen) == 6 and distance(seen, expected) < 8 and seen[:, :, 36:].max() < 30


@pytest.mark.parametrize("transfer, name", [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_said(transfer, name, tmp_path):
    path = write(tmp_path / "a.mp4", twins.movie(0, 5), "-c:v", "libx265", "-pix_fmt", "yuv420p10le",
                 "-vf", "scale=out_color_matrix=bt2020", "-color_primaries", "bt2020", "-x265-params",
                 f"log-level=none:transfer={transfer}:colorprim=bt2020:colormatrix=bt2020nc")
    frames, video = video_of(path)
    assert len(frames) == 5
    assert f"has HDR colours ({name}), which are read without tone mapping" in video.notes


# ----------------------------------------------------------------------------------------- losses


def test_a_missing_first_key_frame_is_said(tmp_path):
    whole = write(tmp_path / "a.ts", numbered(30), "-c:v", "libx264", "-g", "10", "-bf", "0",
                  "-pix_fmt", "yuv420p")
    cut = without(whole, tmp_path / "b.ts", {0})
    assert "the first 9 of its pictures cannot be decoded: their key frame is missing" in refusal(cut)
    frames, video = video_of(cut, keep_partial=True)
    assert len(frames) == 20 and "their key frame is missing" in video.notes[0]
    assert abs(int(frames[0, 32, 32, 0]) - 100) < 9


def test_a_packet_that_is_missing_is_said(tmp_path):
    whole = write(tmp_path / "a.mkv", numbered(24), *LOSSLESS)
    frames, video = video_of(without(whole, tmp_path / "b.mkv", {7, 8, 15}))
    assert len(frames) == 21 and video.notes == (
        "lacks about 3 of its frames, by its time stamps",)
    assert video_of(whole)[1].notes == ()


def test_a_jump_of_the_pictures_size_is_said(tmp_path):
    for number, side in enumerate((64, 96)):
        write(tmp_path / f"{number}.ts", twins.movie(0, 8, side, side), "-c:v", "mpeg2video")
    (tmp_path / "a.ts").write_bytes(
        (tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    # The decoder still holds the last frame of the old size.
    assert "its picture changes from 64x64 to 96x96 at frame 7" in refusal(tmp_path / "a.ts")
    frames, video = video_of(tmp_path / "a.ts", keep_partial=True)
    assert len(frames) == 7 and "is kept in part: its picture changes" in video.notes[0]


@pytest.mark.parametrize("ending, options", [
    (".mp4", ["-c:v", "libx264", "-bf", "0", "-movflags", "+faststart"]), (".avi", ["-c:v", "mpeg4"]),
    (".webm", ["-c:v", "libvpx-vp9"])])
def test_a_part_is_kept_where_it_is_wanted(ending, options, tmp_path):
    path = write(tmp_path / f"a{ending}", twins.movie(1, 40), *options)
    whole, _ = video_of(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    refusal(path)
    frames, video = video_of(path, keep_partial=True)
    assert 10 < len(frames) < 40 and "is kept in part: " in video.notes[0]
    np.testing.assert_array_equal(frames[:-2], whole[: len(frames) - 2])


def test_words_are_those_of_a_person(tmp_path):
    subprocess.run([FFMPEG, "-v", "error", "-f", "lavfi", "-i", "sine=duration=1",
                    tmp_path / "sound.mp4"], check=True)
    whole = write(tmp_path / "a.mp4", twins.movie(0, 9)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: whole.index(b"moov") - 4])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "picture.mp4").write_bytes(
        write(tmp_path / "picture.png", twins.movie(0, 1), "-frames:v", "1").read_bytes())
    for name, words in {
            "sound.mp4": "holds sound, and no picture", "empty.mp4": "is empty",
            "cut.mp4": "is cut short: its table of contents (moov) is missing"}.items():
        assert refusal(tmp_path / name) == words


def test_frames_that_a_header_promises_are_missed(tmp_path):
    whole = write(tmp_path / "a.mxf", twins.movie(0, 25), "-q:v", "2").read_bytes()
    (tmp_path / "a.mxf").write_bytes(whole[: len(whole) // 2])
    assert "it ends" in refusal(tmp_path / "a.mxf") or "is missing" in refusal(tmp_path / "a.mxf")


# ------------------------------------------------------------------------ what a container tells


def packed(codes, table):
    """The sub-blocks of a GIF's picture of 4 colours: codes, each as wide as the table asks."""
    number = place = 0
    for code, free in zip(codes, table, strict=True):
        number |= int(code) << place
        place += min(12, max(3, free.bit_length()))
    data = number.to_bytes(-(-place // 8), "little")
    blocks = [data[start : start + 255] for start in range(0, len(data), 255)]
    return b"\2" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


@pytest.mark.parametrize("pixels", [6, 4091, 9000])
def test_a_gif_may_fill_its_table_and_keep_it(pixels, tmp_path):
    """Codes that all are pixels: each adds a row to the table, until it is full."""
    rng, path = np.random.default_rng(0), tmp_path / "a.gif"
    frame = rng.integers(0, 4, pixels)
    codes = [4, *frame, 5]
    table = [6, 6, *range(6, 6 + pixels)]  # The next free place in it, as each code is read.
    head = b"GIF89a" + struct.pack("<HHBBB", pixels, 1, 0x81, 0, 0) + bytes(range(12))
    picture = b"," + struct.pack("<HHHHB", 0, 0, pixels, 1, 0)
    path.write_bytes(head + picture + packed(codes, table) + b";")
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image)[0], frame)
    assert containers.look(path) == (None, 1)
    path.write_bytes(head + picture + packed([4, *frame[1:], 5], table[:-1]) + b";")
    assert containers.look(path) == (containers.HOLE, 1)


def test_a_gif_that_lacks_what_lies_between_two_of_its_blocks_is_broken(tmp_path):
    path = write(tmp_path / "a.gif", np.random.default_rng(0).integers(0, 255, (6, 80, 96, 3), np.uint8))
    data, places = path.read_bytes(), []
    for place in (index for index in range(len(data)) if data[index : index + 4] == b"!\xf9\4\4"):
        place += 8 + 10  # The blocks of a picture come behind what is said of it.
        place += 3 * 2 ** ((data[place - 1] & 7) + 1) * (data[place - 1] >> 7) + 1
        places.append(place + 1 + data[place])
    assert len(places) == 6 and len(read(path)) == 6
    path.write_bytes(data[: places[2]] + data[places[3] :])
    assert "lacks a piece" in refusal(path)


@pytest.mark.parametrize("sound", [False, True])
def test_a_wmv_that_lost_a_packet_at_its_end_is_broken(sound, tmp_path):
    path, audio = tmp_path / "a.wmv", ["-f", "lavfi", "-i", "sine=d=2"] if sound else []
    subprocess.run([FFMPEG, "-v", "error", "-f", "lavfi", "-i", "testsrc2=d=2:s=128x96", *audio,
                    str(path)], check=True)
    assert len(read(path)) == 50
    data = bytearray(path.read_bytes())
    start = data.index(containers.ASF_DATA) + 50
    last = start + (struct.unpack("<Q", data[start - 34 : start - 26])[0] - 50) // 3200 * 3200
    data[last - 3200 : last] = bytes(3200)
    path.write_bytes(data)
    assert "lacks a piece" in refusal(path)


@pytest.mark.parametrize("what", ["zeros", "packet"])
def test_a_transport_stream_that_lacks_a_packet_is_broken(what, tmp_path):
    path = write(tmp_path / "a.ts", np.random.default_rng(0).integers(0, 255, (9, 80, 96, 3), np.uint8))
    data, place = path.read_bytes(), 100 * 188
    path.write_bytes(data[:place] + bytes(188) * (what == "zeros") + data[place + 188 :])
    assert "lacks a piece" in refusal(path)
