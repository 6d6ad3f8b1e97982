"""Decodes encoded video into square frames by PyAV, and finds what a damaged file has lost.

reader.py runs this module in a process of its own, since some files crash the decoder.
"""

import os
import re
import struct

import av
import numpy as np

from video_data import containers
from video_data.frames import Broken, Video, crop, fitted
from video_data.timing import actions_beside, checked_actions, on_show

LOCAL = {"protocol_whitelist": "file"}  # A playlist must not open addresses on the network.
BY_NAME = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders drop transparency.
TRANSPARENT = re.compile("rgba|bgra|argb|abgr|yuva|gbrap|ya8|ya16|pal8")
HDR = {16: "PQ", 18: "HLG"}  # Transfer functions, as ITU-T H.273 numbers them.
# Codecs that make one picture of every packet, unless two packets are the fields of one picture.
ONE_TO_ONE = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "ffv1", "mjpeg")
TIMELESS = ("gif", "apng")  # Formats whose pictures may last for any time.
# Streams and pictures without a container: a video file that looks like one has lost its beginning.
RAW = ("m4v", "mjpeg", "mjpeg_2000", "h261", "h263", "h264", "hevc", "vvc", "vc1", "obu", "dirac",
       "cavsvideo", "image2")


def decode(request, sink):
    """Decodes the first video stream of a file: its Video. sink: as that of reader.read.

    Raises Broken where something was lost, unless the request keeps what came before.
    """
    loss, pictures = containers.look(request.path)
    if loss and not request.keep_partial:
        raise Broken(loss)
    try:
        with av.open(f"file:{request.path}", container_options=LOCAL) as container:
            return _Decoding(container, request, sink, pictures, loss).run()
    except av.error.FFmpegError as error:
        raise Broken(_in_words(error, request.path)) from None


def estimate_frames(path, fps):
    """About how many frames a file has, by its header or else by its packets."""
    with av.open(f"file:{path}", container_options=LOCAL) as container:
        stream = _stream_of(container)
        rate = fps or stream.average_rate
        if rate and container.duration:
            return round(container.duration / av.time_base * rate)
        return stream.frames or sum(packet.size > 0 for packet in container.demux(stream))


