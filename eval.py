"""Evaluates a Clockwork VAE: python3 eval.py --model-dir=logs/minerl/EXPERIMENT --seq-len=500

Predicts the test videos open-loop from their first frames, and writes numbers and pictures.
"""

import tools
from flags import Parser, add_evaluation_flags, evaluated_config, num_examples

LPIPS = ("alex", "vgg", "squeeze")  # the networks of the record in metrics.py


def parse_flags():
    parser = Parser(description="Evaluates a trained Clockwork VAE by open-loop prediction.")
    add_evaluation_flags(
        parser, "open_loop_ctx", "seq_len", "use_obs", "num_examples", "num_samples", "mean_only",
        "batch_size")
    parser.add_argument("--lpips", nargs="?", const=LPIPS[0], choices=LPIPS, metavar="NET",
                        help=f"also report LPIPS, with the network {LPIPS[0]} (the default), "
                             f"{' or '.join(LPIPS[1:])}")
    parser.add_argument("--fvd-model", metavar="DIR_OR_HANDLE",
                        help="also report FVD, with this I3D network: a SavedModel or a TF-Hub handle")
    parser.add_argument("--no-save-grid", action="store_true", help="write no grids of frames")
    return parser.parse_args()


if __name__ == "__main__":
    # A wrong flag ends the script here, because importing TensorFlow takes seconds.
    tools.run_script(parse_flags)

import startup  # noqa: F401

# isort: split
import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import time
import warnings

import numpy as np

import charts
import data_loader
import intervals
import metrics
import networks
import pictures
import report
import runs
from config import load_config
from cwvae import CWVAE
from predictor import Predictor, factors_of, with_progress
from video_data import videos

SHEET_EXAMPLES = 6
FVD_CONVENTION = ("FVD of the 8-bit frames after the context, the first sample of each video; resized "
                  "to 224x224 as by TensorFlow 1, in [-1, 1]; lower is better")


def main():
    warnings.formatwarning = lambda message, *_: f"eval.py: warning: {message}\n"
    flags = parse_flags()
    run_dir, _ = runs.find_checkpoint(flags.model_dir)
    config = evaluated_config(load_config(os.path.join(run_dir, "config.yml")), flags)
    out = flags.out or os.path.join(run_dir, f"eval_{time.strftime('%Y_%m_%d_%H_%M_%S')}")
    data = data_loader.evaluation_sequences(config)
    flags.num_examples = num_examples(flags.num_examples, len(data))
    if flags.fvd_model and flags.num_examples < 2:
        raise tools.UserError("num_examples: 1 video has no FVD; nearest: 2")
    model = CWVAE(config, data.action_size)
    checkpoint = runs.restore_model(flags.model_dir, model)
    settings = {
        **dataclasses.asdict(config), "checkpoint": checkpoint, "eval_seed": flags.seed,
        "num_examples": flags.num_examples, "num_samples": flags.num_samples,
        "data_digest": digest(data, config.open_loop_ctx)}
    with tools.directory_atomically(out, numbered=not flags.out) as part:
        table = evaluate(config, model, data, flags, settings, part)
    print(f"{table}\nNumbers and pictures are in {part.removesuffix('.part')}: "
          f"see report.html first")


