# SPDX-License-Identifier: MIT
"""Programs that run in the guest: `python -m tests.vfio_user_guest.programs.NAME`.

A program that fails ends with a traceback.
"""
