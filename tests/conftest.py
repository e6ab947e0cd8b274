"""Property tests draw the same cases every time: what passed here passes in continuous integration."""

import hypothesis

hypothesis.settings.register_profile("inkstone", derandomize=True)
hypothesis.settings.load_profile("inkstone")
