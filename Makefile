# make demo: prepares built-in data, trains a small model, evaluates it, and names the folder of results.
# make demo-mazes: the same with walks through mazes, in colour. It takes ten minutes on two cores.
# make test: checks the style and runs the quick tests.
# make test-all: checks the style and runs all tests. Slow ones kill, fill disks, or start processes.
# make results: trains and compares one, two and three levels on one moving digit, and one level that is
# as large as three. This takes hours. make results SET=busy compares one large level and three levels
# where the bottom level is busy, and make results SET=mazes does so on walks through mazes.
# make results SEEDS=1 LEVELS=3 is a part of it. Started again, it goes on.
# The first of these installs all packages into .venv.

PYTHON = python3
LOGS = logs
DEMO_FLAGS =
EVAL_FLAGS = --num-examples 20

TEST_FLAGS = -n 2 --dist loadfile

SEEDS = 3
SET = digits
RESULTS_FLAGS =
RESULTS_EVAL_FLAGS =
RESULTS_NAME = $(SET)_levels_
RESULTS_DATASET = moving_digit
RESULTS_LENGTH = --seq-len 1000
RESULTS_SPANS = 1-16 97-104 201-208 297-304 953-960
RESULTS_INSTALLED = .venv/installed
ifeq ($(SET),digits)
LEVELS = 1 1_matched 2 3
RESULTS_NAME = levels_
else ifeq ($(SET),busy)
LEVELS = 1 3
else ifeq ($(SET),mazes)
LEVELS = 1 2 3
RESULTS_DATASET = doom_mazes
RESULTS_LENGTH = --seq-len 500 --mean-only
RESULTS_SPANS = 1-8 9-16 17-32 33-64 65-436
RESULTS_INSTALLED = .venv/installed_mazes
else
$(error SET is digits, busy or mazes, not $(SET))
endif

.PHONY: demo demo-mazes results test test-all clean

demo: .venv/installed
	.venv/bin/python train.py --config configs/demo.yml --log-root $(LOGS) $(DEMO_FLAGS)
	.venv/bin/python eval.py $(EVAL_FLAGS) --model-dir $$(.venv/bin/python -c \
	  "import startup, runs; print(runs.load_config('configs/demo.yml', {'log_root': '$(LOGS)'}).run_dir)")

demo-mazes: .venv/installed_mazes
	.venv/bin/python train.py --config configs/mazes_demo.yml --log-root $(LOGS) $(DEMO_FLAGS)
	run=$$(.venv/bin/python -c "import config; print(config.load_config(\
	  'configs/mazes_demo.yml', {'log_root': '$(LOGS)'}).run_dir)"); \
	  .venv/bin/python eval.py $(EVAL_FLAGS) --mean-only --seq-len 150 --model-dir "$$run" && \
	  echo "Open $$(ls -td "$$run"/eval_*/contact_sheet.png | head -n 1)"

results: $(RESULTS_INSTALLED)
	for seed in $$(seq 0 $$(($(SEEDS) - 1))); do for levels in $(LEVELS); do \
	  name=$(RESULTS_NAME)$${levels}_seed_$$seed; run=$(LOGS)/$(RESULTS_DATASET)/$$name; \
	  .venv/bin/python train.py --config configs/results/$(RESULTS_NAME)$$levels.yml --seed $$seed \
	    --log-root $(LOGS) --name $$name $(RESULTS_FLAGS) || exit; \
	  [ -e $$run/eval_results ] || .venv/bin/python eval.py --model-dir $$run $(RESULTS_LENGTH) \
	    --no-save-grid --out $$run/eval_results $(RESULTS_EVAL_FLAGS) || exit; \
	done; done
	.venv/bin/python plot.py $(foreach n,$(sort $(LEVELS)),\
	  $(LOGS)/$(RESULTS_DATASET)/$(RESULTS_NAME)$(n)_seed_*) \
	  --labels $(foreach n,$(sort $(LEVELS)),"levels: $(n)") --out $(LOGS)/results_$(SET).png \
	  --spans $(RESULTS_SPANS) --animation $(LOGS)/results_$(SET).gif --frames 300

test: .venv/installed
	.venv/bin/ruff check
	.venv/bin/python -m pytest $(TEST_FLAGS) -m "not slow"

test-all: .venv/installed
	.venv/bin/ruff check
	.venv/bin/python -m pytest $(TEST_FLAGS)

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
