"""Pictures of videos: grids and animations.

Videos are [..., T, H, W, C] with C 1 or 3, uint8 or float in [0, 1]; floats outside are clipped.
"""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.util import tensor_util

from pixels import to_uint8

CONTEXT_RGB, PREDICTED_RGB = (0, 114, 178), (213, 94, 0)  # charts.BLUE, charts.VERMILLION

FPS = 12.5  # A GIF gives durations in hundredths of a second: a frame takes 8.
GAP, SEPARATOR = 128, 2  # the grey between pictures, and how many pixels of it
WEBP_PIXELS = 2**14 - 1  # the most that a side of a WebP picture may have
PALETTE_FRAMES = 16  # The colours of a GIF come from so many of its frames.


def to_image(pixels):
    """[H, W, C] uint8 -> a PIL image, grey or colour."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


# -------------------------------------------------------------------------------------------- grids


def save_grid(path, video, columns=50):
    """Writes every frame of a video [T, H, W, C] into one PNG, `columns` a row."""
    # Level 3 takes half the time of the default, and 6 % more bytes.
    to_image(frame_grid(to_uint8(video), columns)).save(path, compress_level=3)


def frame_grid(video, columns):
    """[T, H, W, C] -> [rows H, columns W, C]. Black frames fill the last row up."""
    frames, height, width, channels = video.shape
    columns = min(columns, frames)
    rows = -(-frames // columns)
    video = np.pad(video, [(0, rows * columns - frames), (0, 0), (0, 0), (0, 0)])
    video = video.reshape(rows, columns, height, width, channels)
    return video.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


# --------------------------------------------------------------------------------------------- GIFs


def encode_gif(frames, fps=FPS):
    """The bytes of a GIF that loops for ever, from frames [T, H, W, C].

    Grey frames keep all 256 greys, or 254 greys if they have coloured borders. All frames of a colour
    video share 256 colours.
    """
    frames = to_uint8(frames)
    if frames.shape[-1] == 1:
        images = [to_image(frame) for frame in frames]
    else:
        images = _grey_within_borders(frames) or _of_one_palette(frames)
    # A palette of its own for each frame would make the file 3 % smaller, in twice the time.
    return _encode(images, "gif", fps, optimize=False)


def encode_webp(frames, fps=FPS):
    """The bytes of a WebP animation that loops for ever, from frames [T, H, W, C]. It loses details."""
    images = [to_image(frame).convert("RGB") for frame in to_uint8(frames)]
    return _encode(images, "webp", fps, quality=75)


def _encode(images, kind, fps, **options):
    with io.BytesIO() as file:
        images[0].save(file, kind, save_all=True, append_images=images[1:], duration=1000 / fps, loop=0,
                       **options)
        return file.getvalue()


def _grey_within_borders(frames):
    """Images that share a palette of greys and border colours; None if they have other colours."""
    greys = np.rint(np.linspace(0, 255, 254)).repeat(3).reshape(-1, 3)
    palette = np.concatenate([greys, [CONTEXT_RGB, PREDICTED_RGB]]).astype(np.int16)
    nearest = np.rint(np.arange(256) * 253 / 255).astype(np.uint8)
    images = []
    for frame in frames:
        red, _, blue = np.moveaxis(frame, -1, 0)
        index = nearest[red]
        index[red < blue], index[red > blue] = 254, 255
        if np.abs(palette[index] - frame).max() > 1:
            return None
        images.append(Image.fromarray(index))
        images[-1].putpalette(palette.astype(np.uint8).tobytes())
    return images


def _of_one_palette(frames):
    """Images that share a palette: the best 254 colours of some frames, and the colours of borders."""
    some = frames[np.linspace(0, len(frames) - 1, PALETTE_FRAMES).astype(int), ::4, ::4]
    palette = Image.fromarray(some.reshape(-1, some.shape[2], 3)).quantize(254, dither=Image.Dither.NONE)
    palette.putpalette([*palette.getpalette(), *CONTEXT_RGB, *PREDICTED_RGB])
    return [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
            for frame in frames]


def save_gif(path, frames, fps=FPS):
    """Writes frames [T, H, W, C] as a GIF that loops for ever."""
    gif = encode_gif(frames, fps)
    with open(path, "wb") as file:
        file.write(gif)


def gif_summary(tag, frames):
    """Frames [T, H, W, C] as a Summary that TensorBoard shows as an animated image."""
    height, width = frames.shape[1:3]
    # TensorBoard passes the bytes of an image on to the browser, which can show a GIF.
    image = [str(width).encode(), str(height).encode(), encode_gif(frames)]
    metadata = create_summary_metadata(display_name=None, description=None)
    return Summary(value=[Summary.Value(
        tag=tag, tensor=tensor_util.make_tensor_proto(np.array(image, object)), metadata=metadata)])


def training_gif_frames(truth, prediction):
    """Truth above prediction above their absolute difference; examples side by side.

    truth, prediction: [B, T, H, W, C]. Returns [T, H', W', C] uint8.
    """
    truth, prediction = to_uint8(truth), to_uint8(prediction)
    error = np.abs(truth.astype(np.int16) - prediction).astype(np.uint8)
    columns = [_stack(videos, axis=1) for videos in zip(truth, prediction, error, strict=True)]
    return _stack(columns, axis=2)


def prediction_gif_frames(truth, prediction, context):
    """Truth beside prediction, with a blue border in the context and an orange one after it.

    Args:
        truth: [T, H, W, C], the context and what follows.
        prediction: [T - context, H, W, C]. In the context its side shows the observed frames.
        context: number of frames observed.

    Returns:
        [T, 2 H + 6, 4 W + 18, 3] uint8. Each pixel becomes 2 x 2, and borders are 3 pixels wide.
    """
    truth, prediction = to_uint8(truth), to_uint8(prediction)
    prediction = np.concatenate([truth[:context], prediction])
    sides = [bordered(video, context, scale=2, border=3) for video in (truth, prediction)]
    return _stack(sides, axis=2, separator=6, gap=255)


def comparison_gif_frames(rows, first):
    """Videos of the same scenes in a labelled row for each source, and the frame's number below them.

    Args:
        rows: pairs of a label and a list of videos [T, H, W, C]. All lists have the same length.
        first: the number of the first frame.

    Returns:
        [T, H', W', C] uint8.
    """
    labels, sources = zip(*rows, strict=True)
    stacked = _stack([_stack(videos, axis=2) for videos in sources], axis=1)
    frames, height, _, channels = stacked.shape
    pitch = (height + SEPARATOR) / len(rows)
    font = ImageFont.load_default(pitch // 5)
    margin = 3 * SEPARATOR + int(max(map(font.getlength, [*labels, f"frame {first + frames}"])))

    def captions(number):
        image = Image.new("L", (margin, height), 255)
        draw = ImageDraw.Draw(image)
        for row, label in enumerate(labels):
            draw.text((SEPARATOR, (row + 0.5) * pitch), label, 0, font, anchor="lm")
        draw.text((SEPARATOR, height - 1), f"frame {number}", GAP, font, anchor="lb")
        return np.asarray(image)[..., None].repeat(channels, -1)

    return np.concatenate([np.stack([captions(first + n) for n in range(frames)]), stacked], 2)


def above_each_other(videos):
    """Joins videos [T, H_i, W_i, C_i] of equal length from top to bottom, flush right on white.

    Returns: [T, H, W, C] uint8, in grey if all are.
    """
    width, channels = (max(video.shape[axis] for video in videos) for axis in (2, 3))
    wide = [np.pad(np.repeat(video, channels // video.shape[3], 3),
                   [(0, 0), (0, 0), (width - video.shape[2], 0), (0, 0)], constant_values=255)
            for video in videos]
    return _stack(wide, axis=1, gap=255)


def bordered(video, context, scale, border):
    """Enlarges uint8 frames [T, H, W, C], with a blue border in the context, an orange one after it.

    Returns: [T, scale H + 2 border, scale W + 2 border, 3].
    """
    frames, height, width, _ = video.shape
    framed = np.empty((frames, scale * height + 2 * border, scale * width + 2 * border, 3), np.uint8)
    framed[:context], framed[context:] = CONTEXT_RGB, PREDICTED_RGB
    framed[:, border:-border, border:-border] = video.repeat(scale, axis=1).repeat(scale, axis=2)
    return framed


def _stack(videos, axis, separator=SEPARATOR, gap=GAP):
    """Joins videos [T, H, W, C] along an axis, with a separator between each two."""
    shape = list(videos[0].shape)
    shape[axis] = separator
    line = np.full(shape, gap, np.uint8)
    parts = [part for video in videos for part in (line, to_uint8(video))]
    return np.concatenate(parts[1:], axis)
