"""What the host's hardware can do: the parameters that exist, and the values they take, follow from it.

It must not know how hardware is found or opened, nor what a parameter is called.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import final

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
        """Both ends can talk at once; only two-wire RS485 cannot."""
        return self is not PortMode.RS485

    @property
    def fast(self) -> bool:
        """230400 and 460800 are open to it."""
        return self in (PortMode.RS485, PortMode.RS485_4)

    @property
    def balanced(self) -> bool:
        """It runs on wire pairs, so termination and bias mean something."""
        return self is not PortMode.RS232


@final
class PortType(enum.Enum):
    """What a port manager manages; each value is the contract's word (PortManager.P#.PortType)."""

    SERIAL = "Serial"
    REMOTE = "RemotePort"


@final
@dataclass(frozen=True, slots=True)
class SerialHardware:
    """What one UART and its line driver can do.

    ``modes`` is not empty; its first one is the mode that the port has by default. A flag says that the
    hardware has the wires; whether the parameter exists depends on the modes as well (``has_...``).
    """

    modes: tuple[PortMode, ...] = (PortMode.RS232,)
    xon_xoff: bool = True
    rts_cts: bool = True
    termination: bool = False
    bias: bool = False

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
@dataclass(frozen=True, slots=True)
class ManagerHardware:
    """What one port manager can be pointed at: a serial port, a remote port client, or either.

    ``serial`` is the number in Serial.Ser# (from 1), ``remote_port`` the index in RemotePort.R# (from 0).
    """

    serial: int | None = None
    remote_port: int | None = None

    def __post_init__(self) -> None:
        if not self.types:
            raise ValueError("a port manager needs a serial port, a remote port, or both")

    @property
    def types(self) -> tuple[PortType, ...]:
        """The port types that it offers, the default one first."""
        serial = (PortType.SERIAL,) if self.serial is not None else ()
        return serial + ((PortType.REMOTE,) if self.remote_port is not None else ())

    @property
    def default_type(self) -> PortType:
        """Serial where there is a serial port."""
        return self.types[0]


@final
@dataclass(frozen=True, slots=True)
class Identity:
    """What the product says of itself in Brand.* and Properties.*."""

    brand: str = "Daisyport"
    model: str = "Daisyport"
    serial_number: str = "000000000000"
    firmware_version: str = ""
    build_date: str = ""
    build_number: str = "1"


@final
@dataclass(frozen=True, slots=True)
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
        """How many RemotePort.R# there are: up to the highest index that a port manager uses."""
        return max((m.remote_port + 1 for m in self.managers if m.remote_port is not None), default=0)
