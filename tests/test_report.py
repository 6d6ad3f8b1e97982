"""report.html: what is in it, that it is self-contained and small; in a browser, that it moves."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import charts
import metrics
import report

CONTEXT, FRAMES, EXAMPLES, SAMPLES = 4, 12, 5, 3
PREDICTED = FRAMES - CONTEXT


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """A directory as eval.py leaves it: every frame has a brightness of its own, samples one more."""
    folder = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(0)
    names = ("psnr", "ssim", "psnr_unclipped", "ssim_range2")
    values = {}
    for name in names:
        values[name] = rng.normal(20, 3, [EXAMPLES, SAMPLES, PREDICTED])
        for predictor in report.TRIVIAL:
            values[f"{name}_{predictor}"] = rng.normal(18, 3, [EXAMPLES, PREDICTED])
    np.savez(folder / "metrics.npz", open_loop_ctx=CONTEXT, **values)
    estimate = {"mean": 1.25, "confidence_95": [1.0, 1.5], "convention": "so <and> so",
                "videos": EXAMPLES, "frames": EXAMPLES * PREDICTED}
    suffixes = [f"_mean_of_{SAMPLES}", f"_best_of_{SAMPLES}", "_reconstruction", "_one_step",
                *(f"_{predictor}" for predictor in report.TRIVIAL)]
    metrics = {f"{name}{suffix}": estimate for name in names for suffix in suffixes}
    metrics["psnr_last_frame"] = {**estimate, "mean": 9.75}
    settings = {
        "dataset": "clips </script>", "levels": 3, "tmp_abs_factor": [2, 2], "eval_seq_len": FRAMES,
        "open_loop_ctx": CONTEXT, "num_examples": EXAMPLES, "num_samples": SAMPLES, "seed": 0,
        "cell_mean_only": False}
    (folder / "summary.json").write_text(json.dumps({
        "settings": settings, "metrics": metrics, "frames_per_second": 9.0,
        "better_than_trivial": {name: [[5, 7]] for name in names}}))
    for number in range(EXAMPLES):
        video = np.zeros([FRAMES, 64, 64, 1], np.uint8)
        video[:] = 10 + 40 * number + np.arange(FRAMES)[:, None, None, None]
        for name in ("gt/gt_ctx", "gt/gt_pred"):
            path = folder / f"sample{number}_{name}.npz"
            path.parent.mkdir(exist_ok=True)
            np.savez_compressed(path, video[:CONTEXT] if "ctx" in name else video[CONTEXT:])
        (folder / f"sample{number}").mkdir()
        for name in ("random_sample_1", "random_sample_2", "best_psnr_sample", "best_ssim_sample"):
            np.savez_compressed(folder / f"sample{number}" / f"{name}.npz", video[CONTEXT:] + 1)
    report.save_page(str(folder))
    return folder


def data_of(folder):
    text = (folder / "report.html").read_text()
    return json.loads(re.search('<script type="application/json" id="page">(.*?)</script>', text)[1])


@pytest.mark.parametrize("videos, said", [
    (1, "predicted frames of one video, which gives no interval."),
    (5, "predicted frames of 5 videos; in brackets the 95% interval over the videos.")])
def test_the_table_says_how_many_videos_it_is_over(evaluation, videos, said):
    numbers = json.loads((evaluation / "summary.json").read_text())
    numbers["settings"]["num_examples"] = videos
    assert said in report.table_text(numbers)


def test_a_prediction_from_means_is_called_so(evaluation, tmp_path):
    folder = shutil.copytree(evaluation, tmp_path / "means")
    numbers = json.loads((folder / "summary.json").read_text())
    numbers["settings"] |= {"cell_mean_only": True, "num_samples": 1}
    numbers["metrics"] |= {name.removesuffix(f"_mean_of_{SAMPLES}"): estimate
                           for name, estimate in numbers["metrics"].items()}
    (folder / "summary.json").write_text(json.dumps(numbers))
    with np.load(folder / "metrics.npz") as file:
        values = {name: array[:, :1] if array.ndim == 3 else array for name, array in file.items()}
    np.savez(folder / "metrics.npz", **values)
    report.save_page(str(folder))
    for example in data_of(folder)["examples"]:
        assert [video["label"] for video in example["videos"]] == ["truth", "prediction from means"]
    text = (folder / "report.html").read_text()
    assert "one prediction of each from means, without noise." in text and "1 sample" not in text


def test_the_page_holds_every_frame_of_truth_and_samples(evaluation):
    examples = data_of(evaluation)["examples"]
    assert [example["number"] for example in examples] == list(range(EXAMPLES))
    for example in examples:
        truth, *samples = example["videos"]
        assert truth["label"] == "truth" and truth["start"] == 0
        assert 2 <= len(samples) <= 3 and all(sample["start"] == CONTEXT for sample in samples)
        for video in example["videos"]:
            sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(video["image"].split(",")[1]))))
            for index in range(FRAMES - video["start"]):
                row, column = divmod(index, video["columns"])
                frame = sheet[row * 64:(row + 1) * 64, column * 64:(column + 1) * 64]
                brightness = 10 + 40 * example["number"] + video["start"] + index + (video["start"] > 0)
                assert abs(frame.mean() - brightness) < 1.5


def test_the_page_says_the_metrics_with_intervals_and_the_trivial_predictors(
        evaluation, monkeypatch):
    text = (evaluation / "report.html").read_text()
    for words in ("PSNR (dB) ↑", "model, mean of 3 samples", "mean of the context", "[1.00, 1.50]",
                  "from frame 5 to 7: 3 of the frames 5 to 12", "so &lt;and&gt; so",
                  "All 5 examples."):
        assert words in text
    assert re.search(r'class="best">9.75<', text)  # the best of the column
    curve = data_of(evaluation)["curves"][0]
    values = np.load(evaluation / "metrics.npz")
    np.testing.assert_allclose(curve["model"], values["psnr"].mean((0, 1)), rtol=1e-3)
    drawn = base64.b64decode(curve["image"].split(",")[1]).decode()
    monkeypatch.setattr(charts, "save_range_plot", lambda *arguments, **_: arguments)
    *_, trivial = report.curve(metrics.METRICS["psnr"], values, CONTEXT)["corners"]
    np.testing.assert_allclose(
        trivial[report.TRIVIAL["black"]], values["psnr_black"].mean(0), rtol=1e-3)
    for words in ("Frame", "model", *report.TRIVIAL.values()):
        assert f">{words}</text>" in drawn


def test_the_page_needs_nothing_from_elsewhere(evaluation):
    text = (evaluation / "report.html").read_text()
    assert not re.search("https?://", text)
    sources = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert {"metrics.npz", "summary.json"} < set(sources)
    for source in sources:
        assert source == "data:," or (evaluation / source).exists()


def test_a_page_of_too_much_holds_fewer_samples_then_the_best_and_the_worst_and_says_so(
        evaluation, tmp_path, monkeypatch):
    folder = shutil.copytree(evaluation, tmp_path / "evaluation")
    whole = (evaluation / "report.html").stat().st_size
    sizes = {video["label"]: len(json.dumps(video))
             for example in data_of(evaluation)["examples"] for video in example["videos"]}
    spare = whole - sum(len(json.dumps(example)) for example in data_of(evaluation)["examples"])

    def page_of(limit):
        monkeypatch.setattr(report, "MAX_BYTES", limit)
        report.save_page(str(folder))
        assert (folder / "report.html").stat().st_size <= limit
        text = re.sub(r"\s+", " ", (folder / "report.html").read_text())
        return data_of(folder)["examples"], text

    # Room for truth and one sample of every example.
    examples, text = page_of(spare + 300 + 5 * int(2.3 * max(sizes.values())))
    assert len(examples) == 5 and all(len(example["videos"]) == 2 for example in examples)
    assert "All 5 examples, with at most 1 sample of each." in text
    # Room for two examples.
    examples, text = page_of(spare + 300 + int(4.9 * max(sizes.values())))
    psnr = np.load(folder / "metrics.npz")["psnr"].mean((1, 2))
    assert [example["number"] for example in examples] == sorted([psnr.argmax(), psnr.argmin()])
    assert "The best and the worst examples by PSNR, 2 of 5, with at most 1 sample of each." in text
    assert "More would make this page larger" in text


def test_the_order_of_embedding_is_best_and_worst_in_turn():
    psnr, lpips = report.METRICS["psnr"], report.METRICS["lpips"]
    assert report.best_and_worst(psnr, np.array([3.0, 5.0, 1.0, 4.0])) == [1, 2, 3, 0]
    assert report.best_and_worst(lpips, np.array([3.0, 5.0, 1.0])) == [2, 1, 0]


def test_frames_for_which_a_metric_is_undefined_leave_gaps(evaluation, tmp_path):
    folder = shutil.copytree(evaluation, tmp_path / "evaluation")
    values = dict(np.load(folder / "metrics.npz"))
    values["ssim"][:, :, 2], values["ssim"][0] = np.nan, np.nan
    np.savez(folder / "metrics.npz", **values)
    numbers = json.loads((folder / "summary.json").read_text())
    numbers["metrics"][f"ssim_mean_of_{SAMPLES}"] |= {"videos": EXAMPLES - 1, "frames": 28}
    numbers["metrics"]["ssim_black"] |= {"mean": None, "confidence_95": None, "videos": 0, "frames": 0}
    (folder / "summary.json").write_text(json.dumps(numbers))
    report.save_page(str(folder))

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    text = (folder / "report.html").read_text()
    page = json.loads(re.search('<script type="application/json" id="page">(.*?)</script>', text)[1],
                      parse_constant=refuse)
    (curve,) = (curve for curve in page["curves"] if curve["name"] == "ssim")
    assert [value is None for value in curve["model"]] == [False] * 2 + [True] + [False] * 5
    np.testing.assert_allclose(curve["model"][0], values["ssim"][1:, :, 0].mean(), rtol=1e-3)
    assert page["examples"][0]["values"]["ssim"] is None and "undefined" in text
    assert "defined in 28 of the 40 predicted frames, in 4 of the 5 videos" in text


def test_spans_of_frames_are_said_in_words():
    assert report.spans_text([[37, 60]], 36, 464) == (
        "the model is better than every trivial predictor from frame 37 to 60: "
        "24 of the frames 37 to 500")
    assert "from frame 5, 7 to 8, 10 and 2 more spans: 6 of" in report.spans_text(
        [[5, 5], [7, 8], [10, 10], [12, 12], [14, 14]], 4, 12)
    assert report.spans_text([], 36, 4).startswith("at no frame is the model better")


# --------------------------------------------------------------------------------- in a browser


@pytest.fixture
def browser(tmp_path):
    """Debian's Chromium, headless, with a profile of its own and no way out."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("report.html is not tried in a browser: apt-get install chromium chromium-driver")
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 "window-size=1280,1600", f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_network_conditions(offline=True, latency=0, throughput=0)
    yield driver
    driver.quit()


