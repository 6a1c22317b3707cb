"""The objects of a task in a bucket of MinIO or another S3. The only room that imports minio and urllib3's errors.

`bucket.py` deletes and looks, `purge.py` keeps the state of one purge, `connection.py` opens, `faults.py` names errors.
"""

from taskdeletion.backends.objects.bucket import BATCH_SIZE, MAX_PASSES, Objects
from taskdeletion.backends.objects.connection import ObjectConnection

__all__ = ["BATCH_SIZE", "MAX_PASSES", "ObjectConnection", "Objects"]
