"""What XLA compiled is kept for the next process, and nothing that is wrong with the files stops one."""

import os
import signal
import subprocess
import sys
import time

import pytest

import compiled

COMPILE = """
import startup
import tensorflow as tf
print(float(tf.function(lambda x: tf.sin(x) @ tf.cos(x), jit_compile=True)(tf.eye(20))[0, 0]).hex())
"""
WAIT = "import time\nprint('', flush=True)\ntime.sleep(100)\n"


@pytest.fixture
def start(tmp_path):
    """Starts a process that compiles a function. Returns it."""
    return lambda code=COMPILE: subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)})


@pytest.fixture
def compiles(start, tmp_path):
    """Compiles a function in a process of its own. Returns what it prints, and the kept files."""

    def run():
        process = start()
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        kept = tmp_path.glob("cache/clockwork_vae/xla/*/*.pb")
        return output, errors, {path: path.stat().st_mtime_ns for path in kept}

    return run


@pytest.mark.slow
def test_the_next_process_uses_what_was_compiled(compiles, tmp_path):
    first, _, kept = compiles()
    second, errors, again = compiles()
    assert len(kept) == 1 and again == kept
    assert second == first and not errors
    assert os.listdir(tmp_path) == ["cache"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_a_signal_ends_leaves_nothing_but_what_it_compiled(start, tmp_path, number):
    process = start(COMPILE + WAIT)
    process.stdout.readline()
    process.send_signal(number)
    process.communicate()
    assert not list(tmp_path.glob("*clockwork*"))
    (folder,) = tmp_path.glob("cache/clockwork_vae/xla/*")
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".pb"]  # the lock and a program


@pytest.mark.slow
def test_a_file_that_is_cut_is_made_anew(compiles):
    first, _, (path, *_) = compiles()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    second, errors, again = compiles()
    assert second == first and not errors
    assert list(again) == [path] and len(path.read_bytes()) == len(whole)


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_named(compiles, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/clockwork_vae").write_text("")
    _, errors, _ = compiles()
    assert str(tmp_path / "cache/clockwork_vae") in errors and len(errors.splitlines()) == 1


@pytest.mark.slow
def test_what_is_kept_may_be_removed_while_a_process_runs(start, tmp_path):
    code = COMPILE.replace("print(", "import shutil\nfor _ in range(2):\n  print(")
    process = start(f"{code}  shutil.rmtree({str(tmp_path / 'cache')!r})\n")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    first, second = output.splitlines()
    assert first == second


@pytest.mark.parametrize("content, whole", [
    (b"\x0a\x02ab", True), (b"\x0a\x02ab\x12\x81\x01" + bytes(129), True), (b"", False),
    (b"\x0a", False), (b"\x0a\x02a", False), (b"\x0a\x02abc", False), (b"\x0a\x80", False),
    (bytes(9), False), (b"\x0a" + b"\xff" * 20, False)])
def test_a_file_is_whole_if_it_ends_where_its_last_field_does(tmp_path, content, whole):
    path = tmp_path / "a.pb"
    path.write_bytes(content)
    compiled.tidy(str(tmp_path))
    assert path.exists() == whole


def entry(path, age, size=10):
    """Writes a whole file, as long as it says itself, that was last used `age` seconds ago."""
    path.write_bytes(b"\x0a" + bytes([size]) + bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


TIDY = "import compiled\ncompiled.MOST = {}\ncompiled.tidy({!r})\n"


def test_files_are_removed_when_no_other_process_may_read_them(tmp_path):
    paths = [entry(tmp_path / f"{age}.pb", age) for age in (300, 200)]
    paths.append(tmp_path / "killed.pb-1-2-3.tmp")  # TensorFlow was killed as it wrote this.
    paths[-1].write_bytes(b"\x0a")
    cut = tmp_path / "cut.pb"
    cut.write_bytes(b"\x0a\x05")
    tidy = TIDY.format(1, str(tmp_path))
    other = subprocess.Popen(
        [sys.executable, "-c", TIDY.format(9, str(tmp_path)) + WAIT], stdout=subprocess.PIPE)
    other.stdout.readline()
    for path in paths[2:]:
        path.write_bytes(b"\x0a")
    cut.write_bytes(b"\x0a\x05")
    subprocess.run([sys.executable, "-c", tidy], check=True)
    assert all(path.exists() for path in paths) and not cut.exists()
    other.kill()
    other.wait()
    subprocess.run([sys.executable, "-c", tidy], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"200.pb", "lock"}