@pytest.mark.slow
def test_in_a_browser_the_animations_move_together_and_sorting_sorts(evaluation, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait
    wait = WebDriverWait(browser, 20)

    def brightness():
        """Of every canvas on the screen, by the label of its video: what is drawn in its middle."""
        return browser.execute_script("""
          const probe = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
          return [...visible].flatMap(example => example.videos.map(video => {
            probe.drawImage(video.canvas, 0, 0);
            return [example.number, video.label === "truth", probe.getImageData(32, 32, 1, 1).data[0]];
          }))""")

    def frame():
        return browser.execute_script("return state.frame")

    def shows(number):
        """Whether every canvas shows this frame: counted from 1, of video and sample of an example."""
        drawn = brightness()
        return len(drawn) >= 6 and all(
            abs(value - (10 + 40 * example + number - 1 + (not truth and number > CONTEXT))) <= 1
            for example, truth, value in drawn)

    browser.get((evaluation / "report.html").as_uri())
    wait.until(lambda _: shows(CONTEXT + 1))
    browser.find_element(By.ID, "forward").click()
    wait.until(lambda _: shows(CONTEXT + 2))
    browser.find_element(By.ID, "back").click()
    browser.find_element(By.ID, "back").click()
    wait.until(lambda _: shows(CONTEXT))
    assert "observed" in browser.find_element(By.ID, "where").text
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_RIGHT)
    assert frame() == CONTEXT + 1
    browser.execute_script("""const slider = find("slider"); slider.value = 9;
                              slider.dispatchEvent(new Event("input"))""")
    wait.until(lambda _: shows(9))

    browser.find_element(By.ID, "play").click()
    seen = set()
    wait.until(lambda _: seen.add(frame()) or len(seen) >= 4)  # goes on by itself
    browser.find_element(By.ID, "play").click()
    stopped = frame()
    wait.until(lambda _: shows(stopped))
    assert frame() == stopped

    values = np.load(evaluation / "metrics.npz")["ssim"].mean((1, 2))
    for order, want in [("best", np.argsort(-values)), ("worst", np.argsort(values))]:
        Select(browser.find_element(By.ID, "sort")).select_by_value(f"ssim {order}")
        cards = browser.find_elements(By.TAG_NAME, "article")
        assert [int(card.get_attribute("data-number")) for card in cards] == want.tolist()
    curves = browser.find_elements(By.CSS_SELECTOR, "#curves .plot")
    assert len(curves) == 2
    curves[0].click()  # into the middle
    assert CONTEXT + 1 < frame() < FRAMES
    assert browser.get_log("browser") == []
