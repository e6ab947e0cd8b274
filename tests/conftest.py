"""Property tests draw the same cases every time: what passed here passes in continuous integration.

Models are tiny and tests run beside each other, so torch computes with one thread, here and in all processes that a
test starts.
"""

import os

import hypothesis

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

hypothesis.settings.register_profile("inkstone", derandomize=True)
hypothesis.settings.load_profile("inkstone")
