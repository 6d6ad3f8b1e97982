"""A short form of kill.py: a kill in each of preparation, training, saving and evaluation."""

import pytest
from conftest import finish, script


@pytest.mark.slow
def test_what_is_killed_goes_on_exactly():
    output = finish(script("tests/kill.py", "--kills", 4), timeout=1800)
    assert "4 kills, all resumed exactly" in output
    assert all(phase in output for phase in ("preparation", "training", "saving", "evaluation"))
