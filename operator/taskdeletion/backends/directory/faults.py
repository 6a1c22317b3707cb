"""What an errno of the file system means: the one table from OSError to a named Fault.

Called by the other files of this package. Messages hold reasons only, never the name of a file.
"""

import errno
import os

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault, FaultKind

_MEANING: dict[int, tuple[FaultKind, str]] = {
    errno.EACCES: ("permanent", reasons.PERMISSION_DENIED),
    errno.EPERM: ("permanent", reasons.PERMISSION_DENIED),
    errno.EROFS: ("permanent", reasons.READ_ONLY),
    errno.EXDEV: ("permanent", reasons.CROSSES_DEVICE),
    errno.EBUSY: ("retriable", reasons.BUSY),
    errno.ETXTBSY: ("retriable", reasons.BUSY),
}


def fault_from(error: OSError, action: str) -> Fault:
    """The Fault for what an operation answered; everything without a meaning of its own is a retriable IoError."""
    number = error.errno or errno.EIO
    kind, reason = _MEANING.get(number, ("retriable", reasons.IO_ERROR))
    return Fault(kind, reason, f"{action}: {os.strerror(number)}")


def mount_inside() -> Fault:
    """The Fault for a mount at or below a task's directory."""
    return Fault("permanent", reasons.MOUNT_INSIDE, "something is mounted inside the directory; unmount it first")
