"""The two ways a command ends badly: the user's mistake, or a failure while it ran."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend. Printed as it stands, without a traceback; exit code 2.

    The text says what was wrong, where it came from (flag, file, line) and what to do next.
    """

    exit_code = 2


class RunFailed(Exception):
    """A run that began properly and could not go on (a full disk, a loss that is not finite); exit code 1."""

    exit_code = 1
