"""The metrics page: held against a file of what it says, and read by the library that scrapers are written with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.web.openmetrics import open_metrics

if TYPE_CHECKING:
    from prometheus_client import Metric

GOLDEN = Path(__file__).with_name("metrics.txt")
DOCS = Path(__file__).parents[3] / "docs" / "operating" / "metrics.md"

SERIAL: dict[str, Any] = {
    "name": "P0",
    "type": "Serial",
    "enabled": True,
    "state": "up",
    "reason": "",
    "bytes_from_line": 12345678901234567,
    "bytes_missed": 0,
    "gaps": 0,
    "bytes_dropped": 3,
    "bytes_rubbish": 6,
    "requests_superseded": 2,
    "settings_configured": "RS485 19200 8E1",
    "sharing": {
        "rule": "modbus-rtu",
        "turns": {"whole": 12, "time": 1},
        "longest_wait_ms": 250,
        "refused": 4,
        "warnings": [],
    },
    "path": ["63" * 16],
    "settings_refused": {"Parity": "the driver says None"},
    "bytes_to_line": 16,
    "bytes_discarded": 1,
    "breaks": 2,
    "driver_counters": {
        "received": 9,
        "sent": 9,
        "framing": 1,
        "overrun": 2,
        "parity": 3,
        "breaks": 4,
        "buffer_overrun": 5,
    },
    "services": {"Ser1": "up", "service GenericTCPServer": "up", "listen [::]:3000": "Address already in use"},
    "clients_cut": 1,
    "clients_turned_away": 4,
    "clients_turned_away_by_service": {"WebSocket": 0, "GenericTCPServer": 4},
    "clients": [
        {"service": "SerialCGI", "holder": "serial.cgi's receive buffer", "queue": 0},
        {"service": "GenericTCPServer", "holder": "192.0.2.7:40000", "queue": 10},
        {"service": "GenericTCPServer", "holder": "192.0.2.8:40000", "queue": 5},
    ],
    "remote_port_server": {
        "clients_turned_away": 2,
        "wrong_keys": 1,
        "duplicate_nodes": ["node 63636363 R0 is at 192.0.2.7 and at 192.0.2.8"],
        "links": [
            {
                "holder": "192.0.2.9:40000 (cpu2 64646464, R0)",
                "node": "64" * 16,
                "name": "cpu2",
                "remote_port": "R0",
                "linked": True,
                "old_key": False,
                "round_trip_ms": 12,
                "resumes": 4,
                "bytes_resent": 1234,
                "bytes_in": 100,
                "bytes_out": 200,
                "dropped": 7,
                "bytes_never_sent": 8,
                "given_up_by_client": 1,
            },
            {
                "holder": "192.0.2.9:40001 (cpu2 64646464, R1)",
                "node": "64" * 16,
                "name": "cpu2",
                "remote_port": "R1",
                "linked": False,
                "old_key": True,
                "round_trip_ms": None,
                "resumes": 0,
                "bytes_resent": 0,
                "bytes_in": 0,
                "bytes_out": 0,
                "dropped": 0,
                "bytes_never_sent": 0,
                "given_up_by_client": 0,
            },
        ],
    },
}
REMOTE: dict[str, Any] = {
    "name": "P1",
    "type": "RemotePort",
    "enabled": True,
    "state": "down",
    "reason": "no route to host",
    "bytes_from_line": 0,
    "bytes_missed": 11,
    "gaps": 1,
    "bytes_dropped": 0,
    "bytes_rubbish": 0,
    "requests_superseded": 7,
    "path": [],
    "services": {"R1": "no route to host"},
    "clients_cut": 0,
    "clients_turned_away": 0,
    "clients_turned_away_by_service": {"WebSocket": 0},
    "clients": [],
    "remote_port_client": {
        "linked": False,
        "server_node": "65" * 16,
        "server_name": 'the "owner"\\',
        "server_port": "P0",
        "server_chassis": "blade 7",
        "round_trip_ms": 3,
        "resumes": 2,
        "bytes_resent": 77,
        "links_lost": 2,
        "bytes_lost": {"too_old": 5, "uncertain": 0},
    },
}
STATUS: dict[str, Any] = {
    "product": "Daisyport",
    "version": "1.2.3",
    "installed_version": "1.2.4",
    "node": "cpu1",
    "chassis": "blade 7",
    "uptime_seconds": 4711.08,
    "tls": {"certificate": "", "fingerprint_sha256": "", "complaint": "expired", "certificate_ends": 1795426859.0},
    "configuration": {"errors": ["http.lisen: no such key"], "at_next_start": ["tcp.bind", "chassis"]},
    "connections": {"open": 3, "clients_turned_away": 1, "descriptors": 8192, "descriptors_reserved": 258},
    "ports": [SERIAL, REMOTE],
}


def families(page: str) -> list[Metric]:
    """Read a page as a scraper does."""
    return list(text_string_to_metric_families(page))  # type: ignore[no-untyped-call]


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return each sample by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(page.decode())
        for sample in family.samples
    }


def test_every_name_label_and_value_is_what_dashboards_were_made_of() -> None:
    assert open_metrics(STATUS).decode() == GOLDEN.read_text()


def test_a_scraper_reads_the_page() -> None:
    found = samples(open_metrics(STATUS))
    assert found["daisyport_port_received_bytes_total", (("port", "P0"),)] == 12345678901234567
    assert found["daisyport_port_up", (("port", "P1"),)] == 0
    peer = (("peer", "65" * 16), ("peer_name", 'the "owner"\\'), ("port", "P1"))
    assert found["daisyport_remote_client_round_trip_seconds", peer] == 0.003
    assert ("daisyport_port_hops", (("port", "P1"),)) not in found


def test_no_client_s_address_and_no_own_one_is_on_the_page() -> None:
    page = open_metrics(STATUS)
    assert b"192.0.2" not in page
    assert b"3000" not in page


def test_serial_cgi_s_receive_buffer_is_no_client() -> None:
    assert b'daisyport_service_clients{port="P0",service="SerialCGI"}' not in open_metrics(STATUS)


def test_a_gateway_without_ports_has_a_page_that_names_every_family() -> None:
    bare = {family.name for family in families(open_metrics(STATUS | {"ports": []}).decode())}
    assert bare == {family.name for family in families(GOLDEN.read_text())}


@given(st.text(), st.text(), st.text())
def test_any_names_are_read_as_they_are(node: str, chassis: str, peer: str) -> None:
    status = copy.deepcopy(STATUS) | {"node": node, "chassis": chassis}
    status["ports"][0]["remote_port_server"]["links"][0]["name"] = peer
    page = open_metrics(status)
    labels = (("chassis", chassis), ("node", node), ("version", "1.2.3"))
    found = samples(page)
    assert found["daisyport_info", labels] == 1
    link = (("peer", "64" * 16), ("peer_name", peer), ("port", "P0"), ("remote_port", "R0"))
    assert found["daisyport_remote_server_linked", link] == 1


def test_the_page_of_metrics_has_a_row_for_each_family() -> None:
    rows = {line.split("`")[1] for line in DOCS.read_text().splitlines() if line.startswith("| `daisyport")}
    names = {sample.name for family in families(GOLDEN.read_text()) for sample in family.samples}
    assert rows == names
