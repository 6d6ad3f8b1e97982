"""Fails unless a demo predicts as well as it should.

    python tests/check_demo.py RUN_DIR --identity 0.95 --psnr 0 --ssim 0

The bounds that CI gives are below what the worst of the seeds in results/experiments.md reached.
"""

import argparse
import json
import os
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from evaluations import newest_evaluation  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("run", help="the run directory; its newest evaluation counts")
parser.add_argument("--identity", type=float, required=True,
                    help="least share of digits read rightly over the first 16 predicted frames")
parser.add_argument("--psnr", type=float, required=True,
                    help="least dB from the best trivial predictor's PSNR to the model's, at each of "
                         "the first 10 predicted frames")
parser.add_argument("--ssim", type=float, required=True, help="likewise of SSIM")
flags = parser.parse_args()

newest = newest_evaluation(flags.run) or sys.exit(f"{flags.run} has no whole evaluation.")
with np.load(os.path.join(newest, "metrics.npz")) as scores:
    found = {"identity": scores["identity"][..., :16].mean()}
    for name in ("psnr", "ssim"):
        trivial = [scores[f"{name}_{other}"].mean(0)[:10]
                   for other in ("last_frame", "context_mean", "black")]
        found[name] = (scores[name].mean((0, 1))[:10] - np.max(trivial, 0)).min()
found = {name: round(float(value), 3) for name, value in found.items()}
print(json.dumps(found))
asked = {name: getattr(flags, name) for name in found}
if any(found[name] < asked[name] for name in found):
    sys.exit(f"The demo is worse than it should be: at least {asked} was asked for.")
