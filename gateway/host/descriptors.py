"""Ask the host for descriptors: each client costs one, and systemd gives a service 1024 unless it asks for more."""

from __future__ import annotations

import contextlib
import resource

__all__ = ["raise_limit"]

_WANTED = 8192


def raise_limit() -> int:
    """Raise the soft limit of descriptors to 8192, or to the hard limit if that is lower, and return the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it; then the old limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
