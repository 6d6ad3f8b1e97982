"""The paper's analyses of a trained model: python3 analyze.py levels --model-dir=logs/minerl/EXPERIMENT

- levels: what each level stores.
- information: how much information each level carries, by the speed of the video.
- probe: which known factors a linear map reads off the states of each level (probe.py).
- dream: one open-loop video of any length (dreams.py).
"""

import tools
from flags import Parser, add_evaluation_flags, evaluated_config, num_examples, whole_number


def parse_flags():
    parser = Parser(description="Analyses of a trained Clockwork VAE.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="ANALYSIS")

    levels = commands.add_parser(
        "levels", help="how much worse predictions get without a level's view of the context")
    add_evaluation_flags(
        levels, "open_loop_ctx", "seq_len", "num_examples", "num_samples", "batch_size")

    information = commands.add_parser(
        "information", help="the KL and the entropies of each level, by the speed of the video")
    add_evaluation_flags(
        information, "num_examples", "batch_size", "seq_len",
        seq_len="frames of a sequence (default: the config's seq_len, of a training clip)")
    information.add_argument(
        "--frame-skips", type=whole_number("frame_skips", 1), nargs="+", default=[1, 2, 4],
        metavar="N", help="the speeds; N shows every N-th frame (default: 1 2 4)")

    probes = commands.add_parser(
        "probe", help="which known factors of the data a linear map reads off each level")
    add_evaluation_flags(probes, "num_examples", "batch_size", "seq_len")

    dreams = commands.add_parser("dream", help="one open-loop video of any length, as mp4")
    add_evaluation_flags(dreams, "open_loop_ctx", "use_obs")
    dreams.add_argument("--frames", type=whole_number("frames", 1), default=1000, metavar="N",
                        help="frames to predict (default: 1000)")
    dreams.add_argument("--example", type=whole_number("example", 0), default=0, metavar="I",
                        help="number of the test video to begin with (default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    # A wrong flag ends the script here, because importing TensorFlow takes seconds.
    tools.run_script(parse_flags)

import startup

# isort: split
import dataclasses
import os
import time

import numpy as np
import tensorflow as tf

import charts
import data_loader
import dreams
import intervals
import metrics
import predictor
import probe
import runs
from cells import State, fold_in
from config import load_config
from cwvae import CWVAE, in_chunks, last_state
from tables import estimate_text, markdown
from validation import nats_of_videos

CHUNK = 200  # frames observed at a time, about: bounds the memory


def main():
    flags = parse_flags()
    run_dir, _ = runs.find_checkpoint(flags.model_dir)
    config = load_config(os.path.join(run_dir, "config.yml"))
    out = flags.out or os.path.join(run_dir, f"{flags.command}_{time.strftime('%Y_%m_%d_%H_%M_%S')}")
    open_data, analyze = {
        "levels": (level_data, levels), "information": (information_data, information),
        "probe": (level_data, probe.analyze), "dream": (dreams.open_data, dreams.analyze)}[flags.command]
    config, data = open_data(config, flags)
    model = CWVAE(config, data.action_size)
    checkpoint = runs.restore_model(flags.model_dir, model)
    settings = dataclasses.asdict(config) | {"checkpoint": checkpoint, "eval_seed": flags.seed}
    with tools.directory_atomically(out, numbered=not flags.out) as part:
        look_at = analyze(config, model, data, flags, settings, part)
    print(f"Numbers and pictures are in {part.removesuffix('.part')}: see {look_at} first")


# ---------------------------------------------------------------------------- what each level stores


def interventions(model):
    """The interventions: (key, label, use_obs, the level whose state becomes zeros).

    The first one changes nothing. Some hide the context from some of the top levels. The others set the
    state of one level to zeros at the end of the context.
    """
    levels = len(model.cells)
    observed = "".join("T" if sees else "F" for sees in model.observed())
    found = [("full", "nothing", None, None)]
    for first in reversed(range(levels)):
        if observed[first] == "T":  # A level that does not observe anyway cannot be hidden from.
            mask = observed[:first].ljust(levels, "F")
            which = f"level {first}" if first == levels - 1 else f"levels {first} to {levels - 1}"
            found.append((f"hidden_{mask}", f"{which} ({mask})", mask, None))
    for level in range(levels):
        found.append((f"reset_level_{level}", f"level {level}", None, level))
    return found


def level_data(config, flags):
    """The config with the changes of the flags, and the test sequences. Sets flags.num_examples."""
    config = evaluated_config(config, flags)
    data = data_loader.evaluation_sequences(config)
    flags.num_examples = num_examples(flags.num_examples, len(data))
    return config, data


def levels(config, model, data, flags, settings, out):
    """Predicts the same videos with the same noise under every intervention. Figure and table."""
    scored = metrics.chosen(factors=predictor.factors_of(data.batch(0, 1)))
    open_loop = predictor.Predictor(config, model, flags.num_samples, flags.seed, scored)
    shown = [metric for metric in scored if metric.headline]
    values = {}
    at_once = flags.batch_size // flags.num_samples
    for first, size in predictor.with_progress(flags.num_examples, at_once):
        batch = data.batch(first, size)
        for key, _, use_obs, reset in interventions(model):
            states = open_loop.observe(batch, first, use_obs).states
            if reset is not None:
                states = [State(*map(tf.zeros_like, state)) if level == reset else state
                          for level, state in enumerate(states)]
            _, scores = open_loop.decode(
                open_loop.imagine(states, batch, first), batch, open_loop.after_context, first)
            for metric in shown:
                values.setdefault(f"{metric.name}__{key}", []).append(
                    intervals.defined_mean(scores[metric.name], 1))
    values = {name: np.concatenate(parts) for name, parts in values.items()}  # [N, F]
    done = interventions(model)
    rows = drops(shown, values, done, config.strides[-1])
    np.savez_compressed(
        os.path.join(out, "metrics.npz"), **values, open_loop_ctx=config.open_loop_ctx)
    settings |= {"num_examples": flags.num_examples, "num_samples": flags.num_samples}
    tools.save_json(os.path.join(out, "summary.json"), {"settings": settings, "interventions": rows})
    with tools.write_atomically(os.path.join(out, "levels.md")) as file:
        file.write(drops_table(shown, rows, values, config, flags))
    save_drops(os.path.join(out, "levels"), shown, values, done, config.open_loop_ctx)
    return "levels.png"


def drop(metric, values, key):
    """How much worse predictions get under an intervention, [N, F]."""
    return metric.advantage(values[f"{metric.name}__full"], values[f"{metric.name}__{key}"])


def drops(shown, values, done, soon):
    """How much every intervention lowers each metric, over all predicted frames and the first `soon`.

    Returns: a dict for each row: intervention, label, use_obs, reset_level, and for each metric and span
    of frames the mean drop over examples with its interval. Examples and noise are the same in all.
    """
    rows = []
    for key, label, use_obs, reset in done[1:]:
        row = {"intervention": key, "label": label, "use_obs": use_obs, "reset_level": reset}
        for metric in shown:
            change = drop(metric, values, key)
            for name, span in [(f"_drop_first_{soon}", change[:, :soon]), ("_drop", change)]:
                row[metric.name + name] = intervals.estimate(intervals.defined_mean(span, 1))
        rows.append(row)
    return rows


def drops_table(shown, rows, values, config, flags):
    """The drops as Markdown."""
    soon = config.strides[-1]
    spans = {f"_drop_first_{soon}": f"first {soon} frames", "_drop": "all frames"}
    lines = [["Intervention", *(f"{drop_label(metric)}, {words}"
                                for metric in shown for words in spans.values())]]
    for row in rows:
        what = "frames hidden from" if row["reset_level"] is None else "state reset of"
        lines.append([f"{what} {row['label']}", *(
            estimate_text(row[metric.name + span], metric.decimals)
            for metric in shown for span in spans)])
    examples, frames = values[f"{shown[0].name}__full"].shape
    full = ", ".join(f"{metric.axis} {np.nanmean(values[f'{metric.name}__full']):.{metric.decimals}f}"
                     for metric in shown)
    return (f"{markdown(lines)}\n"
            f"The full model has {full}: means over the {frames} frames after a context of "
            f"{config.open_loop_ctx}. Examples: {examples}; samples of each: {flags.num_samples}. A row "
            f"says how much worse predictions of the same examples with the same noise are than those "
            f"of the full model; in brackets the 95% interval over the examples.\n")


def drop_label(metric):
    """The label of a metric's drop; "rise" for a metric that is better when lower."""
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{metric.label} {'drop' if metric.better == 'higher' else 'rise'}{unit}"


def save_drops(stem, shown, values, done, context):
    """Draws the drops of every intervention over time, as PNG and PDF."""
    kinds = [("Frames hidden from", [item for item in done if item[0].startswith("hidden")]),
             ("State reset at the end of the context", [item for item in done if item[3] is not None])]
    with charts.saved_figure(stem, (7, 0.6 + 1.7 * len(shown))) as figure:
        grid = figure.subplots(len(shown), 2, sharex=True, sharey="row", squeeze=False)
        for column, (title, items) in enumerate(kinds):
            for axes, metric in zip(grid[:, column], shown, strict=True):
                for index, (key, label, *_) in enumerate(items):
                    change = drop(metric, values, key)
                    frames = np.arange(context + 1, context + 1 + change.shape[1])
                    look = charts.look(index) | {"marker": ""}
                    axes.fill_between(frames, *intervals.interval(change[None]), color=look["color"],
                                      alpha=0.15, linewidth=0)
                    axes.plot(frames, intervals.defined_mean(change, 0), label=label, **look)
                axes.axhline(0, color="0.4", linewidth=0.6)
                if column == 0:
                    axes.set_ylabel(drop_label(metric))
            grid[0, column].set_title(title)
            grid[0, column].legend(handlelength=3)
            grid[-1, column].set_xlabel("Frame")


# ------------------------------------------------------------------- how the information is spread


def information_data(config, flags):
    """The config with the changes of the flags, and the test sequences at the greatest speed.

    Sets flags.num_examples, and flags.seq_len to what the videos have. Raises UserError if no video is
    long enough for seq_len frames at the greatest speed.
    """
    config = config.replace(data_root=flags.data_root or config.data_root)
    fastest = config.replace(frame_skip=max(flags.frame_skips))
    if not flags.seq_len:
        lengths = data_loader.Sequences(fastest, 1).lengths
        flags.seq_len = min(config.seq_len, int(np.median(lengths)))
        if flags.seq_len < config.seq_len:
            print(f"Sequences have {flags.seq_len} frames, not the config's {config.seq_len}, because "
                  f"half of the test videos have no more at frame_skip {fastest.frame_skip}")
    data = data_loader.Sequences(fastest, flags.seq_len)
    flags.num_examples = num_examples(flags.num_examples, len(data))
    return config, data


def at_speeds(config, seq_len, skips):
    """Test sequences at each speed: every n-th frame of the same videos, from the same frame on."""
    return [data_loader.Sequences(config.replace(frame_skip=skip), seq_len,
                                  min_frames=(seq_len - 1) * max(skips) + 1) for skip in skips]


# What the loss logs of each level, by the names of files and the words of figures.
LOGGED = ("avg_kl_prior_posterior", "avg_entropy_prior", "avg_entropy_posterior")
QUANTITIES = {
    "kl": "KL of posterior and prior", "entropy_prior": "Entropy of prior",
    "entropy_posterior": "Entropy of posterior"}


def information(config, model, data, flags, settings, out):
    """Measures KL and entropies of every level at each speed, in nats per frame. Figure and table."""
    def observe(video, noise, states, actions):
        rollout = model.rollout(video, noise, states, actions)
        _, nats = nats_of_videos(model, rollout)
        return [nats[name] for name in LOGGED], list(map(last_state, rollout.levels))

    observe = startup.graph(observe, config)
    skips, values = sorted(set(flags.frame_skips)), []
    speeds = at_speeds(config, flags.seq_len, skips)
    for first, size in predictor.with_progress(flags.num_examples, flags.batch_size):
        seeds = predictor.seeds_of_videos(flags.seed, first, size)
        values.append(np.stack([nats_per_frame(model, observe, videos.batch(first, size), seeds)
                                for videos in speeds], -1))
    values = dict(zip(QUANTITIES, np.concatenate(values, 1), strict=True))  # [N, L, speeds] each
    if not np.isfinite(sum(values.values())).all():
        raise predictor.not_finite("the prior and posterior")
    np.savez_compressed(os.path.join(out, "information.npz"), **values, frame_skips=skips)
    settings |= {"num_examples": flags.num_examples, "seq_len": flags.seq_len}
    rows = [{"quantity": name, "level": level, "frame_skip": skip,
             **intervals.estimate(values[name][:, level, index])}
            for name in QUANTITIES for level in range(config.levels)
            for index, skip in enumerate(skips)]
    tools.save_json(os.path.join(out, "summary.json"), {
        "settings": settings, "unit": "nats per frame", "information": rows})
    with tools.write_atomically(os.path.join(out, "information.md")) as file:
        file.write(information_table(values, skips, flags.seq_len, config))
    save_information(os.path.join(out, "information"), values, skips, config.strides)
    return "information.png"


def nats_per_frame(model, observe, batch, seeds):
    """The quantities LOGGED of a batch of videos, [B, L] each, in nats per frame, chunk by chunk."""
    size, frames = batch["video"].shape[:2]
    chunk = model.config.whole_ticks(CHUNK)
    seeds = [fold_in(seed, 2) for seed in seeds]

    def noise(start, frames):
        return predictor.noise_of_videos(model, seeds, start // chunk, 1, frames)

    pieces = in_chunks(observe, batch["video"], batch.get("actions"), model.initial_states(size), noise,
                       chunk)
    return sum(np.stack(nats) for nats in pieces) / frames


def information_table(values, skips, seq_len, config):
    """The means of information, as Markdown."""
    lines = [["Nats per frame", "Level", *(f"frame_skip {skip}" for skip in skips)]]
    for name, label in QUANTITIES.items():
        for level in range(config.levels):
            lines.append([label, f"{level}", *(
                estimate_text(intervals.estimate(values[name][:, level, index]), 3)
                for index in range(len(skips)))])
    return (f"{markdown(lines)}\n"
            f"Means over {len(values['kl'])} examples of {seq_len} frames; in brackets the 95% "
            f"interval over the examples. Level 0 is at the bottom; the levels tick every "
            f"{', '.join(map(str, config.strides))} frames. Entropies of continuous states are "
            f"differential, and may be negative.\n")


def save_information(stem, values, skips, strides):
    """Draws the quantities over the speed, a line per level, as PNG and PDF."""
    with charts.saved_figure(stem, (7, 2.5)) as figure:
        for axes, (name, label) in zip(figure.subplots(1, 3), QUANTITIES.items(), strict=True):
            for level, stride in enumerate(strides):
                shown = values[name][:, level]
                look = charts.look(level)
                low, high = intervals.interval(shown[None])
                axes.vlines(skips, low, high, color=look["color"], linewidth=1)
                ticks = f"every {stride} frames" if stride > 1 else "every frame"
                axes.plot(skips, shown.mean(0), clip_on=False, label=f"level {level}, {ticks}", **look)
            axes.set_xscale("log", base=2)
            axes.set_xticks(skips, [str(skip) for skip in skips])
            axes.set_xticks([], minor=True)
            axes.set(title=label, xlabel="Speed (frame_skip)")
        figure.axes[0].set_ylabel("Nats per frame")
        figure.axes[0].set_ylim(bottom=0)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=3)


if __name__ == "__main__":
    tools.run_script(main)
