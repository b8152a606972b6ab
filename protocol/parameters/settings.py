"""The settings: one frozen tree, whose fields are the declarations of the parameters.

Names, values, defaults and access follow the tables of the VAPIX Serial port API; list, update, definitions and
storage all derive from here. It is one table, in the order of the API page, and is read like one: so it stays in one
file. Where the hardware decides, a declaration has a ``where``, ``rule_at`` or ``default_at``. An instance that is
made directly has the contract's defaults of index 0; ``protocol.parameters.catalogue.Catalogue`` makes the tree of
real hardware.

To add a parameter, add a field to its group here: a name, a rule of ``values``, a default. Everything else follows.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, final

from protocol.frozen import frozen
from protocol.parameters.addresses import AddressList
from protocol.parameters.declare import Place, group, groups, parameter, parameters
from protocol.parameters.hardware import Hardware, Identity, PortMode, PortType
from protocol.parameters.roles import Role
from protocol.parameters.values import Addresses, Choice, Count, HostName, Integer, Rule, Secret, Text, YesNo

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "HTTP",
    "AuthenticationPolicy",
    "Brand",
    "ConnectTo",
    "GenericTCPServer",
    "Listener",
    "Network",
    "PTZServer",
    "Parity",
    "PortManager",
    "Properties",
    "Ptz",
    "RemotePort",
    "RemotePortServer",
    "Serial",
    "SerialCGI",
    "SerialPort",
    "Settings",
]


@final
class Parity(enum.Enum):
    """Serial.Ser#.Parity, in the contract's words."""

    NONE = "None"
    EVEN = "Even"
    ODD = "Odd"
    MARK = "Mark"
    SPACE = "Space"


@final
class AuthenticationPolicy(enum.Enum):
    """Network.HTTP.AuthenticationPolicy; ``recommended`` is Digest over HTTP and Basic over HTTPS."""

    BASIC = "basic"
    DIGEST = "digest"
    BASIC_DIGEST = "basic_digest"
    RECOMMENDED = "recommended"


YES_NO = YesNo()
TCP_PORT = Integer(1024, 65535)
SECONDS = Integer(0, 3600)
KEY = Secret(128)
COUNT = Count()
HOST = HostName()
ADDRESSES = Addresses()
SHORT = Text(128)
EVERYBODY = AddressList()

SLOW_RATES = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)
FAST_RATES = (230400, 460800)
DATA_BITS = (7, 8)
FIRST_PORT = 1024
UNBOUND = -1


def _port_of(place: Place) -> int:
    """Return ``1024 + #``, the default of every port in PortManager.P#."""
    return FIRST_PORT + place.index


def _rates_of(place: Place) -> Rule[int]:
    contract = SLOW_RATES + (FAST_RATES if place.serial.has_fast_rates else ())
    return Choice(tuple(sorted({*contract, *place.serial.rates})))


def _data_bits_of(place: Place) -> Rule[int]:
    return Choice(tuple(sorted({*DATA_BITS, *place.serial.data_bits})))


def _cam_port_rule(place: Place) -> Rule[int]:
    return Choice((UNBOUND, *range(1, len(place.hardware.managers) + 1)))


def _cam_port_default(place: Place) -> int:
    return 1 if place.index == 0 and place.hardware.managers else UNBOUND


# PortManager.P#


@final
@frozen(kw_only=True)
class SerialCGI:
    """PortManager.P#.SerialCGI: the server behind serial.cgi."""

    enabled: bool = parameter("Enabled", YES_NO, default=False)


@final
@frozen(kw_only=True)
class Listener:
    """RemotePortServer.Listener and GenericTCPServer.Listener: where clients connect."""

    enabled: bool = parameter("Enabled", YES_NO, default=False)
    port: int = parameter("Port", TCP_PORT, FIRST_PORT, default_at=_port_of)


@final
@frozen(kw_only=True)
class ConnectTo:
    """GenericTCPServer.ConnectTo: the host that the port manager connects to as a client."""

    enabled: bool = parameter("Enabled", YES_NO, default=False)
    host: str = parameter("Host", HOST, "")
    port: int = parameter("Port", TCP_PORT, FIRST_PORT, default_at=_port_of)


