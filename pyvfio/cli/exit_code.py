# SPDX-License-Identifier: MIT
"""The exit codes of the command. A command that is interrupted ends by the signal, as a shell expects (130)."""

from __future__ import annotations

#: done
DONE = 0
#: the kernel or the library refused the operation, or the operation failed, or a finding or difference was reported
FAILED = 1
#: wrong usage
USAGE = 2
#: there is no such device, or nothing was found
NOTHING = 3
