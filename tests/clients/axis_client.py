"""Home Assistant's client of Axis products (PyPI `axis`, version 60), unmodified: ``axis_client.py PORT KEY PROTO``.

It is called as Home Assistant calls it: one session for all that does not verify, 30 seconds for the start, and then
what its device registry shows. A script of its own, since it has an event loop of its own; it prints JSON.
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


async def main(port: int, password: str, proto: str) -> None:
    async with AsyncClient(verify=False) as session:
        config = Configuration(session, "127.0.0.1", username="admin", password=password, port=port, web_proto=proto)
        vapix = AxisDevice(config).vapix
        async with asyncio.timeout(30):
            await vapix.initialize()
        await vapix.initialize_param_cgi()  # everything, and not only what it knows that it needs
        line = {"action": "update", "root.Serial.Ser1.StopBits": "2"}
        found = {
            "version": version("axis"),
            "apis": sorted(vapix.api_discovery.keys()),
            "versions": await vapix.api_discovery.get_supported_versions(),
            "product": vapix.product_number,
            "type": vapix.product_type,
            "profiles": vapix.streaming_profiles,
            "ports": len(vapix.ports),
            "applications": vapix.applications.supported,
            "firmware": vapix.firmware_version,
            "serial_number": vapix.serial_number,
            "baud_rate": vapix.params["Serial"]["Ser1"]["BaudRate"],
            "ptz": vapix.params.ptz_handler["0"].number_of_serial_ports,
            "update": (await vapix.request("post", "/axis-cgi/param.cgi", data=line)).decode(),
            "write": (await vapix.request("get", SERIAL, params={"write": "8101060100ff"})).decode(),
            "read": (await vapix.request("get", SERIAL, params={"write": "51", "read": "2", "wait": "9"})).decode(),
        }
    print(json.dumps(found))


asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
