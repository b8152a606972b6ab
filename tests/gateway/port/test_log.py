"""The log of one port."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gateway.port.log import PortLogger

if TYPE_CHECKING:
    import pytest


def test_each_line_begins_with_the_port_and_each_record_carries_it(caplog: pytest.LogCaptureFixture) -> None:
    log = PortLogger(logging.getLogger("gateway.clients.service"), "P3")
    log.warning("%s refused: %s", "192.0.2.7:4001", "100 % full")
    (record,) = caplog.records
    assert record.getMessage() == "P3 192.0.2.7:4001 refused: 100 % full"
    assert (record.name, record.__dict__["port"]) == ("gateway.clients.service", "P3")
