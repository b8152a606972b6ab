"""Apply a changed configuration file at SIGHUP: some keys at once, the others at the next start.

A daemon in a cabinet must not end because of a typo: after a file with errors the old configuration stays in force, and
the status says so until a good file is read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from gateway.host.config_error import ConfigError
from gateway.host.config_file import load
from protocol.frozen import frozen

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.host.config import Config

__all__ = ["AT_ONCE", "Reload", "changed_keys", "reload"]

logger = logging.getLogger(__name__)

AT_ONCE: Final = frozenset(
    {
        "http.browser_guard",
        "http.origins",
        "http.trusted_proxies",
        "http.tls_certificate",
        "http.tls_key",
        "http.metrics_token",
    }
)
"""The keys that a running gateway applies; all others wait for the next start. docs/operating lists them all."""


@final
@frozen
class Reload:
    """The configuration after ``count`` SIGHUPs; ``config`` is the last file without errors."""

    config: Config
    count: int = 0
    errors: tuple[str, ...] = ()
    """The errors of the newest file, if it has some."""
    waiting: tuple[str, ...] = ()
    """The keys that wait for the next start."""

    @property
    def status(self) -> dict[str, object]:
        """The part of the status about the configuration file."""
        return {"errors": list(self.errors), "at_next_start": list(self.waiting)}


def reload(path: Path | None, running: Config, last: Reload) -> Reload:
    """Read the file again, and log the result; ``running`` is the configuration of the start.

    Without a file only the TLS certificate is read again.
    """
    count = last.count + 1
    if path is None:
        logger.info("SIGHUP: no configuration file; reading the TLS certificate")
        return replace(last, count=count)
    try:
        config = load(path)
    except ConfigError as exc:
        for message in exc.messages:
            logger.error("SIGHUP: %s: %s", path, message)  # noqa: TRY400 -- the traceback says no more
        logger.error("SIGHUP: %s has errors; the configuration in force stays", path)  # noqa: TRY400
        return replace(last, count=count, errors=exc.messages)
    now = [key for key in changed_keys(last.config.written, config.written) if key in AT_ONCE]
    waiting = tuple(key for key in changed_keys(running.written, config.written) if key not in AT_ONCE)
    logger.info("SIGHUP: %s: now: %s", path, ", ".join(["the TLS certificate", *now]))
    if waiting:
        logger.warning("SIGHUP: %s: at the next start: %s", path, ", ".join(waiting))
    return Reload(config, count, (), waiting)


def changed_keys(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[str, ...]:
    """Return the keys that differ between two files as they are written, as ``http.origins`` or ``serial[0].device``.

    A key that is left out in one file and has its default value in the other differs too: the defaults are not known
    here.
    """
    one, other = dict(_keys(before)), dict(_keys(after))
    return tuple(key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key))


def _keys(found: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield from _keys(value, f"{path}.{key}" if path else key)
    elif isinstance(found, list) and found and isinstance(found[0], Mapping):
        yield f"{path}[]", len(found)
        for number, value in enumerate(found):
            yield from _keys(value, f"{path}[{number}]")
    else:
        yield path, found
