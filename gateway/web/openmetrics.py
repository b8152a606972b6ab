"""The metrics of the gateway, as OpenMetrics 1.0: a pure function of the status, called when a scraper asks.

The text is written here and not by prometheus_client, because the format is simple, and importing that library would
stop the event loop, and with it every line, for a tenth of a second on a fast machine. The tests parse with it.

Names follow Prometheus' conventions, and never change, because dashboards and alerts use them. Labels are the port, the
service and the CPU at the other end of a link, which are all bounded in number; never a client or its address.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["CONTENT_TYPE", "open_metrics"]

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Samples: TypeAlias = "list[tuple[dict[str, str], float | None]]"
"""The labels and the value of each sample; a value of None is unknown, and gives no sample."""
Family: TypeAlias = "tuple[str, str, str, Samples]"
"""A name, a kind (a key of _SUFFIX), what it means, and the samples."""

_SUFFIX = {"gauge": "", "counter": "_total", "info": "_info"}
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def open_metrics(status: Mapping[str, Any]) -> bytes:
    """Write the content of ``/daisyport/status`` as metrics.

    Every scrape names every family; a family of which nothing is known has no sample.
    """
    ports = status["ports"]
    families = [*_node(status), *_ports(ports), *_services(ports), *_clients_of_links(ports), *_servers_of_links(ports)]
    return "\n".join([*(line for family in families for line in _written(*family)), "# EOF\n"]).encode()


def _written(name: str, kind: str, told: str, samples: Samples) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    if (unit := name.rpartition("_")[2]) in ("bytes", "seconds"):
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {told}"
    for labels, value in samples:
        if value is not None:
            quoted = ",".join(f'{key}="{text.translate(_ESCAPED)}"' for key, text in labels.items())
            # True is 1; a count is written with all its digits.
            number = value if isinstance(value, float) else int(value)
            yield f"{name}{_SUFFIX[kind]}{f'{{{quoted}}}' if quoted else ''} {number}"


def _node(status: Mapping[str, Any]) -> Iterator[Family]:
    about = {"version": status["version"], "node": status["node"], "chassis": status["chassis"]}
    configuration, connections = status["configuration"], status["connections"]
    yield "daisyport", "info", "The version of this gateway, and the names of its CPU and chassis.", [(about, 1)]
    for name, kind, told, value in (
        ("uptime_seconds", "gauge", "Seconds since the start.", status["uptime_seconds"]),
        (
            "upgrade_waiting",
            "gauge",
            "1 while another version is installed than the one that runs.",
            status["installed_version"] != status["version"],
        ),
        (
            "configuration_errors",
            "gauge",
            "Errors of the configuration file that the last SIGHUP read.",
            len(configuration["errors"]),
        ),
        (
            "configuration_keys_waiting",
            "gauge",
            "Keys of the configuration file that wait for the next start.",
            len(configuration["at_next_start"]),
        ),
        (
            "tls_certificate_wrong",
            "gauge",
            "1 while a certificate that was last read, or a file of client_ca, cannot be used or is out of date.",
            any(
                tls["complaint"] for tls in (status["tls"], *(port["tls"] for port in status["ports"] if "tls" in port))
            ),
        ),
        (
            "tls_certificate_ends_timestamp_seconds",
            "gauge",
            "The time at which the certificate in force ends, in seconds since 1970.",
            status["tls"]["certificate_ends"],
        ),
        ("connections", "gauge", "Open connections of all clients.", connections["open"]),
        (
            "connections_refused",
            "counter",
            "Clients of ports that were refused for want of file descriptors.",
            connections["clients_turned_away"],
        ),
        ("descriptors", "gauge", "File descriptors that the process may have.", connections["descriptors"]),
        (
            "descriptors_reserved",
            "gauge",
            "File descriptors that are kept from the clients of ports.",
            connections["descriptors_reserved"],
        ),
    ):
        yield f"daisyport_{name}", kind, told, [({}, value)]


_OF_A_PORT = (
    ("received_bytes", "counter", "Bytes that came from the line.", "bytes_from_line"),
    ("written_bytes", "counter", "Bytes that the tty took.", "bytes_to_line"),
    ("dropped_bytes", "counter", "Bytes of clients that never reached the line.", "bytes_dropped"),
    ("discarded_bytes", "counter", "Bytes that were thrown away after the tty took them.", "bytes_discarded"),
    ("rubbish_bytes", "counter", "Bytes of clients that were in no request of the turns' rule.", "bytes_rubbish"),
    (
        "turns_superseded",
        "counter",
        "Requests whose sender sent another before they had begun.",
        "requests_superseded",
    ),
    ("missed_bytes", "counter", "Bytes of another CPU's line that were lost on the way.", "bytes_missed"),
    ("gaps", "counter", "Places in the line where bytes are missing.", "gaps"),
    ("breaks", "counter", "Breaks that came from the line.", "breaks"),
    ("clients_cut", "counter", "Clients that were cut because they read too slowly.", "clients_cut"),
)
"""A name, a kind, its meaning, and its key in the status of a port; not every port has every key."""


def _ports(ports: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    def each(value: Mapping[str, float | None]) -> Samples:
        return [({"port": name}, number) for name, number in value.items()]

    enabled = {port["name"]: port["enabled"] for port in ports}
    yield "daisyport_port_enabled", "gauge", "1 where PortEnabled is yes.", each(enabled)
    up = {port["name"]: port["state"] != "down" for port in ports}
    yield "daisyport_port_up", "gauge", "1 while bytes flow, or would as soon as somebody needs the line.", each(up)
    hops = {port["name"]: len(port["path"]) - 1 if port["path"] else None for port in ports}
    yield "daisyport_port_hops", "gauge", "Links between this CPU and the one that has the line.", each(hops)
    refused = {port["name"]: len(port["settings_refused"]) if "settings_refused" in port else None for port in ports}
    told = "Line settings that are not in force on the hardware as they are wanted."
    yield "daisyport_port_settings_refused", "gauge", told, each(refused)
    failing = {port["name"]: sum(state != "up" for state in port["services"].values()) for port in ports}
    told = "Devices, services, listeners and outgoing connections that are wanted and not up."
    yield "daisyport_port_units_failing", "gauge", told, each(failing)
    for name, kind, told, key in _OF_A_PORT:
        yield f"daisyport_port_{name}", kind, told, each({port["name"]: port.get(key) for port in ports})
    errors: Samples = [
        ({"port": port["name"], "kind": kind}, port["driver_counters"][kind])
        for port in ports
        if port.get("driver_counters")
        for kind in ("framing", "parity", "overrun", "buffer_overrun")
    ]
    yield "daisyport_port_driver_errors", "counter", "Errors that the driver counts.", errors
    yield from _turns([(port["name"], port["sharing"]) for port in ports if "sharing" in port])


def _turns(lines: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Family]:
    """Yield the metrics of turns, for lines of our own."""
    ended: Samples = [
        ({"port": port, "ended": how}, count) for port, line in lines for how, count in line["turns"].items()
    ]
    yield "daisyport_port_turns", "counter", "Turns, by how they ended; whole is with the whole reply.", ended
    refused: Samples = [({"port": port}, line["refused"]) for port, line in lines]
    told = "Messages that waited for the line for as long as they may."
    yield "daisyport_port_turns_refused", "counter", told, refused
    longest: Samples = [({"port": port}, _seconds(line["longest_wait_ms"])) for port, line in lines]
    yield "daisyport_port_longest_wait_seconds", "gauge", "The longest wait of a message for its turn.", longest


def _services(ports: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    clients: Samples = []
    queued: Samples = []
    refused: Samples = []
    for port in ports:
        counted, waiting = Counter[str](), Counter[str]()
        for client in port["clients"]:
            counted[client["service"]] += 1
            waiting[client["service"]] += client["queue"]
        for service, number in port["clients_turned_away_by_service"].items():
            labels = {"port": port["name"], "service": service}
            clients.append((labels, counted[service]))
            queued.append((labels, waiting[service]))
            refused.append((labels, number))
    yield "daisyport_service_clients", "gauge", "Clients that are connected.", clients
    yield "daisyport_service_queue_bytes", "gauge", "Bytes of the line that wait for these clients.", queued
    yield "daisyport_service_clients_refused", "counter", "Clients that were refused.", refused


def _clients_of_links(ports: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    """Yield the metrics of links towards the line; there are none before the first handshake."""
    ours = [(port, port["remote_port_client"]) for port in ports if "remote_port_client" in port]
    labels = [
        {"port": port["name"], "peer": link["server_node"], "peer_name": link["server_name"]} for port, link in ours
    ]
    for name, kind, told, values in (
        ("linked", "gauge", "1 while a connection to the server carries the session.", [x["linked"] for _, x in ours]),
        (
            "round_trip_seconds",
            "gauge",
            "The best round trip to the server.",
            [_seconds(link["round_trip_ms"]) for _, link in ours],
        ),
        ("links_lost", "counter", "Connections to the server that ended.", [link["links_lost"] for _, link in ours]),
        *_resumed([link for _, link in ours]),
    ):
        yield f"daisyport_remote_client_{name}", kind, told, list(zip(labels, values, strict=True))
    lost: Samples = [
        ({"port": port["name"], "reason": reason}, count)
        for port, link in ours
        for reason, count in link["bytes_lost"].items()
    ]
    told = "Bytes that were taken for the line and not written, or perhaps not."
    yield "daisyport_remote_client_lost_bytes", "counter", told, lost


def _servers_of_links(ports: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    """Yield the metrics of links from CPUs farther from the line."""
    servers = [(port["name"], port["remote_port_server"]) for port in ports if "remote_port_server" in port]
    for name, kind, told, key in (
        ("wrong_keys", "counter", "Handshakes that failed because of the key.", "wrong_keys"),
        ("clients_refused", "counter", "Clients that were refused before their handshake.", "clients_turned_away"),
    ):
        yield f"daisyport_remote_server_{name}", kind, told, [({"port": port}, server[key]) for port, server in servers]
    twice: Samples = [({"port": port}, len(server.get("duplicate_nodes", ()))) for port, server in servers]
    yield "daisyport_remote_server_duplicate_nodes", "gauge", "Node ids that two CPUs use, as clones do.", twice
    links = [(port, link) for port, server in servers for link in server["links"]]
    labels = [
        {"port": port, "peer": link["node"], "peer_name": link["name"], "remote_port": link["remote_port"]}
        for port, link in links
    ]
    for name, kind, told, values in (
        ("linked", "gauge", "1 while a connection carries the client's session.", [x["linked"] for _, x in links]),
        (
            "round_trip_seconds",
            "gauge",
            "The best round trip to the client.",
            [_seconds(link["round_trip_ms"]) for _, link in links],
        ),
        ("received_bytes", "counter", "Bytes that the client sent.", [link["bytes_in"] for _, link in links]),
        ("sent_bytes", "counter", "Bytes of the line for the client.", [link["bytes_out"] for _, link in links]),
        ("dropped_bytes", "counter", "Bytes of the client that were not written.", [x["dropped"] for _, x in links]),
        (
            "never_sent_bytes",
            "counter",
            "Bytes of the line that the client will never have.",
            [link["bytes_never_sent"] for _, link in links],
        ),
        *_resumed([link for _, link in links]),
    ):
        yield f"daisyport_remote_server_{name}", kind, told, list(zip(labels, values, strict=True))


def _resumed(links: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, list[float]]]:
    """Yield how often sessions went on over a new connection, and its cost, which both ends of a link count."""
    yield "resumes", "counter", "Connections over which the session went on.", [link["resumes"] for link in links]
    told = "Bytes that were sent once more over a new connection."
    yield "resent_bytes", "counter", told, [link["bytes_resent"] for link in links]


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