@final
@frozen(kw_only=True)
class RemotePortServer:
    """PortManager.P#.RemotePortServer: opens the port to other CPUs. ``timeout`` is in seconds, 0 = never."""

    enabled: bool = parameter("Enabled", YES_NO, default=False)
    allowed_ip_addresses: AddressList = parameter("AllowedIPAddresses", ADDRESSES, EVERYBODY)
    timeout: int = parameter("Timeout", SECONDS, 0)
    authentication_key: str = parameter("AuthenticationKey", KEY, "")
    listener: Listener = group("Listener", Listener)


@final
@frozen(kw_only=True)
class PTZServer:
    """PortManager.P#.PTZServer: the server that PTZ drivers connect to."""

    enabled: bool = parameter("Enabled", YES_NO, default=False)


@final
@frozen(kw_only=True)
class GenericTCPServer:
    """PortManager.P#.GenericTCPServer: raw bytes over TCP. ``timeout`` is in seconds, 0 = never."""

    enabled: bool = parameter("Enabled", YES_NO, default=False)
    allowed_ip_addresses: AddressList = parameter("AllowedIPAddresses", ADDRESSES, EVERYBODY)
    timeout: int = parameter("Timeout", SECONDS, 0)
    connect_to: ConnectTo = group("ConnectTo", ConnectTo)
    listener: Listener = group("Listener", Listener)


@final
@frozen(kw_only=True)
class PortManager:
    """PortManager.P#: one port and its servers."""

    port_enabled: bool = parameter("PortEnabled", YES_NO, default=True)
    port_type: PortType = parameter(
        "PortType",
        Choice(tuple(PortType)),
        PortType.SERIAL,
        rule_at=lambda place: Choice(place.manager.types),
        default_at=lambda place: place.manager.default_type,
    )
    serial_cgi: SerialCGI = group("SerialCGI", SerialCGI)
    remote_port_server: RemotePortServer = group("RemotePortServer", RemotePortServer)
    ptz_server: PTZServer = group("PTZServer", PTZServer)
    generic_tcp_server: GenericTCPServer = group("GenericTCPServer", GenericTCPServer)


# Serial.Ser#


@final
@frozen(kw_only=True)
class SerialPort:
    """Serial.Ser#: the line settings of a serial port. A setting that its hardware lacks is False."""

    port_mode: PortMode = parameter(
        "PortMode",
        Choice(tuple(PortMode)),
        PortMode.RS232,
        rule_at=lambda place: Choice(place.serial.modes),
        default_at=lambda place: place.serial.modes[0],
    )
    baud_rate: int = parameter("BaudRate", Choice(SLOW_RATES + FAST_RATES), 9600, rule_at=_rates_of)
    data_bits: int = parameter("DataBits", Choice(DATA_BITS), 8, rule_at=_data_bits_of)
    stop_bits: int = parameter("StopBits", Choice((1, 2)), 1)
    parity: Parity = parameter("Parity", Choice(tuple(Parity)), Parity.NONE)
    flow_control_xonxoff: bool = parameter(
        "FlowControlXONXOFF",
        YES_NO,
        default=False,
        nice_name="Flow control XON/XOFF",
        where=lambda place: place.serial.has_xon_xoff,
    )
    flow_control_rtscts: bool = parameter(
        "FlowControlRTSCTS",
        YES_NO,
        default=False,
        nice_name="Flow control RTS/CTS",
        where=lambda place: place.serial.has_rts_cts,
    )
    termination: bool = parameter(
        "Termination", YES_NO, default=False, where=lambda place: place.serial.has_termination
    )
    bias: bool = parameter("Bias", YES_NO, default=False, where=lambda place: place.serial.has_bias)


def _serial_numbers(hardware: Hardware) -> range:
    return range(1, len(hardware.serial) + 1)


@final
@frozen(kw_only=True)
class Serial:
    """Serial: the serial ports; Ser1 is ``ports[0]``."""

    nbr_of_ports: int = parameter(
        "NbrOfPorts",
        COUNT,
        0,
        read=Role.OPEN,
        write=Role.NOBODY,
        default_at=lambda place: len(place.hardware.serial),
    )
    ports: tuple[SerialPort, ...] = groups("Ser{}", SerialPort, _serial_numbers)


# RemotePort.R#


