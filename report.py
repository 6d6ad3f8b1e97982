"""The results of an evaluation for a reader: a table for the terminal, and report.html.

report.html is one page made from the files of an evaluation. It holds everything that it shows, so it
works offline, and a copy of it works elsewhere.
"""

import base64
import functools
import io
import itertools
import json
import os

import jinja2
import numpy as np

import charts
import pictures
from intervals import defined_mean, interval
from metrics import METRICS, TRIVIAL, kept_samples, trivial_of
from tables import estimate_text, markdown
from tools import write_atomically
from video_data.preparation import notice

MAX_BYTES = 20_000_000  # of the page
# How much the page shows of each example: the number of samples (None: all), and the quality of the
# frames in WebP. save_page takes the first pair that lets all examples fit.
DETAIL = ((None, 75), (2, 75), (1, 75), (1, 45))
# The settings at the top of the page. The others are folded away.
MAIN_SETTINGS = ("dataset", "levels", "tmp_abs_factor", "open_loop_ctx", "eval_seq_len", "use_obs",
                 "num_examples", "num_samples", "seed", "eval_seed", "checkpoint")


# --------------------------------------------------------------------------------------- in the terminal


def table_text(numbers):
    """The headline metrics of the model and of the trivial predictors, as Markdown.

    numbers: the content of summary.json.
    """
    settings, shown = numbers["settings"], [
        METRICS[name] for name in numbers["better_than_trivial"] if METRICS[name].headline]
    lines = [["", *(metric.heading for metric in shown)]]
    for suffix, words in rows(numbers).items():
        lines.append([words, *(estimate_text(numbers["metrics"][metric.name + suffix], metric.decimals)
                               for metric in shown)])
    frames = settings["eval_seq_len"] - settings["open_loop_ctx"]
    text = f"{markdown(lines)}\nMeans over {frames} predicted frames of " + (
        f"{settings['num_examples']} videos; in brackets the 95% interval over the videos.\n"
        if settings["num_examples"] > 1 else "one video, which gives no interval.\n")
    for metric in shown:
        text += f"{metric.label}: {verdict(metric, numbers)}\n"
    return text + f"{notice(settings['dataset'])}\n".lstrip()


def rows(numbers):
    """The rows of a table of metrics: the end of a name in summary.json, and the words for it."""
    samples = numbers["settings"]["num_samples"]
    model = {"": "model"} if samples == 1 else {
        f"_mean_of_{samples}": f"model, mean of {samples} samples",
        f"_best_of_{samples}": f"model, best of {samples} samples"}
    return model | {f"_{predictor}": words for predictor, words in TRIVIAL.items()
                    if any(name.endswith(predictor) for name in numbers["metrics"])}


def verdict(metric, numbers):
    """Where the model is better than every trivial predictor, and where the metric is undefined."""
    context, length, videos = (numbers["settings"][key] for key in (
        "open_loop_ctx", "eval_seq_len", "num_examples"))
    frames = length - context
    first, *_ = rows(numbers)
    estimate = numbers["metrics"][metric.name + first]
    text = spans_text(numbers["better_than_trivial"][metric.name], context, frames)
    if videos < 2:
        text = "one video gives no interval, so the trivial predictors cannot be compared"
    if estimate["frames"] == frames * videos:
        return text
    return (f"{text}; defined in {estimate['frames']} of the {frames * videos} predicted frames, "
            f"in {estimate['videos']} of the {videos} videos")


def spans_text(found, context, frames, at_most=3):
    """Where a model is better than the trivial predictors, in words.

    found: pairs of the first and the last frame of each span, among `frames` frames after the context.
    """
    if not found:
        return "at no frame is the model better than every trivial predictor"
    total = sum(last - first + 1 for first, last in found)
    words = [f"{first} to {last}" if last > first else f"{first}" for first, last in found]
    more = f" and {len(words) - at_most} more spans" if len(words) > at_most else ""
    return (f"the model is better than every trivial predictor from frame {', '.join(words[:at_most])}"
            f"{more}: {total} of the frames {context + 1} to {context + frames}")


# ------------------------------------------------------------------------------------------- the page


def save_page(directory):
    """Writes report.html into the directory of an evaluation, from the files in it.

    If the examples do not fit into MAX_BYTES, the page shows fewer samples of each. If they still do not
    fit, it shows as many examples as do, beginning with the best and the worst by the first metric.
    """
    with open(os.path.join(directory, "summary.json")) as file:
        numbers = json.load(file)
    settings = numbers["settings"]
    with np.load(os.path.join(directory, "metrics.npz")) as file:
        scored = [METRICS[name] for name in numbers["better_than_trivial"]]
        values = {name: file[name] for name in file.files
                  if any(name.startswith(metric.name) for metric in scored)}
    shown = [metric for metric in scored if metric.headline]
    page = {
        "mean_only": settings["cell_mean_only"],
        "context": settings["open_loop_ctx"], "frames": settings["eval_seq_len"],
        "curves": [curve(metric, values, settings["open_loop_ctx"]) for metric in shown],
        "examples": [], "samples": None}
    render = functools.partial(page_of, directory, numbers, scored, page)
    order = best_and_worst(shown[0], defined_mean(values[shown[0].name], (1, 2)))
    room = MAX_BYTES - len(render().encode())
    for page["samples"], quality in DETAIL:
        embedded = functools.partial(
            embed, directory, shown=shown, values=values, page=page, quality=quality)
        probed = [len(json.dumps(embedded(number))) for number in order[:4]]
        if np.mean(probed) * len(order) < room:
            break
    for number in order:
        example = embedded(number)
        room -= len(json.dumps(example)) + 2
        if room < 0:
            break
        page["examples"].append(example)
    page["examples"].sort(key=lambda example: example["number"])
    with write_atomically(os.path.join(directory, "report.html")) as file:
        file.write(render())


