"""Reading of single files: every kind gives the same square frames, or is broken and says why."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import zipfile

import h5py
import imageio_ffmpeg
import numpy as np
import pytest
import twins
from PIL import Image

from video_data import files, videos

ROOT = pathlib.Path(__file__).resolve().parents[1]
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
CODECS = {".y4m": ["-pix_fmt", "yuv420p"], ".mxf": ["-q:v", "2"],
          ".mts": ["-f", "mpegts"], ".vob": ["-f", "vob"], ".asf": ["-c:v", "wmv2", "-q:v", "2"],
          ".webm": ["-c:v", "libvpx-vp9"], ".ogv": ["-c:v", "libtheora", "-q:v", "8"],
          ".3gp": ["-c:v", "mpeg4", "-q:v", "2"], ".wmv": ["-c:v", "wmv2", "-q:v", "2"],
          ".webp": ["-c:v", "libwebp_anim"], ".apng": ["-f", "apng"]}
READERS, READER = videos.Readers(), videos.READER
LOSSLESS = ["-c:v", "ffv1", "-pix_fmt", "gbrp"]


def ffmpeg(*arguments, **run):
    subprocess.run([FFMPEG, "-v", "error", "-y", *map(str, arguments)], check=True, **run)


def write(path, frames, *options, fps=25):
    """Encodes uint8 [T, H, W, 3 or 4] by the ending of the path, or by ffmpeg's options."""
    pixels = "rgba" if frames.shape[-1] == 4 else "rgb24"
    ffmpeg("-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{frames.shape[2]}x{frames.shape[1]}", "-r", fps,
           "-i", "-", *(options or CODECS.get(path.suffix, [])), path, input=frames.tobytes())
    return path


def read(path, **form):
    """The frames of a file that holds one video."""
    frames, (video,) = videos.read(str(path), videos.Form(**form), readers=READERS)
    assert frames.dtype == np.uint8 and video.part == "" and video.length == len(frames)
    return frames


