"""Tasks that train: ordinary recipes run by `inkstone run`, each in a process of its own that outlives the server.

`task` turns what a person chose into a recipe and an estimate, `datasets` keeps and checks uploaded files, `exports`
makes files to take away, `queue`
starts, stops and finds processes again, `process` is what the system knows of them, `reading` what a run says of
itself, `routes` the pages' way to all of it.
"""

from inkstone.serve.jobs.queue import Jobs
from inkstone.serve.jobs.routes import mount_jobs

__all__ = ["Jobs", "mount_jobs"]
