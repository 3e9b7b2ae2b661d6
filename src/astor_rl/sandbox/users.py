"""Which user ids are taken by sandboxes of this machine, so that no two jobs share one.

The kernel counts a user's processes, wherever they are: with one id for two jobs, one job's
threads would be taken from the other's. Trainers don't know of each other, so each id in use is
held by an abstract socket of that name: the kernel gives a name away once, and takes it back
when its process ends, however it ends. Containers with network namespaces of their own don't see
each other's names; there a search that begins anywhere makes a shared id unlikely.
"""

from __future__ import annotations

import secrets
import socket
from typing import Final

from astor_rl.errors import SandboxError

FIRST: Final = 61184
COUNT: Final = 4000
"""User ids [FIRST, FIRST + COUNT) are the sandbox's; by convention nobody else has them."""


class ClaimedUser:
    """A user id that is nobody else's until `release`, or the end of this process.

    Raises:
        SandboxError: all are taken.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        start = secrets.randbelow(COUNT)
        for offset in range(COUNT):
            uid = FIRST + (start + offset) % COUNT
            try:
                self._socket.bind(f"\0astor-sandbox-user-{uid}")
            except OSError:
                continue
            self.uid = uid
            return
        self._socket.close()
        raise SandboxError(f"all {COUNT} user ids of sandboxes are taken on this machine")

    def release(self) -> None:
        """Give it back. Idempotent."""
        self._socket.close()
