"""What XLA compiled is kept for the next process, and nothing that is wrong with the files stops one."""

import os
import subprocess
import sys

import pytest

COMPILE = """
import startup
import tensorflow as tf
print(float(tf.function(lambda x: tf.sin(x) @ tf.cos(x), jit_compile=True)(tf.eye(20))[0, 0]).hex())
"""


@pytest.fixture
def compiles(tmp_path):
    """Compiles a function in a process of its own. Returns what it prints, and the kept files."""

    def run(**environment):
        done = subprocess.run(
            [sys.executable, "-c", COMPILE], text=True, capture_output=True, check=False,
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)} | environment)
        assert done.returncode == 0, done.stderr
        assert not list(tmp_path.glob("clockwork_vae_xla_*"))
        return done, {path: path.stat().st_mtime_ns for path in tmp_path.glob("clockwork_vae/*/*")}

    return run


def test_the_next_process_uses_what_was_compiled(compiles):
    first, kept = compiles()
    second, again = compiles()
    assert len(kept) == 1 and again == kept
    assert second.stdout == first.stdout and not first.stderr and not second.stderr


@pytest.mark.slow
def test_a_file_that_is_cut_is_made_anew(compiles):
    first, (path, *_) = compiles()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    second, kept = compiles()
    assert second.stdout == first.stdout
    assert list(kept) == [path] and len(path.read_bytes()) == len(whole)


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_named(compiles, tmp_path):
    (tmp_path / "clockwork_vae").write_text("")
    done, _ = compiles()
    assert str(tmp_path / "clockwork_vae") in done.stderr and len(done.stderr.splitlines()) == 1
