import imageio.v3 as imageio
import numpy as np
import pytest

import charts
from charts import Figure
from pixels import to_uint8

RNG = np.random.default_rng(0)


def video(*shape):
    return RNG.random(shape).astype(np.float32)


@pytest.fixture
def figures(monkeypatch):
    """The figures saved in a test."""
    saved, save = [], Figure.savefig

    def spy(figure, path, **named):
        saved.append(figure)
        save(figure, path, **named)

    monkeypatch.setattr(Figure, "savefig", spy)
    return saved


def test_range_plot_starts_after_the_context_and_names_its_units(tmp_path, figures):
    mean = np.linspace(30, 20, 10)
    (left, bottom), (right, top) = charts.save_range_plot(
        tmp_path / "a.png", "PSNR (dB)", mean, mean - 1, mean + 1, context=36,
        trivial={charts.TRIVIAL_LINE["label"]: mean - 3})
    (axes,) = figures[0].axes
    assert axes.lines[0].get_xdata().tolist() == list(range(37, 47))
    assert axes.lines[0].get_ydata().tolist() == mean.tolist()
    assert axes.lines[1].get_ydata().tolist() == (mean - 3).tolist()
    texts = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert texts == ["model", "best trivial predictor"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Frame", "PSNR (dB)")
    picture = imageio.imread(tmp_path / "a.png")[..., :3]
    rows, columns = np.nonzero((picture == (0, 114, 178)).all(-1))
    line = rows < (1 - bottom) * len(picture)  # The legend below has a blue line too.
    height, width = picture.shape[:2]
    np.testing.assert_allclose(
        [columns[line].min() / width, columns[line].max() / width], [left, right], atol=0.01)
    assert 1 - top < rows[line].min() / height < rows[line].max() / height < 1 - bottom


def test_range_plot_without_a_known_interval_is_a_line(tmp_path):
    unknown = np.full(4, np.nan)
    charts.save_range_plot(
        tmp_path / "a.png", "SSIM", np.arange(4.0), unknown, unknown, context=1,
        trivial={"black": np.ones(4)})
    assert (tmp_path / "a.png").stat().st_size


@pytest.mark.parametrize("channels", [1, 3])
def test_contact_sheet_has_a_row_a_video_and_evenly_spaced_frames(tmp_path, figures, channels):
    truth, sample = video(21, 16, 16, channels), video(13, 16, 16, channels)
    examples = [{"ground truth": truth, "best SSIM": sample, "sample 1": sample[::-1]}] * 2
    charts.save_contact_sheet(tmp_path / "a.png", examples, context=8, columns=5)
    (axes,) = figures[0].axes
    assert [int(tick.get_text()) for tick in axes.get_xticklabels()] == [1, 6, 11, 16, 21]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(examples[0]) * 2

    sheet = axes.images[0].get_array()
    gap = 2

    def cell(row, column):
        top = row * (16 + gap) + row // 3 * 2 * gap
        return sheet[top : top + 16, column * (16 + gap) : column * (16 + gap) + 16]

    for row in range(6):
        for column, frame in enumerate([0, 5, 10, 15, 20]):
            shown = [truth, sample, sample[::-1]][row % 3]
            index = frame - (21 - len(shown))
            want = to_uint8(shown[index]) if index >= 0 else np.uint8(255)
            np.testing.assert_array_equal(cell(row, column), np.broadcast_to(want, (16, 16, 3)))
    # The line stands between frames 6 (seen) and 11 (predicted).
    assert 16 + 18 - 1 < axes.lines[0].get_xdata()[0] < 2 * 18
    assert imageio.imread(tmp_path / "a.png").std() > 0


def test_contact_sheet_of_fewer_frames_than_columns_shows_each_once(tmp_path, figures):
    charts.save_contact_sheet(
        tmp_path / "a.png", [{"ground truth": video(4, 16, 16, 1)}], context=2, columns=12)
    labels = figures[0].axes[0].get_xticklabels()
    assert [int(label.get_text()) for label in labels] == [1, 2, 3, 4]
