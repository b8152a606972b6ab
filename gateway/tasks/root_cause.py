"""Find the first real exception in a group, for a log line or a user."""

from __future__ import annotations

__all__ = ["root_cause"]


def root_cause(error: BaseException) -> BaseException:
    """Return the first exception that is no group: each nursery wraps the exception that ended it in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
