# make demo: prepares the built-in data, trains a small model, evaluates it, names the pictures.
# make test: lints and runs the tests, but those that are slow, and prints the ten slowest.
# make test-all: lints and runs all tests, those too that kill, fill disks, or start several processes.
# Each installs what it needs into .venv, once.

PYTHON = python3
LOGS = logs
DEMO_FLAGS =
EVAL_FLAGS = --num-examples 20

.PHONY: demo test test-all clean

demo: .venv/installed
	.venv/bin/python train.py --config configs/demo.yml --log-root $(LOGS) $(DEMO_FLAGS)
	.venv/bin/python eval.py $(EVAL_FLAGS) --model-dir $$(.venv/bin/python -c \
	  "import quiet, runs; print(runs.load_config('configs/demo.yml', {'log_root': '$(LOGS)'}).run_dir)")

test: .venv/installed
	.venv/bin/ruff check
	.venv/bin/python -m pytest -m "not slow"

test-all: .venv/installed
	.venv/bin/ruff check
	.venv/bin/python -m pytest

.venv/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or later is needed: make PYTHON=...' \
	  if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv data logs
