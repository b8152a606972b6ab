"""A Modbus TCP master, by pymodbus: ask each unit for registers, and print what came of it, as JSON."""

from __future__ import annotations

import json
import logging
import sys

from pymodbus.client import ModbusTcpClient


def main(port: int, *units: int) -> None:
    """Print the registers of each unit, or the code of its exception."""
    logging.disable()
    client = ModbusTcpClient("127.0.0.1", port=port, timeout=3, retries=0)
    assert client.connect()
    answers = [client.read_holding_registers(100, count=3, device_id=unit) for unit in units]
    client.close()
    print(json.dumps([answer.exception_code if answer.isError() else answer.registers for answer in answers]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
