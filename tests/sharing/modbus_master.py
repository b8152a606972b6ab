"""A Modbus-RTU master over TCP, by pymodbus: poll units in turn, and print what became of the requests, as JSON.

One that shares the line in rounds rests at the end of each, so that another has the line to itself then.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from pymodbus import FramerType, ModbusException
from pymodbus.client import ModbusTcpClient

COUNT = 10


def main(port: int, begin: float, seconds: float, timeout: float, work: float, rest: float, *asked: int) -> None:
    """Poll from ``begin`` on (seconds since 1970), ``work`` seconds and then none for ``rest``.

    ``asked`` is the first register, of which each unit behind it is asked for COUNT.
    """
    first, *units = asked
    logging.disable()
    client = ModbusTcpClient("127.0.0.1", port=port, framer=FramerType.RTU, timeout=timeout, retries=0)
    assert client.connect()
    result = {"right": 0, "wrong": 0, "timeouts": 0, "exceptions": 0, "longest": 0.0}
    by_unit = dict.fromkeys(units, 0)
    time.sleep(max(begin - time.time(), 0))
    number, address = 0, first
    while (began := time.time()) < begin + seconds:
        if rest and (passed := (began - begin) % (work + rest)) >= work:
            time.sleep(work + rest - passed)
            continue
        unit = units[number % len(units)]
        address = first + number % 7
        number += 1
        try:
            answer = client.read_holding_registers(address, count=COUNT, device_id=unit)
        except ModbusException:
            result["timeouts"] += 1
            client.close()
            client.connect()
            continue
        result["longest"] = max(result["longest"], time.time() - began)
        if answer.isError():
            result["exceptions"] += 1
        elif answer.registers == [unit << 12 | each for each in range(address, address + COUNT)]:
            result["right"] += 1
            by_unit[unit] += 1
        else:
            result["wrong"] += 1
    client.close()
    print(json.dumps(result | {"by_unit": by_unit}))


if __name__ == "__main__":
    port, begin, seconds, timeout, work, rest, *asked = sys.argv[1:]
    main(int(port), float(begin), float(seconds), float(timeout), float(work), float(rest), *map(int, asked))
