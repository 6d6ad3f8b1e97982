# make demo: prepares the built-in data, trains a small model, evaluates it, names the pictures.
# make demo-mazes: the same on walks through mazes, in colour, some ten minutes of two cores.
# make test: lints and runs the tests, but those that are slow, and prints the ten slowest.
# make test-all: lints and runs all tests, those too that kill, fill disks, or start several processes.
# make results: trains and compares one, two and three levels on one moving digit, some hours; part of
# it by make results SEEDS=1 LEVELS=3, with SEEDS the number of seeds. It goes on where it was stopped.
# Each installs what it needs into .venv, once.

PYTHON = python3
LOGS = logs
DEMO_FLAGS =
EVAL_FLAGS = --num-examples 20

SEEDS = 3
LEVELS = 1 2 3
RESULTS_FLAGS =
RESULTS_EVAL_FLAGS =

.PHONY: demo demo-mazes results test test-all clean

demo: .venv/installed
	.venv/bin/python train.py --config configs/demo.yml --log-root $(LOGS) $(DEMO_FLAGS)
	.venv/bin/python eval.py $(EVAL_FLAGS) --model-dir $$(.venv/bin/python -c \
	  "import startup, runs; print(runs.load_config('configs/demo.yml', {'log_root': '$(LOGS)'}).run_dir)")

demo-mazes: .venv/installed_mazes
	.venv/bin/python train.py --config configs/mazes_demo.yml --log-root $(LOGS) $(DEMO_FLAGS)
	run=$$(.venv/bin/python -c "import config; print(config.load_config(\
	  'configs/mazes_demo.yml', {'log_root': '$(LOGS)'}).run_dir)"); \
	  .venv/bin/python eval.py $(EVAL_FLAGS) --seq-len 200 --model-dir "$$run" && \
	  echo "Open $$(ls -td "$$run"/eval_*/contact_sheet.png | head -n 1)"

results: .venv/installed
	for seed in $$(seq 0 $$(($(SEEDS) - 1))); do for levels in $(LEVELS); do \
	  name=levels_$${levels}_seed_$$seed; run=$(LOGS)/moving_digit/$$name; \
	  .venv/bin/python train.py --config configs/results/levels_$$levels.yml --seed $$seed \
	    --log-root $(LOGS) --name $$name $(RESULTS_FLAGS) || exit; \
	  [ -e $$run/eval_results ] || .venv/bin/python eval.py --model-dir $$run --seq-len 1000 \
	    --no-save-grid --out $$run/eval_results $(RESULTS_EVAL_FLAGS) || exit; \
	done; done
	.venv/bin/python plot.py $(foreach n,$(sort $(LEVELS)),$(LOGS)/moving_digit/levels_$(n)_seed_*) \
	  --labels $(foreach n,$(sort $(LEVELS)),"levels: $(n)") --out $(LOGS)/results.png \
	  --spans 1-16 97-104 201-208 297-304 953-960 --animation $(LOGS)/results.gif --frames 300

test: .venv/installed
	.venv/bin/ruff check
	.venv/bin/python -m pytest -m "not slow"

test-all: .venv/installed
	.venv/bin/ruff check
	.venv/bin/python -m pytest

.venv/installed: requirements.txt requirements-dev.txt requirements.lock
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or later is needed: make PYTHON=...' \
	  if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --disable-pip-version-check -r requirements-dev.txt -c requirements.lock
	touch $@

.venv/installed_mazes: .venv/installed requirements-mazes.txt
	.venv/bin/pip install --disable-pip-version-check -r requirements-mazes.txt -c requirements.lock
	touch $@

clean:
	rm -rf .venv data logs
