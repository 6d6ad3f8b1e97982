import contextlib
import io
import json
import pathlib
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import startup  # noqa: E402, F401

# isort: split
import tools  # noqa: E402
import train  # noqa: E402
from config import load_config  # noqa: E402
from video_data import preparation, videos  # noqa: E402
from video_data.moving_digits import MovingDigits  # noqa: E402

# A run of a few seconds: a very small model, on the smallest of the built-in datasets. XLA would take
# longer than all that it speeds up; the tests of what it compiles ask for it.
TINY = dict(
    dataset="moving_digits_demo", levels=2, tmp_abs_factor=2, channels_mult=1 / 32, cell_stoch_size=3,
    cell_deter_size=5, cell_embed_size=4, enc_dense_embed_size=6, seq_len=8, eval_seq_len=10,
    open_loop_ctx=4, batch_size=2, max_steps=24, save_scalars_every=2, save_gifs_every=12,
    save_model_every=5, save_named_model_every=20, jit=False)


def script(name, *flags, **popen):
    """Starts a script as a user would."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / name), *map(str, flags)], text=True, cwd=popen.pop("cwd", ROOT),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **popen)


def finish(process, code=0, timeout=600):
    """Waits for a script. Returns what it printed."""
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == code, output
    return output


def call(main, *flags):
    """Runs a script's main in this process, which saves imports. Returns what it printed."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr("sys.argv", [f"{main.__module__}.py", *map(str, flags)])
        main()
    return said.getvalue()


def scalars(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def wait_for_step(process, log_root, step):
    """Waits until a run has logged a step. Returns its directory."""
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        for file in pathlib.Path(log_root).glob("*/*/metrics.jsonl"):
            if f'"step": {step}, "split": "val"' in file.read_text():
                return file.parent
        time.sleep(0.01)
    process.kill()  # It may still run, for hours.
    raise AssertionError(process.communicate()[0])


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder with the tiny config and its data, which are few."""
    folder = tmp_path_factory.mktemp("work")
    config = {**TINY, "data_root": str(folder / "data"), "log_root": str(folder / "logs")}
    (folder / "tiny.yml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MovingDigits.SIZES, "demo", ((40, 100), (8, 300)))
        preparation.prepare(load_config(folder / "tiny.yml"))
    return folder


@pytest.fixture(scope="session")
def run_dir(workplace):
    """A run of the tiny config that nothing interrupted."""
    output = call(train.main, "--config", workplace / "tiny.yml")
    assert "Trained for 24 steps" in output
    (found,) = (workplace / "logs" / "moving_digits_demo").iterdir()
    return found


@pytest.fixture(scope="module")
def kept_readers():
    """The processes that read files stay for all tests of a module, which saves their starts."""
    with pytest.MonkeyPatch.context() as patch, videos.Readers() as readers:
        patch.setattr(videos.Readers, "__enter__", lambda _: readers)
        patch.setattr(videos.Readers, "__exit__", lambda *_: None)
        yield


@pytest.fixture
def refusal(monkeypatch, capsys):
    """A function that runs a script's main in this process: the one line by which it refuses flags."""
    def run(main, *flags):
        name = f"{main.__module__}.py"
        monkeypatch.setattr("sys.argv", [name, *map(str, flags)])
        with pytest.raises(SystemExit) as stop:
            tools.run_script(main)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith(f"{name}: error: ")
        assert error.count("\n") == 1
        return error

    return run


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Says which tests did not run: those that are slow, and those that lack something."""
    deselected = terminalreporter.stats.get("deselected", [])
    left_out = sorted({item.nodeid.split("::")[0] for item in deselected
                       if item.get_closest_marker("slow")})
    if left_out:
        terminalreporter.write_line(
            f"Left out, since they are slow (make test-all runs them): some of {', '.join(left_out)}")
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"Left out: {report.nodeid}: {report.longrepr[2]}")
