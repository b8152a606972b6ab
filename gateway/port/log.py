"""Write the log of one port: each line begins with the port's name, and each record carries it as ``record.port``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["PortLogger"]


@final
class PortLogger(logging.LoggerAdapter[logging.Logger]):
    """A module's logger for one port manager, ``port`` (``P0``)."""

    def __init__(self, logger: logging.Logger, port: str) -> None:
        super().__init__(logger, {"port": port})
        self._port = port

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """See logging.LoggerAdapter."""
        kwargs["extra"] = self.extra
        return f"{self._port} {msg}", kwargs
