"""Describe the host's hardware. Which parameters exist, and which values they take, follows from it."""

from __future__ import annotations

import enum
from typing import final

from protocol.frozen import frozen

__all__ = ["Hardware", "Identity", "ManagerHardware", "PortMode", "PortType", "SerialHardware"]


@final
class PortMode(enum.Enum):
    """The electrical mode of a serial port; each value is the contract's word (Serial.Ser#.PortMode)."""

    RS232 = "RS232"
    RS485 = "RS485"
    RS485_4 = "RS485_4"
    RS422 = "RS422"

    @property
    def full_duplex(self) -> bool:
        """Both ends can send at once: true for all but two-wire RS485."""
        return self is not PortMode.RS485

    @property
    def fast(self) -> bool:
        """It may run at 230400 and 460800 (Serial port API, note to BaudRate)."""
        return self in (PortMode.RS485, PortMode.RS485_4)

    @property
    def balanced(self) -> bool:
        """It runs on wire pairs, so termination and bias apply."""
        return self is not PortMode.RS232


@final
class PortType(enum.Enum):
    """The kind of port that a port manager manages; each value is the contract's word (PortManager.P#.PortType)."""

    SERIAL = "Serial"
    REMOTE = "RemotePort"


@final
@frozen
class SerialHardware:
    """The abilities of one UART and its line driver.

    ``modes`` is not empty; its first one is the port's default mode. ``rates`` (bits a second) and ``data_bits`` are
    those that the host's configuration adds to the contract's, in any mode. The other fields say which wires and
    switches there are. Whether a parameter exists depends on the modes as well: see the properties ``has_...``.
    """

    modes: tuple[PortMode, ...] = (PortMode.RS232,)
    xon_xoff: bool = True
    rts_cts: bool = True
    termination: bool = False
    bias: bool = False
    rates: tuple[int, ...] = ()
    data_bits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.modes:
            raise ValueError("a serial port needs at least one mode")

    @property
    def has_fast_rates(self) -> bool:
        """230400 and 460800 are offered."""
        return any(mode.fast for mode in self.modes)

    @property
    def has_xon_xoff(self) -> bool:
        """FlowControlXONXOFF exists."""
        return self.xon_xoff and any(mode.full_duplex for mode in self.modes)

    @property
    def has_rts_cts(self) -> bool:
        """FlowControlRTSCTS exists."""
        return self.rts_cts and PortMode.RS232 in self.modes

    @property
    def has_termination(self) -> bool:
        """Termination exists."""
        return self.termination and any(mode.balanced for mode in self.modes)

    @property
    def has_bias(self) -> bool:
        """Bias exists."""
        return self.bias and any(mode.balanced for mode in self.modes)


@final
@frozen
class ManagerHardware:
    """The ports that one port manager can be set to: a serial port, a remote port client, or either.

    ``serial`` is the number in Serial.Ser# (from 1), ``remote_port`` the index in RemotePort.R# (from 0).
    """

    serial: int | None = None
    remote_port: int | None = None

    def __post_init__(self) -> None:
        if not self.types:
            raise ValueError("a port manager needs a serial port, a remote port, or both")

    @property
    def types(self) -> tuple[PortType, ...]:
        """Return the port types that it offers, the default one first."""
        serial = (PortType.SERIAL,) if self.serial is not None else ()
        return serial + ((PortType.REMOTE,) if self.remote_port is not None else ())

    @property
    def default_type(self) -> PortType:
        """Return Serial where there is a serial port, else RemotePort."""
        return self.types[0]


@final
@frozen
class Identity:
    """The texts of the parameters in Brand.* and Properties.*."""

    brand: str = "Daisyport"
    model: str = "Daisyport"
    serial_number: str = "000000000000"
    firmware_version: str = ""
    build_date: str = ""
    build_number: str = "1"


@final
@frozen
class Hardware:
    """One CPU: its serial ports (Ser1 first), its port managers (P0 first) and its video sources (from 1)."""

    serial: tuple[SerialHardware, ...]
    managers: tuple[ManagerHardware, ...]
    video_sources: int = 1
    identity: Identity = Identity()

    def __post_init__(self) -> None:
        for index, manager in enumerate(self.managers):
            if manager.serial is not None and not 1 <= manager.serial <= len(self.serial):
                raise ValueError(f"port manager {index}: there is no serial port {manager.serial}")
            if manager.remote_port is not None and manager.remote_port < 0:
                raise ValueError(f"port manager {index}: remote ports are numbered from 0")

    @property
    def remote_ports(self) -> int:
        """Return the number of RemotePort.R# groups: up to the highest index that a port manager uses."""
        return max((m.remote_port + 1 for m in self.managers if m.remote_port is not None), default=0)