@final
@frozen(kw_only=True)
class RemotePort:
    """RemotePort.R#: a remote port client. ``host`` and ``port`` are ignored while ``auto_conf`` is set."""

    auto_conf: bool = parameter("AutoConf", YES_NO, default=True)
    authentication_key: str = parameter("AuthenticationKey", KEY, "")
    host: str = parameter("Host", HOST, "")
    port: int = parameter("Port", TCP_PORT, 5555)


# PTZ, Network, Brand and Properties: groups beside the API page that its clients ask for


@final
@frozen(kw_only=True)
class Ptz:
    """PTZ: ``cam_ports[n - 1]`` is the port number (from 1) that video source n is bound to, or -1."""

    camera_default: int = parameter("CameraDefault", COUNT, 1, read=Role.OPEN, write=Role.NOBODY)
    nbr_of_ser_ports: int = parameter(
        "NbrOfSerPorts",
        COUNT,
        0,
        read=Role.OPEN,
        write=Role.NOBODY,
        default_at=lambda place: len(place.hardware.serial),
    )
    ptz_enabled: bool = parameter("ImageSource.I0.PTZEnabled", YES_NO, default=True, read=Role.OPEN, write=Role.NOBODY)
    cam_ports: tuple[int, ...] = parameters(
        "CamPorts.Cam{}Port",
        Choice((UNBOUND, 1)),
        UNBOUND,
        lambda hardware: range(1, hardware.video_sources + 1),
        read=Role.VIEWER,
        rule_at=_cam_port_rule,
        default_at=_cam_port_default,
    )


@final
@frozen(kw_only=True)
class HTTP:
    """Network.HTTP: how callers of the HTTP server log in."""

    authentication_policy: AuthenticationPolicy = parameter(
        "AuthenticationPolicy", Choice(tuple(AuthenticationPolicy)), AuthenticationPolicy.RECOMMENDED
    )


@final
@frozen(kw_only=True)
class Network:
    """Network."""

    http: HTTP = group("HTTP", HTTP)


def _fact(name: str, text: str, at: Callable[[Identity], str] | None = None) -> str:
    """Declare a text about the product, which everybody may read and nobody may write."""
    told = None if at is None else lambda place: at(place.hardware.identity)
    return parameter(name, SHORT, text, read=Role.OPEN, write=Role.NOBODY, default_at=told)


@final
@frozen(kw_only=True)
class Brand:
    """Brand: the names of the product and its maker."""

    brand: str = _fact("Brand", "", lambda identity: identity.brand)
    full_name: str = _fact("ProdFullName", "", lambda identity: f"{identity.brand} {identity.model}")
    number: str = _fact("ProdNbr", "", lambda identity: identity.model)
    short_name: str = _fact("ProdShortName", "", lambda identity: identity.model)
    type: str = _fact("ProdType", "Serial gateway")
    variant: str = _fact("ProdVariant", "")
    web_url: str = _fact("WebURL", "")


@final
@frozen(kw_only=True)
class Properties:
    """Properties: the abilities that clients look up before they use an API. There is no metadata API."""

    http_version: str = _fact("API.HTTP.Version", "3")
    metadata: str = _fact("API.Metadata.Metadata", "no")
    metadata_version: str = _fact("API.Metadata.Version", "0.0")
    build_date: str = _fact("Firmware.BuildDate", "", lambda identity: identity.build_date)
    build_number: str = _fact("Firmware.BuildNumber", "", lambda identity: identity.build_number)
    version: str = _fact("Firmware.Version", "", lambda identity: identity.firmware_version)
    serial: str = _fact("Serial.Serial", "yes")
    serial_number: str = _fact("System.SerialNumber", "", lambda identity: identity.serial_number)


def _manager_indices(hardware: Hardware) -> range:
    return range(len(hardware.managers))


def _remote_port_indices(hardware: Hardware) -> range:
    return range(hardware.remote_ports)


@final
@frozen(kw_only=True)
class Settings:
    """The root: everything that can be listed or set."""

    brand: Brand = group("Brand", Brand)
    network: Network = group("Network", Network)
    port_managers: tuple[PortManager, ...] = groups("PortManager.P{}", PortManager, _manager_indices)
    properties: Properties = group("Properties", Properties)
    ptz: Ptz = group("PTZ", Ptz)
    remote_ports: tuple[RemotePort, ...] = groups("RemotePort.R{}", RemotePort, _remote_port_indices)
    serial: Serial = group("Serial", Serial)
