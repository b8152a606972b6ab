"""requests and httpx with digest authentication: ``http_clients.py requests|httpx PORT PASSWORD``, found as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

library, port, password = sys.argv[1:]
ADDRESS = f"http://127.0.0.1:{port}/axis-cgi"


def session() -> Any:
    if library == "requests":
        import requests
        from requests.auth import HTTPDigestAuth

        made = requests.Session()
        made.auth = HTTPDigestAuth("admin", password)
        return made
    import httpx

    return httpx.Client(auth=httpx.DigestAuth("admin", password), timeout=20)


with session() as client:
    call = {"apiVersion": "1.0", "context": "x", "method": "getApiList"}
    discovery = client.post(f"{ADDRESS}/apidiscovery.cgi", json=call).json()
    brand = {"action": "list", "group": "Brand"}
    found = {
        "apis": [api["id"] for api in discovery["data"]["apiList"]],
        "list": client.get(f"{ADDRESS}/param.cgi", params={"action": "list", "group": "Serial.Ser1.BaudRate"}).text,
        "update": client.post(f"{ADDRESS}/param.cgi", data={"action": "update", "Serial.Ser1.StopBits": 2}).text,
        "write": client.get(f"{ADDRESS}/com/serial.cgi", params={"write": "8101060100ff"}).status_code,
        "read": client.get(f"{ADDRESS}/com/serial.cgi", params={"write": "51", "read": 2, "wait": 9}).text,
        # Many requests on one nonce, counted.
        "again": [client.get(f"{ADDRESS}/param.cgi", params=brand).status_code for _ in range(20)],
    }
print(json.dumps(found))
