"""requirements.lock is what these tests run with, and agrees with what is asked for."""

import importlib.metadata
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    found = dict(line.split("==") for line in lines if "==" in line)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found.items()}


def test_the_lock_is_what_is_installed_and_holds_what_is_asked_for():
    locked = pins("requirements.lock")
    for package, version in (pins("requirements.txt") | pins("requirements-dev.txt")).items():
        assert locked[package] == version
    assert locked == {package: importlib.metadata.version(package) for package in locked}
