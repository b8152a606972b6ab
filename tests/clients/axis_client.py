"""Home Assistant's client of Axis products (PyPI `axis`, version 60), unmodified: ``axis_client.py PORT PASSWORD``.

A script of its own, since it has an event loop of its own. What it found is printed as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version

from axis.device import AxisDevice
from axis.models.configuration import Configuration
from httpx import AsyncClient

SERIAL = "/axis-cgi/com/serial.cgi"


async def main(port: int, password: str) -> None:
    async with AsyncClient() as session:
        config = Configuration(session, "127.0.0.1", username="admin", password=password, port=port)
        vapix = AxisDevice(config).vapix
        await vapix.initialize()
        await vapix.initialize_param_cgi()  # everything, and not only what it knows that it needs
        line = {"action": "update", "root.Serial.Ser1.StopBits": "2"}
        found = {
            "version": version("axis"),
            "apis": sorted(vapix.api_discovery.keys()),
            "versions": await vapix.api_discovery.get_supported_versions(),
            "product": vapix.product_number,
            "firmware": vapix.firmware_version,
            "serial_number": vapix.serial_number,
            "baud_rate": vapix.params["Serial"]["Ser1"]["BaudRate"],
            "ptz": vapix.params.ptz_handler["0"].number_of_serial_ports,
            "update": (await vapix.request("post", "/axis-cgi/param.cgi", data=line)).decode(),
            "write": (await vapix.request("get", SERIAL, params={"write": "8101060100ff"})).decode(),
            "read": (await vapix.request("get", SERIAL, params={"write": "51", "read": "2", "wait": "9"})).decode(),
        }
    print(json.dumps(found))


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
