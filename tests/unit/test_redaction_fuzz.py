"""A short run of `tests/fuzz_redaction.py`."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from fuzz_redaction import fuzz


@pytest.mark.parametrize("seed", range(2))
def test_hostile_files_are_masked_whole_and_restored(seed: int) -> None:
    fuzz(seed, 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 105))
def test_thousands_of_hostile_files(seed: int) -> None:
    fuzz(seed, 500)
