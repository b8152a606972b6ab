"""The chain of a port: how this CPU describes itself in it, and how it is shown to an operator, from the owner down.

Loaded when somebody asks.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from gateway import __version__
from gateway.remote_port.chain import Chain
from gateway.remote_port.client import RemotePortClient
from protocol.link.chain_tree import NO_PORT, UNKNOWN, Alarm, Branch, Cpu, Hop, Seen, Way
from protocol.parameters.hardware import PortType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.port.bus import Bus
    from gateway.port.device import PortDevice
    from gateway.remote_port.chain import ChainLink
    from gateway.services import Services
    from protocol.link.identity import NodeKey

__all__ = ["chain_of", "shown"]

_CAN: Final = {
    Seen.TOLD: "",
    Seen.SILENT: "the link stands, but it did not answer in time: check it if this continues",
    Seen.OLDER: "it runs an older version, which cannot report what is behind it: update it",
    Seen.GONE: "",
}
_TO_DO: Final = {
    Alarm.CLONED: (
        "two CPUs use one node id, as a cloned image does ({}). Stop the daisyport service on one of the two, remove "
        "the file node_key from its state directory, and start it again"
    ),
    Alarm.WRONG_KEY: (
        "wrong AuthenticationKey between this CPU and {}. Set RemotePort.R#.AuthenticationKey of the CPU below to "
        "PortManager.P#.RemotePortServer.AuthenticationKey of the CPU above"
    ),
    Alarm.NO_KEY: "no AuthenticationKey, so anybody may be at the other end ({}). Set one with daisyport keygen",
}
"""The meaning of each alarm, and what to do about it."""


def chain_of(index: int, bus: Bus, devices: Mapping[PortType, PortDevice], services: Services, node: NodeKey) -> Chain:
    """Return the chain of port manager ``index`` of this CPU, ``node``, with its bus, devices and services."""

    def client() -> RemotePortClient | None:
        device = devices.get(PortType.REMOTE)
        return device if isinstance(device, RemotePortClient) else None

    def links() -> Iterator[ChainLink]:
        if (device := client()) is not None:
            yield device.chain_link
        if services.remote_port is not None:
            yield from (session.chain_link for session in services.remote_port.sessions)

    def own() -> Cpu:
        ends = [end for end in (services.remote_port, client()) if end is not None]
        clients = Counter(kind.value for kind, _ in services.sessions)
        return Cpu(
            node.id,
            index,
            node.name,
            __version__,
            bus.down is None,
            bus.down or "",
            bus.missed,
            bus.gaps,
            tuple(sorted(clients.items())),
            tuple(alarm for end in ends for alarm in end.alarms),
        )

    return Chain(own, links, lambda: () if services.remote_port is None else services.remote_port.lost)


def shown(tree: Branch) -> dict[str, Any]:
    """Return the chain for JSON, from the owner of the line down: each CPU with those ``below`` it.

    ``tree`` has the CPU that was asked as its root; the CPUs that it reports on its way up are put above it.
    """
    root, here = _placed(tree)
    here["here"] = True
    cpus = list(_all(root))
    counts = Counter((cpu["node"], cpu["port"]) for cpu in cpus if cpu["node"] and cpu["port"])
    newest = max((_version(cpu["version"]) for cpu in cpus), default=())
    for cpu in cpus:
        if counts[cpu["node"], cpu["port"]] > 1:
            cpu["warnings"].append(_TO_DO[Alarm.CLONED].format(f"{cpu['name']} is in this chain more than once"))
        if cpu["version"] and _version(cpu["version"]) < newest:
            cpu["warnings"].append(f"it runs version {cpu['version']}, and others a newer one: update it")
    return root


def _placed(branch: Branch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the topmost CPU of a branch, and the one that the branch begins with."""
    cpu = top = _cpu(Cpu.decode(branch.cpu)[0])
    if branch.cut:
        cpu["warnings"].append("there are more CPUs behind it than can be shown")
    for each in branch.branches:
        hop, _ = Hop.decode(each.hop)
        above, other = _placed(each)
        other["answer"] = hop.seen.name.lower()
        if _CAN[hop.seen]:
            other["warnings"].append(_CAN[hop.seen])
        if hop.way is Way.DOWN:
            other["link"] = _link(hop)
            cpu["below"].append(other)
        else:
            cpu["link"] = _link(hop)
            other["below"].insert(0, cpu)
            top = above
    return top, cpu


def _cpu(cpu: Cpu) -> dict[str, Any]:
    return {
        "name": cpu.name,
        "node": "" if cpu.node == UNKNOWN else cpu.node.hex(),
        "port": "" if cpu.port == NO_PORT else f"P{cpu.port}",
        "version": cpu.version,
        "here": False,
        "answer": "told",
        "state": "up" if cpu.up else "down" if cpu.version else "",
        "reason": cpu.why,
        "bytes_missed": cpu.missed,
        "gaps": cpu.gaps,
        "clients": dict(cpu.clients),
        "warnings": [_TO_DO[alarm].format(of_whom) for alarm, of_whom in cpu.alarms],
        "link": None,
        "below": [],
    }


def _link(hop: Hop) -> dict[str, Any]:
    """Describe the link of a CPU to the one above it, told by one of the two: the address is that of the other."""
    return {
        "state": "down" if hop.seen is Seen.GONE else "up",
        "told_by": "below" if hop.way is Way.UP else "above",
        "address": hop.address,
        "reason": hop.why,
        "seconds": hop.seconds,
        "round_trip_ms": hop.round_trip,
        "resumes": hop.resumes,
        "bytes_lost": hop.lost,
    }


def _all(cpu: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield cpu
    for below in cpu["below"]:
        yield from _all(below)


def _version(text: str) -> tuple[int, ...]:
    numbers = text.split(".")
    return tuple(int(number) for number in numbers) if text and all(map(str.isdecimal, numbers)) else ()
