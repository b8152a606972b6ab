"""Make the device of a port manager, by its PortType: the one place to add another kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.serial_line.device import SerialDevice
from gateway.state.atomic_file import AtomicFile
from protocol.parameters.hardware import PortType

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.discovery.bonjour import Bonjour
    from gateway.host.config import Config, PortConfig
    from gateway.port.bus import Bus
    from gateway.port.device import PortDevice
    from gateway.port.plan import Device
    from gateway.remote_port.chain import Chain
    from gateway.remote_port.told_keys import TakeKey
    from protocol.link.identity import NodeKey
    from protocol.parameters.settings import Settings

__all__ = ["make_device"]


def make_device(
    spec: Device,
    bus: Bus,
    settings: Settings,
    config: Config,
    node: NodeKey,
    bonjour: Bonjour,
    port: PortConfig,
    chain: Callable[[], Chain],
    take_key: TakeKey,
) -> PortDevice:
    """Return the device that ``spec`` names, with its part of ``settings``, to be run on ``bus``.

    ``config``, ``node`` (its key pair) and ``bonjour`` are this host's; ``port`` says how its own line is
    shared; ``chain`` is what other CPUs are told of, and ``take_key`` takes a key of RemotePort.R# that they tell.
    """
    if spec.type is PortType.SERIAL:
        line = settings.serial.ports[spec.number - 1]
        return SerialDevice(bus, spec.number, config.serial[spec.number - 1], line, node.id, port.turn, port.char_gap)
    # Loaded only where it is used: its cryptography costs every daemon memory and a slow start.
    from gateway.remote_port.candidates import Candidates
    from gateway.remote_port.client import RemotePortClient

    memory = AtomicFile(config.state_dir / f"remote_port_R{spec.number}_server")
    without_key = config.remote_port.autoconf_without_key
    candidates = Candidates(bonjour, spec.number, config.chassis, without_key=without_key, memory=memory)
    return RemotePortClient(bus, node, spec.number, settings.remote_ports[spec.number], candidates, chain, take_key)
