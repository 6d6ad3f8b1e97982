"""Kills preparation, training, saving and evaluation at random: python3 tests/kill.py --kills 100

One run that nothing disturbs comes first. Every other is killed by SIGKILL again and again, started
anew with the same command, and must end with the same files: the logged losses, the weights and the
optimizer, and the evaluation, bit for bit, and nothing half-written beside them.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import startup  # noqa: E402, F401

# isort: split
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import twins  # noqa: E402
import yaml  # noqa: E402

import runs  # noqa: E402

CONFIG = dict(
    dataset="videos", levels=2, tmp_abs_factor=2, channels_mult=1 / 32, cell_stoch_size=3,
    cell_deter_size=5, cell_embed_size=4, enc_dense_layers=1, enc_dense_embed_size=6, seq_len=8,
    eval_seq_len=10, open_loop_ctx=4, batch_size=2, max_steps=40, save_scalars_every=7, save_gifs=False,
    save_model_every=5, save_named_model_every=20, lr_schedule="cosine", lr_warmup_steps=3, name="run")
PATIENCE = 300  # seconds for a process to come to where it is to be killed


def make_videos(folder):
    """A folder of videos of two kinds: arrays, and films that ffmpeg decodes."""
    for split, films, arrays in [("train", 4, 8), ("val", 0, 2), ("test", 1, 2)]:
        (folder / split).mkdir(parents=True)
        for number in range(films + arrays):
            video = twins.movie([number, len(split)], 20)
            if number < films:
                twins.encode(video, folder / split / f"{number}.mp4")
            else:
                np.save(folder / split / f"{number}.npy", video)


class Place:
    """A folder with data, config and run, and the two commands."""

    def __init__(self, folder):
        self.folder, self.data = folder, folder / "data"
        self.run = folder / "logs" / "videos" / CONFIG["name"]
        folder.mkdir()
        make_videos(self.data)
        config = CONFIG | dict(data_root=str(self.data), log_root=str(folder / "logs"))
        (folder / "a.yml").write_text(yaml.safe_dump(config))

    def start(self, script):
        flags = {"train.py": ["--config", self.folder / "a.yml"],
                 "eval.py": ["--model-dir", self.run, "--num-samples", 2, "--no-save-grid",
                             "--out", self.folder / "out"]}[script]
        with open(self.folder / f"{script}.log", "a") as log:
            return subprocess.Popen([sys.executable, str(ROOT / script), *map(str, flags)], stdout=log,
                                    stderr=log, cwd=ROOT)

    def finish(self, script):
        process = self.start(script)
        if process.wait(timeout=2 * PATIENCE):
            raise SystemExit(f"{script} ended with {process.returncode}: see {self.folder}/{script}.log")

    def entries(self, pattern):
        found = set()
        for path in self.folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # Renamed, or removed, since.
                found.add((path.name, path.stat().st_mtime_ns))
        return found

    def result(self):
        """What must be the same, however often the processes were killed."""
        (out,) = self.folder.glob("out")
        values = {"metrics": (self.run / "metrics.jsonl").read_bytes()}
        for directory in ("model", "model_20", "model_40", "model_best"):
            prefix = runs.find_checkpoint(self.run / directory)[1]
            reader = tf.train.load_checkpoint(prefix)
            values[directory] = os.path.basename(prefix), {
                name: reader.get_tensor(name).tobytes() for name in reader.get_variable_to_shape_map()
                if name.endswith("VARIABLE_VALUE")}
        with np.load(out / "metrics.npz") as arrays:
            values["evaluation"] = {name: arrays[name].tobytes() for name in arrays.files}
        return values

    def leftovers(self):
        found = [path for path in self.folder.rglob("*")
                 if path.name.endswith((".part", ".old", ".new")) or "_temp" in path.name
                 or ".tmp" in path.name or path.name in (".lock", "journal")]
        return found + orphans(self.folder)


def orphans(folder):
    """Processes other than scripts of ours that work in a folder."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # It has ended.
            continue
        if "ffmpeg" in command and str(folder) in command:
            found.append(f"process {process.name}: {command}")
    return found


# phase: (script, pattern of files by whose change it is known to be there, seconds until the kill)
PHASES = {
    "preparation": ("train.py", "data/frames*/*", 0.2),
    "start": ("train.py", None, 4),
    "training": ("train.py", "logs/*/*/metrics.jsonl", 0.3),
    "saving": ("train.py", "logs/*/*/model*/*", 0.02),
    "evaluation": ("eval.py", "out.part/*", 1),
}
# Where a run is killed; in the order of PHASES. The first of them make a short form.
ROUND = ("preparation", "training", "saving", "evaluation", "start", *["preparation"] * 2,
         *["training"] * 3, *["saving"] * 4, "evaluation")


def kill_in(place, phase, rng):
    """Starts a script and kills it in a phase. Returns whether it was killed before it had ended."""
    script, pattern, longest = PHASES[phase]
    before = place.entries(pattern) if pattern else set()
    # Steps and saving come again and again: let some go by.
    changes = rng.randint(1, 4) if phase in ("training", "saving") else 1
    process = place.start(script)
    deadline = time.monotonic() + PATIENCE
    while pattern and changes and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
        now = place.entries(pattern)
        changes -= now != before
        before = now
    time.sleep(rng.uniform(0, longest))
    process.send_signal(signal.SIGKILL)
    if process.wait() == -signal.SIGKILL:
        return True
    if process.returncode:
        raise SystemExit(f"{script} ended with {process.returncode}: see {place.folder}/{script}.log")
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--folder", type=pathlib.Path, help="to work in (default: a temporary one)")
    flags = parser.parse_args()
    rng, kills = random.Random(flags.seed), collections.Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or pathlib.Path(temporary)
        whole = Place(folder / "whole")
        whole.finish("train.py")
        whole.finish("eval.py")
        expected, round_number = whole.result(), 0
        while kills.total() < flags.kills:
            round_number += 1
            place = Place(folder / f"killed_{round_number}")
            phases = ROUND[:flags.kills - kills.total()]
            for phase in sorted(phases, key=list(PHASES).index):
                if phase == "evaluation" and not (place.run / "model_40" / "checkpoint").exists():
                    place.finish("train.py")
                kills[phase] += kill_in(place, phase, rng)
            place.finish("train.py")
            place.finish("eval.py")
            found = place.result()
            for name, value in expected.items():
                if found[name] != value:
                    raise SystemExit(f"{name} of {place.folder} is not that of {whole.folder}")
            if place.leftovers():
                raise SystemExit(f"left in {place.folder}: {place.leftovers()}")
            print(f"{kills.total()} kills, all resumed exactly: {dict(kills)}", flush=True)


if __name__ == "__main__":
    main()