def _stream_of(container):
    known = container.format.name
    if known in RAW or known.endswith("_pipe") and known != "yuv4mpegpipe":
        raise Broken("is no video that the decoder knows, or is damaged at its beginning")
    streams = [stream for stream in container.streams.video
               if not stream.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise Broken("holds sound, and no picture" if container.streams.audio else "holds no picture")
    if streams[0].codec_context is None:
        raise Broken("uses a codec that the decoder does not know")
    return streams[0]


def _in_words(error, path):
    """Says in plain words why a file could not be opened or read."""
    size = os.path.getsize(path)
    if not size:
        return "is empty"
    if not isinstance(error, av.error.InvalidDataError):
        return (error.strerror or str(error)).rstrip(".")
    with open(path, "rb") as file:
        if file.read(12)[4:8] == b"ftyp" and b"moov" not in _atoms(file, size):
            return "is cut short: its table of contents (moov) is missing"
    return "is no video that the decoder knows, or is damaged at its beginning"


def _atoms(file, size):
    """The names of the outermost boxes of an mp4 or mov file."""
    names, place = [], 0
    while place + 8 <= size:
        file.seek(place)
        length, name, extended = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        names.append(name)
        length = {0: size, 1: extended}.get(length, length)
        if length < 8:
            break
        place += length
    return names


def _turn(frame):
    """How a frame is to be turned, by its metadata: (swap rows and columns, mirror x, mirror y)."""
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if abs(b) > abs(a):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


class _Decoding:
    """One pass over a file."""

    def __init__(self, container, request, sink, pictures, loss):
        self._container, self._request, self._sink = container, request, sink
        self._form, self._pictures = request.form, pictures
        self._stream = _stream_of(container)
        self._codec_name, self._context = self._stream.codec_context.name, self._codec()
        self._graphs, self._size = {}, None
        self._losses, self._notes = [loss] if loss else [], []
        self._packets, self._spans, self._frames, self._hidden, self._fields = 0, [], 0, 0, 0
        self._end = 0  # Of the last packet, in bytes.

    def _codec(self):
        stream = self._stream
        context = stream.codec_context
        if stream.metadata.get("alpha_mode") == "1" and context.name in BY_NAME:
            context = av.CodecContext.create(BY_NAME[context.name], "r")
            context.extradata = stream.codec_context.extradata
        context.thread_type, context.thread_count = "AUTO", self._request.threads
        return context

    def run(self):
        shown = []
        for index, (frame, turn), times in on_show(self._whole(), self._form.fps):
            pixels = self._square(frame, turn)
            shown += [index] * times
            for _ in range(times):
                self._sink.frames(pixels)
        self._look_for_losses()
        if self._losses and not (self._request.keep_partial and shown):
            raise Broken(self._losses[0])
        if not shown:
            raise Broken("holds no frames")
        rate = self._stream.average_rate
        notes = [f"is kept in part: {loss}" for loss in self._losses[:1]] + self._notes
        kept = None if self._form.fps is None else (np.array(shown), self._frames)
        actions = checked_actions(
            actions_beside(self._request.path), len(shown), kept, self._request.onehot)
        return Video("", len(shown), *self._size, rate and float(rate), *actions, tuple(notes))

    # --------------------------------------------------------------------------- packets and frames

    def _lose(self, loss):
        """Notes a loss. Raises Broken unless the frames before it are wanted."""
        self._losses.append(loss)
        if not self._request.keep_partial:
            raise Broken(loss)

    def _decoded(self):
        """Yields the frames up to the first that is damaged."""
        unseen = 0
        try:
            for packet in self._container.demux(self._stream):
                self._sink.alive()
                if packet.size:
                    if packet.is_corrupt:
                        return self._lose(f"a part of it is missing after frame {self._frames}")
                    self._count(packet)
                    if not (self._frames or packet.is_keyframe or self._packets > unseen + 1):
                        unseen += 1
                        continue
                yield from self._context.decode(packet if packet.size else None)
        except av.error.EOFError:
            pass
        except av.error.FFmpegError as error:
            if isinstance(error, av.error.MemoryError):
                raise MemoryError from None
            return self._lose(f"it does not decode after frame {self._frames}: it is corrupt there")
        finally:
            if unseen and not self._losses:
                self._lose(f"the first {unseen} of its pictures cannot be decoded: "
                           "their key frame is missing")

    def _count(self, packet):
        self._packets += 1
        self._end = (packet.pos or 0) + packet.size
        if packet.is_discard or self._codec_name == "vp8" and not bytes(packet)[0] & 16:
            self._hidden += 1
        if packet.pts is not None:
            self._spans.append((packet.pts, packet.duration or 0))

    def _whole(self):
        """Yields (start, end, (frame, how it is turned)) up to the first loss.

        start, end: in seconds; None without form.fps, or where they are unknown.
        """
        base, rate = self._stream.time_base, self._stream.average_rate
        for frame in self._decoded():
            if frame.is_corrupt:
                return self._lose(f"its frame {self._frames} is corrupt")
            turn = _turn(frame)
            size = (frame.width, frame.height) if turn[0] else (frame.height, frame.width)  # As shown.
            if size != (self._size or size):
                return self._lose("its picture changes from {1}x{0} to {3}x{2} at frame {4}".format(
                    *self._size, *size, self._frames))
            if self._size is None and frame.color_trc in HDR:
                self._notes.append(f"has HDR colours ({HDR[frame.color_trc]}), which are read "
                                   "without tone mapping")
            self._size = size
            start = end = None
            if self._form.fps:
                stamp = frame.dts if frame.pts is None else frame.pts
                if stamp is not None and base:
                    start = stamp * base
                elif rate:
                    start = self._frames / rate
                lasts = frame.duration * base if frame.duration and base else 1 / rate if rate else 0
                end = None if start is None else start + lasts
            self._frames += 1
            self._fields += frame.interlaced_frame
            yield start, end, (frame, turn)
        return None

    # --------------------------------------------------------------------------------------- pixels

    def _square(self, frame, turn):
        """Converts a frame to uint8 form.shape."""
        key = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range, turn)
        if key not in self._graphs:
            self._graphs[key] = self._graph(*key)
        frame.pts = None  # The graph needs no times, and equal ones would disturb it.
        graph = self._graphs[key]
        graph.push(frame)
        return graph.pull().to_ndarray().reshape(self._form.shape)

    def _graph(self, pixels, width, height, space, span, turn):
        graph = av.filter.Graph()
        graph.threads = self._request.threads
        source = graph.add("buffer", f"video_size={width}x{height}:pix_fmt={pixels}:time_base=1/1:"
                                     f"pixel_aspect=1/1:colorspace={int(space)}:range={int(span)}")
        steps = [graph.add(*step) for step in self._steps(pixels, width, height, turn)]
        graph.link_nodes(source, *steps, graph.add("buffersink")).configure()
        return graph

    def _steps(self, pixels, width, height, turn):
        """Yields (name, arguments) of the filters of ffmpeg that do what convert.convert does."""
        form = self._form
        swapped, flip_x, flip_y = turn
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if not 1 / 16 < aspect < 16:
            aspect = 1.0
        if swapped:
            yield "transpose", "cclock_flip"
            width, height, aspect = height, width, 1 / aspect
        if flip_x:
            yield ("hflip",)
        if flip_y:
            yield ("vflip",)
        if TRANSPARENT.match(pixels):
            yield "format", "gbrap"
            yield "premultiply", "inplace=1"
        top, left, kept_rows, kept_columns = crop(height, width, aspect, form.fit)
        yield "crop", f"{kept_columns}:{kept_rows}:{left}:{top}:exact=1"
        rows, columns = fitted(height, width, aspect, form)
        yield "scale", f"{columns}:{rows}:flags=area+accurate_rnd+full_chroma_int+full_chroma_inp"
        yield "format", "gray" if form.channels == 1 else "rgb24"
        if form.fit == "pad":
            yield "pad", (f"{form.size}:{form.size}:{(form.size - columns) // 2}:"
                          f"{(form.size - rows) // 2}")

    # --------------------------------------------------------------------------------------- losses

    def _look_for_losses(self):
        """Compares the decoded frames with those that the header and the packets promised."""
        if self._losses:
            return
        stream, known = self._stream, self._container.format.name
        if known == "yuv4mpegpipe" and self._container.size != self._end:  # A cut picture is no packet.
            self._lose(containers.CUT)
        declared = stream.frames if known.startswith("mov") else self._pictures or 0
        if self._packets < declared:
            self._lose(f"it declares {declared} frames, but {self._packets} are there")
        expected = self._packets - self._hidden
        one_to_one = self._codec_name in ONE_TO_ONE and not self._fields
        if one_to_one and self._frames < expected:
            self._lose(f"only {self._frames} of its {expected} pictures can be decoded")
        missing = self._missing_at_the_end(known)
        if missing:
            self._lose(f"it ends {missing:.2g} s before the time that its header declares")
        gaps = self._gaps() if known not in TIMELESS else 0
        if gaps:
            self._notes.append(f"lacks about {gaps} of its frames, by its time stamps")

    def _missing_at_the_end(self, known):
        """Seconds by which the header's duration exceeds the frames'; 0 up to 0.3 s or three frames."""
        spans, base = self._spans, self._stream.time_base
        if not spans or not base:
            return 0
        length = float((max(start + lasts for start, lasts in spans) - min(spans)[0]) * base)
        if known in ("avi", "mxf") and self._stream.duration:
            declared = float(self._stream.duration * base)
        elif known.startswith(("matroska", "flv", "asf")) and len(self._container.streams) == 1:
            declared = (self._container.duration or 0) / av.time_base
        else:
            return 0
        missing = declared - length
        return missing if missing > max(0.3, 3 * length / len(spans)) else 0

    def _gaps(self):
        """How many frames the time stamps skip; 0 unless nearly all of them are evenly spaced."""
        apart = np.diff(np.sort([start for start, _ in self._spans]))
        if len(apart) < 5:
            return 0
        usual = np.median(apart)
        if not usual or np.mean(np.abs(apart - usual) <= 0.2 * usual) < 0.9:
            return 0
        return int(np.sum(np.maximum(0, np.rint(apart[apart > 1.5 * usual] / usual) - 1)))
