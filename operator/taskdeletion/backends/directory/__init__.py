"""The directory backend: one directory per task below a store's root, moved aside by a rename and then emptied.

Called by the workflow's executors (a thread or a Job). Decides nothing by itself: it touches exactly the task or
the sibling that the caller names. `opening` resolves the root, `root` renames, `checks` asks first. `walk` says what
happens at each directory (`measure`: what would), `entries` does it, `branches` and `deep` decide the order, `crew` has
the threads.
"""

from taskdeletion.backends.directory.crew import Crew
from taskdeletion.backends.directory.root import DirectoryRoot, Found
from taskdeletion.backends.directory.walk import Purged

__all__ = ["Crew", "DirectoryRoot", "Found", "Purged"]
