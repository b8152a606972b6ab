"""Find the exception in the depth of a group, for a log line or a user."""

from __future__ import annotations

__all__ = ["root_cause"]


def root_cause(error: BaseException) -> BaseException:
    """Return the first exception that is no group; a nursery wraps the one that ended it, once for each level."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
