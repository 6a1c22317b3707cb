"""The objects of a task in a bucket of MinIO or another S3. The only room that imports minio and urllib3's errors.

`objects.py` deletes and looks, `purge.py` keeps the state of one purge, `bucket.py` sends, `listing.py` and
`batches.py` read and write XML, `connection.py` opens, `faults.py` names errors.
"""

from taskdeletion.backends.objects.connection import ObjectConnection
from taskdeletion.backends.objects.objects import BATCH_SIZE, MAX_PASSES, Objects

__all__ = ["BATCH_SIZE", "MAX_PASSES", "ObjectConnection", "Objects"]
