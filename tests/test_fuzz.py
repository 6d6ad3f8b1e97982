"""Files that are damaged at random: read whole, or something is said of them."""

import fuzz
import pytest


@pytest.mark.slow
def test_damaged_files_are_read_whole_or_spoken_of():
    results = fuzz.run(60, 0)
    assert not [result for result in results if result[0] not in ("whole", "said")]
    assert 30 < sum(outcome == "said" for outcome, *_ in results) < 60
