"""What an evaluation found, for a reader: a table for the terminal, and report.html.

report.html is one self-contained page, made from the files of an evaluation: it works offline, from
disk, and wherever it is sent.
"""

import base64
import io
import itertools
import json
import os

import jinja2
import numpy as np

import pictures
from metrics import METRICS, TRIVIAL, bootstrap_interval, cell, kept_samples, markdown, spans_text
from tools import write_atomically

MAX_BYTES = 20_000_000  # of the page
# What the page holds of an example, the first that lets all of them in: samples (None: all that are
# kept), and the quality of its frames, which are lossy WebP; those beside the page are exact.
DETAIL = ((None, 75), (2, 75), (1, 75), (1, 45))
# What the page says of the settings before one asks for all of them.
MAIN_SETTINGS = ("dataset", "levels", "tmp_abs_factor", "open_loop_ctx", "eval_seq_len", "use_obs",
                 "num_examples", "num_samples", "seed", "eval_seed", "checkpoint")


# --------------------------------------------------------------------------------------- in the terminal


def table_text(numbers):
    """The headline metrics of the model beside those of the trivial predictors, as Markdown.

    numbers: as in summary.json.
    """
    settings, shown = numbers["settings"], [
        METRICS[name] for name in numbers["better_than_trivial"] if METRICS[name].headline]
    lines = [["", *(metric.heading for metric in shown)]]
    for suffix, words in rows(settings["num_samples"]).items():
        lines.append([words, *(cell(numbers["metrics"][metric.name + suffix], metric.decimals)
                               for metric in shown)])
    text = (f"{markdown(lines)}\nMeans over {settings['eval_seq_len'] - settings['open_loop_ctx']} "
            f"predicted frames of {settings['num_examples']} videos; in brackets the 95% interval over "
            f"the videos.\n")
    for metric in shown:
        text += f"{metric.label}: {verdict(metric, numbers)}\n"
    return text


def rows(samples):
    """The rows of a table of metrics: what a metric's name in summary.json ends with, and its words."""
    model = {"": "model"} if samples == 1 else {
        f"_mean_of_{samples}": f"model, mean of {samples} samples",
        f"_best_of_{samples}": f"model, best of {samples} samples"}
    return model | {f"_{predictor}": words for predictor, words in TRIVIAL.items()}


def verdict(metric, numbers):
    """Where the model is better than every trivial predictor."""
    context, length = (numbers["settings"][key] for key in ("open_loop_ctx", "eval_seq_len"))
    return spans_text(numbers["better_than_trivial"][metric.name], context, length - context)


# ------------------------------------------------------------------------------------------- the page


def save_page(directory):
    """Writes report.html into the directory of an evaluation, from the files that are there.

    Where the examples do not fit MAX_BYTES, the page holds fewer samples of each; where that is not
    enough, as many examples as fit: the best and the worst by the first metric first.
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
        "context": settings["open_loop_ctx"], "frames": settings["eval_seq_len"],
        "curves": [curves(metric, values) for metric in shown], "examples": [], "samples": None}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(os.path.abspath(__file__))), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.get_template("report.html.j2")

    def render():
        return template.render(
            page=page, settings=settings, main={key: settings[key] for key in MAIN_SETTINGS
                                                if key in settings},
            shown=shown, table=html_table(scored, numbers), num_examples=settings["num_examples"],
            verdicts={metric.label: verdict(metric, numbers) for metric in shown},
            conventions={metric.label: numbers["metrics"][f"{metric.name}_black"]["convention"]
                         for metric in scored},
            fvd=numbers.get("fvd"), files=files(directory), limit=MAX_BYTES)

    order = best_and_worst(shown[0], values[shown[0].name].mean((1, 2)))
    room = MAX_BYTES - len(render().encode())
    for page["samples"], quality in DETAIL:
        def embedded(number, quality=quality):
            return embed(directory, number, shown, values, page, quality)

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
    text = render()
    with write_atomically(os.path.join(directory, "report.html")) as file:
        file.write(text)


def best_and_worst(metric, values):
    """The numbers of all examples: the best, the worst, the second best, and so on."""
    order = np.argsort(metric.advantage(0, values), kind="stable").tolist()
    pairs = itertools.zip_longest(order, reversed(order))
    return list(dict.fromkeys(itertools.chain.from_iterable(pairs)))


def curves(metric, values):
    """A metric over the predicted frames: of the model, with its interval, and of trivial predictors."""
    scores = values[metric.name]
    mean = scores.mean(1)
    return {
        "name": metric.name, "label": metric.label, "axis": metric.axis, "better": metric.better,
        "decimals": metric.decimals, "model": listed(mean.mean(0)),
        "interval": [None, None] if len(scores) < 2 else list(map(listed, bootstrap_interval(mean))),
        "trivial": [{"label": words, "values": listed(values[f"{metric.name}_{predictor}"].mean(0))}
                    for predictor, words in TRIVIAL.items()]}


def listed(values):
    """Numbers as JSON has them, of four digits."""
    return [float(f"{value:.4g}") for value in values]


def html_table(scored, numbers):
    """The table of metrics: headings, and rows of words, kind, cells and whether each is best."""
    estimates, found = numbers["metrics"], []
    model = rows(numbers["settings"]["num_samples"])
    in_context = {"_reconstruction": "context, reconstructed", "_one_step": "context, one step ahead"}
    for suffix, words in {**model, **in_context}.items():
        trivial = suffix.removeprefix("_") in TRIVIAL
        kind = "context" if suffix in in_context else "trivial" if trivial else "model"
        cells = []
        for metric in scored:
            best = metric.best([estimates[metric.name + other]["mean"] for other in model], 0)
            estimate = estimates[metric.name + suffix]
            cells.append((cell(estimate, metric.decimals), suffix in model and estimate["mean"] == best))
        found.append((words, kind, cells))
    return {"headings": [metric.heading for metric in scored], "rows": found}


def embed(directory, number, shown, values, page, quality):
    """What the page holds of an example: its values for sorting, and its videos as sprites."""
    folder = os.path.join(directory, f"sample{number}")
    seen, unseen = (read_video(f"{folder}_gt/{name}.npz") for name in ("gt_ctx", "gt_pred"))
    videos = [sprite("truth", np.concatenate([seen, unseen]), 0, quality)]
    kept, labels = kept_samples(shown, {metric.name: values[metric.name][number] for metric in shown})
    for index, label in itertools.islice(labels.items(), page["samples"]):
        name = next(name for name, other in kept.items() if other == index)
        videos.append(sprite(label, read_video(f"{folder}/{name}.npz"), page["context"], quality))
    return {"number": number, "videos": videos, "values": {
        metric.name: float(values[metric.name][number].mean()) for metric in shown}}


def read_video(path):
    with np.load(path) as file:
        return file["arr_0"]


def sprite(label, video, start, quality):
    """All frames of a video in one image, as a data URI. start: its first frame, from 0."""
    columns = int(np.ceil(np.sqrt(len(video))))
    with io.BytesIO() as file:
        image = pictures.to_image(pictures.frame_grid(video, columns)).convert("RGB")
        image.save(file, "webp", quality=quality)
        data = base64.b64encode(file.getvalue()).decode()
    return {"label": label, "start": start, "columns": columns, "size": video.shape[1],
            "image": f"data:image/webp;base64,{data}"}


def files(directory):
    """The files of an evaluation that the page links to, by name, sorted."""
    return sorted(name for name in os.listdir(directory)
                  if os.path.isfile(os.path.join(directory, name))
                  and not name.startswith((".", "report.html")))
