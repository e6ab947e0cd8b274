"""Property tests draw the same cases every time: what passed here passes in continuous integration.

Models are tiny and tests run beside each other, so torch computes with one thread, here and in all processes that a
test starts.
"""

import os

import hypothesis
import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

hypothesis.settings.register_profile("inkstone", derandomize=True)
hypothesis.settings.load_profile("inkstone")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The cores that this process may use: xdist would count those of the host, and not the logical ones."""
    may = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min(8, len(may))