def evaluate(config, model, data, flags, settings, out):
    """Predicts flags.num_examples videos and writes everything that docs/evaluation.md names into `out`.

    Returns: a table of the metrics of the model and of the trivial predictors, as text.
    """
    chosen_networks = {name: getattr(flags, name) for name, metric in metrics.METRICS.items()
                       if metric.networks and getattr(flags, name)}
    mean_frame = runs.read_mean_frame(runs.find_checkpoint(flags.model_dir)[0])
    scored = metrics.chosen(chosen_networks, factors_of(data.batch(0, 1)))
    fvd = networks.FVD(flags.fvd_model) if flags.fvd_model else None
    predictor = Predictor(config, model, flags.num_samples, flags.seed, scored, mean_frame)
    values, features, sheet, seconds = [], [], [], collections.defaultdict(list)
    # Threads encode the pictures while the next videos are predicted.
    pool, pictured = concurrent.futures.ThreadPoolExecutor(videos.CORES), []
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, cancel_futures=True)
        for first, size in with_progress(flags.num_examples, flags.batch_size // flags.num_samples):
            batch = data.batch(first, size)
            start = time.perf_counter()
            frames, scores = predictor.predict(batch, first)
            seconds[size].append(time.perf_counter() - start)
            values.append(scores | predictor.trivial(batch))
            if fvd:
                features.append([fvd.features(batch["video"][:, config.open_loop_ctx:]),
                                 fvd.features(frames[:, 0])])
            wait(pictured)  # At most two batches are in memory.
            for row, video in enumerate(batch["video"]):
                kept, labels = metrics.kept_samples(
                    scored, {metric.name: scores[metric.name][row] for metric in scored},
                    config.cell_mean_only)
                samples = {name: frames[row, number] for name, number in kept.items()}
                pictured.append(pool.submit(save_example, out, first + row, video, samples,
                                            config.open_loop_ctx, grids=not flags.no_save_grid))
                if len(sheet) < SHEET_EXAMPLES:
                    sheet.append({"truth": video, **{
                        label: frames[row, number] for number, label in labels.items()}})
        charts.save_contact_sheet(os.path.join(out, "contact_sheet.png"), sheet, config.open_loop_ctx)
        wait(pictured)
    values = {name: np.concatenate([scores[name] for scores in values]) for name in values[0]}
    predicted = config.eval_seq_len - config.open_loop_ctx
    distance = fvd and fvd_of(fvd, features, predicted)
    speed = frames_per_second(seconds, flags.num_samples * predicted)
    numbers = save_numbers(out, values, scored, settings, speed, distance)
    report.save_page(out)
    return report.table_text(numbers)


def wait(futures):
    """Waits until all have ended, and empties the list. Raises what the first that failed has raised."""
    while futures:
        futures.pop(0).result()


def fvd_of(fvd, features, frames):
    """The FVD of videos of so many frames, as summary.json holds it. features: of the batches."""
    truth, predicted = (np.concatenate(side) for side in zip(*features, strict=True))
    return fvd(truth, predicted, frames) | {"fvd_convention": FVD_CONVENTION}


def frames_per_second(seconds, frames):
    """The speed of prediction for videos of so many frames; None if it was not measured.

    seconds: those of every batch, in a list by its size. The first of each size compiles the model.
    """
    measured = [(size, passed) for size, times in seconds.items() for passed in times[1:]]
    if not measured:
        return None
    sizes, times = zip(*measured, strict=True)
    return sum(sizes) * frames / sum(times)


def digest(data, context):
    """A digest of the first context and of the names of all videos: it differs between test data."""
    first = data.batch(0, 1)["video"][:, :context].tobytes()
    return hashlib.sha256(first + "\n".join(data.names).encode(errors="replace")).hexdigest()[:16]


def save_example(out, number, video, samples, context, grids):
    """Writes one example: videos as npz and PNG grids, a GIF of the first sample beside the truth."""
    folder = os.path.join(out, f"sample{number}")
    files = {f"{folder}_gt/gt_ctx": video[:context], f"{folder}_gt/gt_pred": video[context:],
             **{f"{folder}/{name}": sample for name, sample in samples.items()}}
    for path, frames in files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        np.savez_compressed(f"{path}.npz", frames)
        if grids:
            pictures.save_grid(f"{path}.png", frames)
    pictures.save_gif(f"{folder}/prediction.gif", pictures.prediction_gif_frames(
        video, samples["random_sample_1"], context))


def save_numbers(out, values, scored, settings, speed, fvd=None):
    """Writes metrics.npz, summary.json, and the curves of every headline metric over time.

    values: the scores by name, from Predictor.predict and Predictor.trivial.
    speed: from frames_per_second.
    fvd: from fvd_of, or None.

    Returns: the content of summary.json.
    """
    context = settings["open_loop_ctx"]
    conventions = {f"{metric.name}_convention": metric.convention for metric in scored}
    np.savez_compressed(os.path.join(out, "metrics.npz"), **values, open_loop_ctx=context,
                        **conventions, **(fvd or {}))
    summary, beaten = {}, {}
    for metric in scored:
        curves = sample_curves(metric, values[metric.name])
        trivial = metrics.trivial_of(metric.name, values)
        named = {f"{metric.name}_{predictor}": value for predictor, value in trivial.items()}
        observed = {key: values[key] for key in (f"{metric.name}_reconstruction",
                                                 f"{metric.name}_one_step")}
        for key, value in {**curves, **named, **observed}.items():
            estimate = intervals.estimate(intervals.defined_mean(value, 1), limits=metric.limits)
            summary[key] = estimate | {
                "frames": int(np.isfinite(value).sum()), "convention": metric.convention}
        better = metric.beats(intervals.defined_mean(values[metric.name], 1), trivial.values())
        beaten[metric.name] = [[context + 1 + first, context + 1 + last]
                               for first, last in intervals.spans(better)]
        if metric.headline:
            save_curves(out, metric, curves, named, values[metric.name].shape[1], context)
    numbers = {"settings": settings, "metrics": summary, "better_than_trivial": beaten,
               "better_than_trivial_rule": metrics.BETTER, "frames_per_second": speed}
    numbers |= {"fvd": fvd} if fvd else {}
    tools.save_json(os.path.join(out, "summary.json"), numbers)
    return numbers


def save_curves(out, metric, curves, trivial, samples, context):
    """Writes a metric's curves over the predicted frames: mean and deviation over videos, and a plot.

    curves, trivial: [N, F] by name. The plot shows the last curve, which is also arr_0 in the files.
    """
    *_, shown = curves.values()
    for statistic, over_videos in [("mean", intervals.defined_mean), ("stddev", defined_deviation)]:
        np.savez(os.path.join(out, f"{metric.name}_{statistic}.npz"), over_videos(shown, 0), **{
            key: over_videos(value, 0) for key, value in {**curves, **trivial}.items()})
    label = metric.axis + (f", best of {samples}" if samples > 1 else "")
    bound = metric.best([intervals.defined_mean(value, 0) for value in trivial.values()], 0)
    charts.save_range_plot(
        os.path.join(out, f"{metric.name}_range.png"), label, intervals.defined_mean(shown, 0),
        *intervals.interval(shown[None], limits=metric.limits), context,
        {charts.TRIVIAL_LINE["label"]: bound})


def defined_deviation(values, axis):
    """The standard deviation of the values that are numbers."""
    centred = values - intervals.defined_mean(values, axis)
    return np.sqrt(intervals.defined_mean(centred**2, axis))


def sample_curves(metric, value):
    """The curves [N, F] to report of a metric's values [N, S, F], by name: the best of S is the last."""
    samples = value.shape[1]
    if samples == 1:
        return {metric.name: value[:, 0]}
    best = metric.best_sample(value)
    return {f"{metric.name}_mean_of_{samples}": intervals.defined_mean(value, 1),
            f"{metric.name}_best_of_{samples}": value[np.arange(len(value)), best]}


if __name__ == "__main__":
    tools.run_script(main)
