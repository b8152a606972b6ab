"""Peers that reach a line over links: chained CPUs, and other programs in a row. Each is several processes."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.benchmarks.peers import PEERS, Peer, Port, daisyport, has, which

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["CHAINS"]

_KEY = "c4n5t-7hb2q-9xwem-3kfrd-8jyzp-6gvas"


def _cpus(ports: Sequence[Port], directory: Path) -> list[list[str]]:
    """Return the commands of an owner and of a row of CPUs behind it; the last has the TCP port."""
    (port,) = ports
    lines = [f'[[serial]]\ndevice = "{port.device}"', *["[[port_manager]]\nremote_port = 0"] * len(port.links)]
    towards_the_line = ["", *map(_client, port.links)]
    away_from_it = [*map(_server, port.links), _tcp_server(port)]
    return [
        daisyport(directory / f"cpu{place}", [line], near + far)
        for place, (line, near, far) in enumerate(zip(lines, towards_the_line, away_from_it, strict=True))
    ]


def _tcp_server(port: Port) -> str:
    server = "root.PortManager.P0.GenericTCPServer"
    return f"{server}.Enabled=yes\n{server}.Listener.Enabled=yes\n{server}.Listener.Port={port.tcp}\n"


def _server(link: int) -> str:
    server = "root.PortManager.P0.RemotePortServer"
    return (
        f"{server}.Enabled=yes\n{server}.AuthenticationKey={_KEY}\n"
        f"{server}.Listener.Enabled=yes\n{server}.Listener.Port={link}\n"
    )


def _client(link: int) -> str:
    remote = "root.RemotePort.R0"
    return f"{remote}.AutoConf=no\n{remote}.AuthenticationKey={_KEY}\n{remote}.Host=127.0.0.1\n{remote}.Port={link}\n"


def _ser2nets(ports: Sequence[Port], directory: Path) -> list[list[str]]:
    """Return the commands of one with the line, and of others whose connectors are TCP; none adds a delay."""
    (port,) = ports
    accepted = [*port.links, port.tcp]
    connected = [f"serialdev,{port.device},9600n81,local", *(f"tcp(nodelay),127.0.0.1,{link}" for link in port.links)]
    pairs = zip(accepted, connected, strict=True)
    return [_ser2net(directory / f"{place}.yaml", *pair) for place, pair in enumerate(pairs)]


def _ser2net(path: Path, accepted: int, connected: str) -> list[str]:
    path.write_text(
        f"connection: &p\n  accepter: tcp(nodelay),127.0.0.1,{accepted}\n  connector: {connected}\n"
        "  options:\n    chardelay: false\n    max-connections: 65\n"
    )
    return [which("ser2net"), "-n", "-u", "-c", str(path)]


def _socat_through_openssl(ports: Sequence[Port], directory: Path) -> list[list[str]]:
    (port,) = ports
    (link,) = port.links
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([which("openssl"), *make, *names], check=True, capture_output=True)
    proof = f"cert={certificate},key={key},verify=0"
    here = "bind=127.0.0.1,reuseaddr,fork,nodelay"
    return [
        [which("socat"), f"OPENSSL-LISTEN:{link},{here},{proof}", f"OPEN:{port.device},rawer"],
        [which("socat"), f"TCP-LISTEN:{port.tcp},{here}", f"OPENSSL:127.0.0.1:{link},verify=0,nodelay"],
    ]


CHAINS = {
    peer.name: peer
    for peer in (
        PEERS["daisyport"],
        Peer("1 hop", _cpus, PEERS["daisyport"].present, notifies=True, links=1),
        Peer("1 hop again", _cpus, PEERS["daisyport"].present, notifies=True, links=1),
        Peer("2 hops", _cpus, PEERS["daisyport"].present, notifies=True, links=2),
        Peer("2 ser2net", _ser2nets, has("ser2net"), links=1),
        Peer("3 ser2net", _ser2nets, has("ser2net"), links=2),
        Peer("socat+openssl", _socat_through_openssl, lambda: has("socat")() and has("openssl")(), links=1),
    )
}
"""The peers by name; the first has no chain."""
