"""The directory backend: one directory per task below a store's root, moved aside by a rename and then emptied.

Called by the workflow's executors (a thread or a Job). Decides nothing by itself: it touches exactly the task or
the sibling that the caller names. `opening` resolves the root, `root` renames, `checks` asks first, `walk` empties.
"""

from taskdeletion.backends.directory.root import DirectoryRoot, Found
from taskdeletion.backends.directory.walk import Purged

__all__ = ["DirectoryRoot", "Found", "Purged"]