def page_of(directory, numbers, scored, page):
    """The page as HTML. page: its curves and examples, as report.html.j2 uses them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(os.path.abspath(__file__))), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    settings, shown = numbers["settings"], [metric for metric in scored if metric.headline]
    return environment.get_template("report.html.j2").render(
        page=page, settings=settings, main={key: settings[key] for key in MAIN_SETTINGS
                                            if key in settings},
        shown=shown, table=html_table(scored, numbers), num_examples=settings["num_examples"],
        verdicts={metric.label: verdict(metric, numbers) for metric in shown},
        conventions={metric.label: numbers["metrics"][f"{metric.name}_black"]["convention"]
                     for metric in scored},
        fvd=numbers.get("fvd"), files=files(directory), limit=MAX_BYTES,
        notice=notice(settings["dataset"]))


def best_and_worst(metric, values):
    """The numbers of all examples: the best, the worst, the second best, and so on."""
    order = np.argsort(metric.advantage(0, values), kind="stable").tolist()
    pairs = zip(order, reversed(order), strict=True)
    return list(dict.fromkeys(itertools.chain.from_iterable(pairs)))


def curve(metric, values, context):
    """A metric over the predicted frames: the model's values, and a picture of them.

    The picture shows the interval and the trivial predictors too. `corners`: from save_range_plot.
    """
    scores = defined_mean(values[metric.name], 1)
    model = defined_mean(scores, 0)
    trivial = {TRIVIAL[predictor]: defined_mean(value, 0)
               for predictor, value in trivial_of(metric.name, values).items()}
    with io.BytesIO() as file:
        corners = charts.save_range_plot(
            file, "", model, *interval(scores[None], limits=metric.limits), context, trivial, kind="svg")
        image = data_uri("svg+xml", file)
    return {"name": metric.name, "label": metric.label, "heading": metric.heading,
            "better": metric.better, "decimals": metric.decimals, "model": listed(model),
            "image": image, "corners": corners}


def data_uri(kind, file):
    """The content of a BytesIO as an image within a page."""
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def listed(values):
    """Numbers for JSON, of four digits; None in place of NaN and infinity."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def html_table(scored, numbers):
    """The table of metrics: headings, and rows of words, kind, cells and whether each is best."""
    estimates, found = numbers["metrics"], []
    model = rows(numbers)
    in_context = {"_reconstruction": "context, reconstructed", "_one_step": "context, one step ahead"}
    for suffix, words in {**model, **in_context}.items():
        trivial = suffix.removeprefix("_") in TRIVIAL
        kind = "context" if suffix in in_context else "trivial" if trivial else "model"
        cells = []
        for metric in scored:
            means = [estimates[metric.name + other]["mean"] for other in model]
            best = metric.best(np.array(means, float), 0)  # None becomes NaN.
            estimate = estimates[metric.name + suffix]
            cells.append((estimate_text(estimate, metric.decimals),
                          suffix in model and estimate["mean"] == best))
        found.append((words, kind, cells))
    return {"headings": [metric.heading for metric in scored], "rows": found}


def embed(directory, number, shown, values, page, quality):
    """The page's data of an example: its values for sorting, and its videos as sprites."""
    folder = os.path.join(directory, f"sample{number}")
    seen, unseen = (read_video(f"{folder}_gt/{name}.npz") for name in ("gt_ctx", "gt_pred"))
    videos = [sprite("truth", np.concatenate([seen, unseen]), 0, quality)]
    scores = {metric.name: values[metric.name][number] for metric in shown}
    kept, labels = kept_samples(shown, scores, page["mean_only"])
    for index, label in itertools.islice(labels.items(), page["samples"]):
        name = next(name for name, other in kept.items() if other == index)
        videos.append(sprite(label, read_video(f"{folder}/{name}.npz"), page["context"], quality))
    return {"number": number, "videos": videos, "values": {
        metric.name: listed([defined_mean(values[metric.name][number], None)])[0] for metric in shown}}


def read_video(path):
    with np.load(path) as file:
        return file["arr_0"]


def sprite(label, video, start, quality):
    """All frames of a video in one image, as a data URI. start: its first frame, from 0."""
    columns = int(np.ceil(np.sqrt(len(video))))
    with io.BytesIO() as file:
        image = pictures.to_image(pictures.frame_grid(video, columns)).convert("RGB")
        # Method 1 takes a third of the time of the default, and a twelfth more bytes.
        image.save(file, "webp", quality=quality, method=1)
        return {"label": label, "start": start, "columns": columns, "size": video.shape[1],
                "image": data_uri("webp", file)}


def files(directory):
    """The names of the files of an evaluation that the page links to, sorted."""
    return sorted(name for name in os.listdir(directory)
                  if os.path.isfile(os.path.join(directory, name))
                  and not name.startswith((".", "report.html")))