def area_resized(frames, size=64):
    """The square in the middle of frames, enlarged by `size` and then averaged over each pixel."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 4 * 2, (width - side) // 4 * 2
    square = frames[:, top : top + side, left : left + side].astype(float)
    for axis in (1, 2):
        covers = np.repeat(np.eye(side), size, axis=1).reshape(side, size, side).sum(2).T / side
        square = np.moveaxis(np.tensordot(covers, square, (1, axis)), 0, axis)
    return square


def distance(one, other):
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("ending", files.ENCODED)
def test_every_frame_of_every_kind_of_file_comes_once_and_a_cut_file_is_broken(ending, tmp_path):
    frames = twins.movie(3, 25, 96, 144)
    path = write(tmp_path / f"a{ending}", frames)
    assert files.is_video(str(path))
    seen = read(path)
    assert seen.shape == (25, 64, 64, 3) and distance(seen, area_resized(frames)) < 7
    _, (video,) = videos.read(str(path), videos.Form(), readers=READERS)
    assert (video.height, video.width, video.fps) == (96, 144, None if ending == ".ogv" else 25)
    whole = path.read_bytes()
    for share in (0.4, 0.6):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(videos.Broken):
            read(path)


def test_the_content_picks_the_reader(tmp_path):
    frames = twins.movie(0, 5)
    os.link(write(tmp_path / "c.gif", frames), tmp_path / "a.mp4")
    np.save(tmp_path / "b.npy", frames)
    (tmp_path / "b.npy").rename(tmp_path / "b.avi")
    assert distance(read(tmp_path / "a.mp4"), read(tmp_path / "c.gif")) == 0
    np.testing.assert_array_equal(read(tmp_path / "b.avi"), frames)


def test_a_gif_without_its_end_is_broken(tmp_path):
    """A file whose last frame is cut, although no decoder notices."""
    whole = write(tmp_path / "a.gif", twins.movie(0, 9)).read_bytes()
    (tmp_path / "a.gif").write_bytes(whole[:-1])
    with pytest.raises(videos.Broken, match="cut short"):
        read(tmp_path / "a.gif")


def fake_reader(tmp_path, monkeypatch, program):
    """Replaces the readers by a program in Python, which answers on `connection`."""
    path = tmp_path / "fake.py"
    path.write_text("import multiprocessing.connection, os, signal, sys, time\n"
                    "connection = multiprocessing.connection.Connection(int(sys.argv[1]))\n"
                    f"{program}\n")
    monkeypatch.setattr(videos, "READER", [sys.executable, str(path)])


def test_junk_behind_the_end_is_no_loss(tmp_path):
    write(tmp_path / "a.mp4", twins.movie(0, 5))
    with open(tmp_path / "a.mp4", "ab") as file:
        file.write(b"junk after the end" * 9)
    assert len(read(tmp_path / "a.mp4")) == 5


def test_a_reader_that_stalls_is_ended_and_the_next_file_is_read(tmp_path, monkeypatch):
    write(tmp_path / "a.mp4", twins.movie(0, 5))
    with monkeypatch.context() as patched, videos.Readers() as readers:
        patched.setattr(videos, "STALL", 3)
        fake_reader(tmp_path, patched, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
                                       "connection.recv_bytes()\ntime.sleep(99)")
        with pytest.raises(videos.Broken, match=r"gave no frame for 3 s"):
            videos.read(str(tmp_path / "a.mp4"), videos.Form(), readers=readers)
        patched.setattr(videos, "STALL", 60)
        patched.setattr(videos, "READER", READER)
        assert len(videos.read(str(tmp_path / "a.mp4"), videos.Form(), readers=readers)[0]) == 5
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_crash_is_the_files_fault_and_what_else_ends_a_reader_is_not(tmp_path, monkeypatch):
    write(tmp_path / "a.mp4", twins.movie(0, 5))
    for number, again in ((signal.SIGSEGV, False), (signal.SIGKILL, True)):
        fake_reader(tmp_path, monkeypatch, f"connection.recv_bytes()\nos.kill(os.getpid(), {number:d})")
        with pytest.raises(videos.Broken, match=number.name) as broken:
            videos.read(str(tmp_path / "a.mp4"), videos.Form())
        assert broken.value.again == again
    fake_reader(tmp_path, monkeypatch, "raise ImportError('no decoder here')")
    with pytest.raises(RuntimeError, match="ended with code 1: ImportError: no decoder here"):
        videos.read(str(tmp_path / "a.mp4"), videos.Form())


def test_a_reader_ends_with_the_process_that_started_it(tmp_path):
    program = ("from video_data import videos\n"
               "readers = videos.Readers()\n"
               f"videos.read({str(tmp_path / 'a.npy')!r}, videos.Form(), readers=readers)\n"
               "import os, subprocess\n"
               "print(subprocess.run(['ps', '-o', 'pid=', '--ppid', str(os.getpid())], text=True,\n"
               "                     capture_output=True).stdout.split()[0], flush=True)\n"
               "os.kill(os.getpid(), 9)")
    np.save(tmp_path / "a.npy", twins.movie(0, 5))
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True)
    reader, deadline = int(said.stdout.split()[-1]), time.monotonic() + 20
    while os.path.exists(f"/proc/{reader}") and "Z" not in status_of(reader):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def status_of(process):
    with contextlib.suppress(FileNotFoundError), open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
    return "Z"


def test_no_program_on_the_path_is_needed(tmp_path, monkeypatch):
    write(tmp_path / "a.mp4", twins.movie(0, 5))
    monkeypatch.setenv("PATH", "")
    assert len(read(tmp_path / "a.mp4")) == 5


def test_only_local_files_are_opened(tmp_path):
    asked = []
    (tmp_path / "host").mkdir()
    with twins.serve(tmp_path / "host", asked) as url:
        for text in (f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
                     f"ffconcat version 1.0\nfile '{url}/a.mp4'\n"):
            (tmp_path / "a.mp4").write_text(text)
            with pytest.raises(videos.Broken):
                read(tmp_path / "a.mp4")
    assert not asked


def test_what_is_no_regular_file_is_broken(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nothing.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mov").write_text("not a video")
    for name, reason in {"fifo.mp4": "is no regular file", "link.mp4": "is a link to nothing",
                         "gone.mp4": "No such file", "empty.mp4": "^is empty$",
                         "text.mov": "^is no video that the decoder knows"}.items():
        with pytest.raises(videos.Broken, match=reason):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["a b.mp4", "[a].mp4", "*.mp4", "%03d.mp4", "a:b.mp4", "-i.mp4", "é.mp4"])
def test_odd_names_are_names(name, tmp_path):
    write(tmp_path / "plain.mp4", twins.movie(0, 5)).rename(tmp_path / name)
    assert len(read(tmp_path / name)) == 5


# ----------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("height, width", [(65, 131), (66, 64), (101, 64), (200, 120), (40, 30)])
def test_a_file_gives_the_frames_of_its_array(height, width, tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (3, height // 2 + 1, width // 2 + 1, 3), np.uint8)
    frames = frames.repeat(2, 1).repeat(2, 2)[:, :height, :width]
    np.save(tmp_path / "a.npy", frames)
    write(tmp_path / "a.mkv", frames, *LOSSLESS)
    for form in (dict(), dict(size=32, fit="pad"), dict(size=128, fit="stretch"), dict(channels=1)):
        array, file = (read(tmp_path / name, **form).astype(int) for name in ("a.npy", "a.mkv"))
        assert np.abs(array - file).max() <= 3 and distance(array, file) < 0.7, form


@pytest.mark.parametrize("height, width", [(66, 64), (64, 70)])
def test_video_with_one_colour_for_four_pixels_is_cropped_alike(height, width, tmp_path):
    frames = np.zeros([3, height, width, 3], np.uint8)
    frames[:, 1::2], frames[:, :, 1::4] = 80, 160
    np.save(tmp_path / "a.npy", frames)
    write(tmp_path / "a.mp4", frames, "-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p")
    array, file = (read(tmp_path / name, channels=1).astype(int) for name in ("a.npy", "a.mp4"))
    assert np.abs(array - file).max() <= 3


def test_area_resizing_is_exact_for_arrays(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 100, 130, 3), np.uint8)
    np.save(tmp_path / "a.npy", frames)
    for size in (32, 64):
        assert np.abs(read(tmp_path / "a.npy", size=size) - area_resized(frames, size)).max() <= 0.501


def test_what_is_enlarged_is_interpolated(tmp_path):
    np.save(tmp_path / "a.npy", np.broadcast_to(np.arange(0, 256, 8, np.uint8), [2, 32, 32]))
    seen = read(tmp_path / "a.npy", channels=1)[0, 0, :, 0]
    # Pixel i of 64 lies at (i + 0.5) / 2 - 0.5 of 32; beyond the outer centres, nothing changes.
    np.testing.assert_array_equal(seen, np.clip(4 * np.arange(64) - 2, 0, 248))


def test_pad_keeps_the_whole_frame_on_black_and_stretch_fills_the_square(tmp_path):
    np.save(tmp_path / "a.npy", np.full([2, 50, 100, 3], 200, np.uint8))
    padded = read(tmp_path / "a.npy", fit="pad")
    assert (padded[:, 16:48] == 200).all() and not padded[:, :16].any() and not padded[:, 48:].any()
    assert (read(tmp_path / "a.npy", fit="stretch") == 200).all()


def test_rotation_is_by_the_metadata(tmp_path):
    frames = twins.movie(1, 6, 64, 64)
    write(tmp_path / "a.mkv", frames, "-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv444p")
    for degrees, turns in ((90, 1), (180, 2), (270, 3)):
        ffmpeg("-display_rotation", degrees, "-i", tmp_path / "a.mkv", "-c", "copy", tmp_path / "b.mov")
        assert distance(read(tmp_path / "b.mov"), np.rot90(frames, turns, (1, 2))) < 3
    (tmp_path / "images").mkdir()
    for number, frame in enumerate(frames):
        exif = Image.Exif()
        exif[0x0112] = 6  # To be turned by 90 degrees, clockwise.
        Image.fromarray(frame).save(tmp_path / "images" / f"{number}.jpg", exif=exif, quality=95)
    assert distance(read(tmp_path / "images"), np.rot90(frames, 3, (1, 2))) < 3


def test_alpha_is_blended_on_black_whatever_the_file(tmp_path):
    frames = np.concatenate([twins.movie(0, 4, 100, 100), np.zeros([4, 100, 100, 1], np.uint8)], -1)
    frames[:, :, :50, 3] = 255  # The rest is white, and not to be seen.
    frames[:, :, 50:, :3] = 255
    expected = area_resized(frames[..., :3] * (frames[..., 3:] / 255.0))
    np.save(tmp_path / "a.npy", frames)
    (tmp_path / "images").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "images" / f"{number}.png")
    write(tmp_path / "a.apng", frames, "-f", "apng", "-pix_fmt", "rgba")
    write(tmp_path / "a.mov", frames, "-c:v", "qtrle", "-pix_fmt", "argb")
    write(tmp_path / "a.webp", frames, "-c:v", "libwebp_anim", "-lossless", "1", "-pix_fmt", "bgra")
    Image.fromarray(frames[0]).save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(f) for f in frames[1:]])
    for name in ("a.npy", "images", "a.apng", "a.mov", "a.webp"):
        assert np.abs(read(tmp_path / name) - expected).max() < 4, name
    assert not read(tmp_path / "a.gif")[:, :, 34:].any()


@pytest.mark.parametrize("kept, channels", [(1, 3), (3, 1), (4, 3), (4, 1)])
def test_channels_are_converted(tmp_path, kept, channels):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (4, 64, 64, kept), np.uint8)
    np.save(tmp_path / "a.npy", frames)
    seen = read(tmp_path / "a.npy", channels=channels)
    colour = np.repeat(frames, 3, axis=-1) if kept == 1 else frames[..., :3].astype(float)
    colour = colour * frames[..., 3:] / 255 if kept == 4 else colour
    expected = colour if channels == 3 else colour @ np.array([[0.299], [0.587], [0.114]])
    assert np.abs(seen - expected).max() <= 0.501


# ----------------------------------------------------------------------------------- images, arrays


def save_images(folder, frames, form="{}.png"):
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / form.format(number))


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp"])
def test_a_folder_of_images_is_a_video_in_the_order_of_numbers(ending, tmp_path):
    frames = twins.movie(0, 12)
    save_images(tmp_path / "a", frames, f"frame {{}}.{ending}")
    (tmp_path / "a" / f"cover.{ending}").write_text("no image, but without a number")
    assert distance(read(tmp_path / "a"), frames) < 6
    names = [os.path.basename(path) for path in files.pictures_of(str(tmp_path / "a"))]
    assert names == [f"frame {number}.{ending}" for number in range(12)]


def test_images_of_many_modes(tmp_path):
    grey = twins.movie(0, 1)[0, :, :, 0]
    for name in "ab":
        (tmp_path / name).mkdir()
    Image.fromarray(grey).save(tmp_path / "a" / "1.png")
    Image.fromarray(grey).convert("RGB").quantize(256).save(tmp_path / "a" / "2.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a" / "3.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "b" / "4.tif")
    Image.fromarray(grey).convert("CMYK").save(tmp_path / "b" / "5.tif")
    for name, count in (("a", 3), ("b", 2)):
        frames = read(tmp_path / name, channels=1)[..., 0].astype(int)
        assert len(frames) == count and np.abs(frames - grey).max() <= 2


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    save_images(tmp_path / "a", twins.movie(0, 3))
    whole = (tmp_path / "a" / "1.png").read_bytes()
    (tmp_path / "a" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(videos.Broken, match=r"^1.png: "):
        read(tmp_path / "a")


@pytest.mark.parametrize("scaled", [
    lambda x: x.astype(np.uint16) * 257, lambda x: x / 255, lambda x: (x / 255).astype(np.float16)])
def test_arrays_of_other_types(scaled, tmp_path):
    frames = twins.movie(0, 5, 70, 70)
    np.save(tmp_path / "a.npy", scaled(frames))
    np.save(tmp_path / "b.npy", frames)
    assert np.abs(read(tmp_path / "a.npy").astype(int) - read(tmp_path / "b.npy")).max() <= 1


def test_arrays_of_any_shape(tmp_path):
    frames = twins.movie(0, 6)
    np.save(tmp_path / "a.npy", frames[..., 0])
    np.testing.assert_array_equal(read(tmp_path / "a.npy", channels=1), frames[..., :1])
    np.save(tmp_path / "b.npy", np.asfortranarray(frames))
    np.testing.assert_array_equal(read(tmp_path / "b.npy"), frames)
    np.savez(tmp_path / "c.npz", video=np.asfortranarray(frames), label=[1, 2])
    np.testing.assert_array_equal(read(tmp_path / "c.npz"), frames)
    np.savez_compressed(tmp_path / "d.npz", frames=frames, labels=np.arange(6))
    np.testing.assert_array_equal(read(tmp_path / "d.npz"), frames)
    several = np.stack([frames, frames[::-1]])
    np.savez(tmp_path / "e.npz", video=several)
    every, found = videos.read(str(tmp_path / "e.npz"), videos.Form())
    np.testing.assert_array_equal(every, several.reshape(-1, 64, 64, 3))
    assert [(video.part, video.length) for video in found] == [("[0]", 6), ("[1]", 6)]


def test_hdf5_holds_many_videos_in_one_dataset_or_a_dataset_each(tmp_path):
    one, other = twins.movie(0, 6), twins.movie(1, 9)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"], file["label"] = np.stack([one, one[::-1]]), [1, 2]
    every, found = videos.read(str(tmp_path / "a.h5"), videos.Form())
    np.testing.assert_array_equal(every, np.concatenate([one, one[::-1]]))
    assert [video.part for video in found] == ["[0]", "[1]"]
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        for name, video in (("clips/first", one), ("clips/second", other)):
            file.create_dataset(name, data=video, compression="gzip")
        file["clips/names"] = ["first", "second"]
    every, found = videos.read(str(tmp_path / "b.hdf5"), videos.Form())
    np.testing.assert_array_equal(every, np.concatenate([one, other]))
    assert [(video.part, video.length) for video in found] == [(":clips/first", 6), (":clips/second", 9)]


BAD_ARRAYS = {
    "shape.npy": (np.zeros([3, 4], np.uint8), r"has the shape \[3, 4\]"),
    "colours.npy": (np.zeros([3, 4, 5, 7], np.uint8), r"has the shape \[3, 4, 5, 7\]"),
    "range.npy": (np.full([3, 64, 64, 1], 7.5), "from 7.5 to 7.5, but 1 must be white; save video /"),
    "nan.npy": (np.full([3, 64, 64, 1], np.nan), "holds floats from nan to nan"),
    "late.npy": (np.repeat([0.5, -1], [300, 1])[:, None, None] * np.ones([1, 64, 64]), "from -1 to"),
    "ints.npy": (np.zeros([3, 64, 64, 1], np.int64), "holds int64, not uint8, uint16 or floats"),
    "none.npy": (np.zeros([0, 64, 64, 1], np.uint8), "is empty"),
}


def test_arrays_that_are_no_video_say_why(tmp_path):
    for name, (array, reason) in BAD_ARRAYS.items():
        np.save(tmp_path / name, array)
        with pytest.raises(videos.Broken, match=reason):
            read(tmp_path / name)
    objects = np.array([{"a": 1}, None])
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    frames = twins.movie(0, 4)
    np.savez(tmp_path / "keys.npz", a=[1], b=[2])
    np.savez(tmp_path / "several.npz", a=frames, b=frames)
    np.savez(tmp_path / "strings.npz", video=np.array(["a", "b"]))
    np.savez_compressed(tmp_path / "flipped.npz", video=frames)
    whole = bytearray((tmp_path / "flipped.npz").read_bytes())
    whole[len(whole) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(whole)
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4")
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file["label"] = [1, 2]
        file["other"] = [1, 2]
    with h5py.File(tmp_path / "cut.h5", "w") as file:
        file["video"] = frames
    os.truncate(tmp_path / "cut.h5", 5000)
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as file:
        file.writestr("readme.txt", "no array")
    for name, reason in {
            "objects.npy": "allow_pickle|object", "keys.npz": "holds a, b; none", "cut.npz": "zip",
            "several.npz": "holds a, b; one of several must be named video",
            "strings.npz": r"has the shape \[2\]", "flipped.npz": ".",
            "none.h5": "holds label, other; none",
            "cut.h5": ".", "other.npz": "holds nothing"}.items():
        with pytest.raises(videos.Broken, match=reason):
            read(tmp_path / name)


# ----------------------------------------------------------------------------------- time and actions


def numbered(count):
    """Frames that show their number t: all their pixels are 10 t."""
    values = 10 * np.arange(count, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], [count, 64, 64, 3])


def variable_rate(path, times):
    """Writes frames that show their numbers into an mkv, at times in milliseconds."""
    frames = numbered(len(times))
    write(path.with_suffix(".all.mkv"), frames, *LOSSLESS, fps=1000)
    expression = "+".join(f"eq(N,{number})*{time}" for number, time in enumerate(times))
    ffmpeg("-i", path.with_suffix(".all.mkv"), "-vf", f"settb=1/1000,setpts='{expression}'", *LOSSLESS,
           "-fps_mode", "passthrough", "-enc_time_base", "1/1000", path)
    return path


def test_every_frame_comes_once_whatever_its_duration(tmp_path):
    path = variable_rate(tmp_path / "a.mkv", [0, 20, 520, 540, 1000, 2000])
    np.testing.assert_array_equal(read(path)[:, 0, 0, 0], [0, 10, 20, 30, 40, 50])


def test_fps_resamples_by_time_stamps_and_sums_actions(tmp_path):
    # 10 a second show the frames of 0, 100, ... ms; each time stamp is rounded to the nearest of these.
    path = variable_rate(tmp_path / "a.mkv", [0, 30, 110, 120, 400, 490])
    actions = np.array([[1, 0], [2, 0], [4, 0], [8, 0], [16, 0], [32, 1]])
    np.save(tmp_path / "a.actions.npy", actions)
    frames, (video,) = videos.read(str(path), videos.Form(fps=10))
    shown = frames[:, 0, 0, 0] // 10
    np.testing.assert_array_equal(shown[:6], [1, 3, 3, 3, 4, 5])
    assert (shown[6:] == 5).all() and len(shown) <= 7
    # Row t leads from the frame shown at t to the next one shown: frame 0 is never shown.
    np.testing.assert_array_equal(video.actions[:6, 0], [2 + 4, 0, 0, 8, 16, 32])
    assert video.actions.shape == (len(frames), 2) and video.refused is None
    np.testing.assert_array_equal(video.actions.sum(0), actions[1:].sum(0))


@pytest.mark.parametrize("fps, expected", [(10, None), (40, [0, 0, 1, 1]), (20, [0, 1, 2, 3])])
def test_fps_of_a_constant_rate(fps, expected, tmp_path):
    write(tmp_path / "a.mkv", numbered(8), *LOSSLESS, fps=20)
    np.save(tmp_path / "a.actions.npy", np.arange(8.0))
    frames, (video,) = videos.read(str(tmp_path / "a.mkv"), videos.Form(fps=fps))
    shown = frames[:, 0, 0, 0] // 10
    if fps == 10:  # Half way between two: rounded up.
        assert len(frames) == 4 and (np.diff(shown) == 2).all()
    else:
        np.testing.assert_array_equal(shown[:4], expected)
    led = [sum(range(first, then)) for first, then in zip(shown, [*shown[1:], 8], strict=True)]
    np.testing.assert_array_equal(video.actions[:, 0], led)
    assert video.fps == 20


def test_actions_are_beside_or_inside(tmp_path):
    frames, actions = twins.movie(0, 6), np.arange(12.0).reshape(6, 2)
    write(tmp_path / "a.mp4", frames)
    np.save(tmp_path / "a.actions.npy", actions)
    np.savez(tmp_path / "b.npz", video=frames, actions=actions.astype(np.int8))
    np.savez(tmp_path / "c.npz", video=np.stack([frames] * 2), actions=np.stack([actions, -actions]))
    save_images(tmp_path / "d", frames)
    np.save(tmp_path / "d.actions.npy", actions)
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["one/video"], file["one/actions"] = frames, actions
        file["two/video"], file["two/actions"] = frames, -actions
    signs = {"a.mp4": [1], "b.npz": [1], "c.npz": [1, -1], "d": [1], "e.h5": [1, -1]}
    for name, expected in signs.items():
        _, found = videos.read(str(tmp_path / name), videos.Form())
        for video, sign in zip(found, expected, strict=True):
            assert video.actions.dtype == np.float32 and video.refused is None
            np.testing.assert_array_equal(video.actions, sign * actions)
    assert not files.is_video("a.actions.npy")


@pytest.mark.parametrize("actions, reason", [
    (np.zeros([5, 2]), "it has 5 actions for 6 frames"), (np.full([6, 2], np.nan), "are not finite"),
    (np.zeros([6, 2, 2]), "not numbers"), (np.array(["left"] * 6), "not numbers"),
    (None, "a.actions.npy: ")])
def test_actions_that_do_not_fit_leave_the_video_and_say_why(actions, reason, tmp_path):
    write(tmp_path / "a.mp4", twins.movie(0, 6))
    if actions is None:
        (tmp_path / "a.actions.npy").write_text("no array")
    else:
        np.save(tmp_path / "a.actions.npy", actions)
    frames, (video,) = videos.read(str(tmp_path / "a.mp4"), videos.Form())
    assert len(frames) == 6 and video.actions is None and reason in video.refused


# ------------------------------------------------------------------------------------------- threads


def test_work_in_parallel_uses_every_core_and_begins_little_beforehand(monkeypatch):
    monkeypatch.setattr(videos, "CORES", 3)
    barrier, begun = threading.Barrier(3, timeout=10), []

    def work(item):
        begun.append(item)
        barrier.wait()  # Passes when three work at the same time.
        return item**2

    seen = dict(videos.in_parallel(work, range(9)))
    assert seen == {item: item**2 for item in range(9)}
    barrier, begun[:] = threading.Barrier(1), []
    for done, _ in enumerate(videos.in_parallel(work, range(50))):
        assert len(begun) <= done + 1 + 6
    with pytest.raises(ZeroDivisionError):
        list(videos.in_parallel(lambda item: 1 // item, range(5)))
