"""The tables of the VAPIX Serial port API, row by row, against what the tree declares."""

from __future__ import annotations

import pytest

from protocol.parameters.catalogue import Catalogue
from protocol.parameters.hardware import Hardware, Identity, ManagerHardware, PortMode, PortType, SerialHardware
from protocol.parameters.roles import Role
from protocol.parameters.settings import AuthenticationPolicy, Parity, PortManager, SerialPort, Settings

WHOLE = SerialHardware(tuple(PortMode), termination=True, bias=True)
IDENTITY = Identity("Daisyport", "DP4", "00408C123456", "1.2.3", "Nov 23 2026 08:30", "77")
CATALOGUE = Catalogue(
    Hardware(
        (WHOLE, SerialHardware()), (ManagerHardware(1, 0), ManagerHardware(2), ManagerHardware(None, 3)), 4, IDENTITY
    )
)
DEFAULTS = CATALOGUE.restored("").settings

YES_NO = "yes no"
RATES = "300 600 1200 2400 4800 9600 19200 38400 57600 115200 230400 460800"

CONTRACT = [
    ("PortManager.P1.PortEnabled", "yes", YES_NO),
    ("PortManager.P0.PortType", "Serial", "Serial RemotePort"),
    ("PortManager.P1.PortType", "Serial", "Serial"),
    ("PortManager.P2.PortType", "RemotePort", "RemotePort"),
    ("PortManager.P1.SerialCGI.Enabled", "no", YES_NO),
    ("PortManager.P1.RemotePortServer.Enabled", "no", YES_NO),
    ("PortManager.P1.RemotePortServer.AllowedIPAddresses", "", "1.2.3.4,2.3.4.5-9,3.4.5.*"),
    ("PortManager.P1.RemotePortServer.Timeout", "0", "0 3600"),
    ("PortManager.P1.RemotePortServer.AuthenticationKey", "", "key"),
    ("PortManager.P1.RemotePortServer.Listener.Enabled", "no", YES_NO),
    ("PortManager.P1.RemotePortServer.Listener.Port", "1025", "1024 65535"),
    ("PortManager.P1.PTZServer.Enabled", "no", YES_NO),
    ("PortManager.P1.GenericTCPServer.Enabled", "no", YES_NO),
    ("PortManager.P1.GenericTCPServer.AllowedIPAddresses", "", "1.2.3.4,2.3.4.5-9,3.4.5.*"),
    ("PortManager.P1.GenericTCPServer.Timeout", "0", "0 3600"),
    ("PortManager.P1.GenericTCPServer.ConnectTo.Enabled", "no", YES_NO),
    ("PortManager.P1.GenericTCPServer.ConnectTo.Host", "", "cam.example 10.0.0.1 2001:db8::1"),
    ("PortManager.P1.GenericTCPServer.ConnectTo.Port", "1025", "1024 65535"),
    ("PortManager.P1.GenericTCPServer.Listener.Enabled", "no", YES_NO),
    ("PortManager.P2.GenericTCPServer.Listener.Port", "1026", "1024 65535"),
    ("Serial.Ser1.PortMode", "RS232", "RS232 RS485 RS485_4 RS422"),
    ("Serial.Ser2.PortMode", "RS232", "RS232"),
    ("Serial.Ser1.BaudRate", "9600", RATES),
    ("Serial.Ser2.BaudRate", "9600", RATES.removesuffix(" 230400 460800")),
    ("Serial.Ser1.DataBits", "8", "7 8"),
    ("Serial.Ser1.StopBits", "1", "1 2"),
    ("Serial.Ser1.Parity", "None", "None Even Odd Mark Space"),
    ("Serial.Ser1.FlowControlXONXOFF", "no", YES_NO),
    ("Serial.Ser1.FlowControlRTSCTS", "no", YES_NO),
    ("Serial.Ser1.Termination", "no", YES_NO),
    ("Serial.Ser1.Bias", "no", YES_NO),
    ("RemotePort.R0.AutoConf", "yes", YES_NO),
    ("RemotePort.R3.AuthenticationKey", "", "key"),
    ("RemotePort.R3.Host", "", "cam.example 10.0.0.1"),
    ("RemotePort.R3.Port", "5555", "1024 65535"),
    ("Network.HTTP.AuthenticationPolicy", "recommended", "basic digest basic_digest recommended"),
]


@pytest.mark.parametrize(("name", "default", "values"), CONTRACT)
def test_a_parameter_of_the_contract_has_its_default_its_values_and_its_access(
    name: str, default: str, values: str
) -> None:
    parameter = CATALOGUE.parameters[name]
    assert CATALOGUE.text(DEFAULTS, name) == default
    assert all(parameter.rule.format(parameter.rule.parse(value)) == value for value in values.split())
    assert (parameter.read, parameter.write) == (Role.OPERATOR, Role.ADMIN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PortManager.P1.PortType", "RemotePort"),
        ("PortManager.P2.PortType", "Serial"),
        ("PortManager.P0.GenericTCPServer.Listener.Port", "1023"),
        ("PortManager.P0.GenericTCPServer.Timeout", "3601"),
        ("Serial.Ser1.BaudRate", "12345"),
        ("Serial.Ser2.BaudRate", "230400"),
        ("Serial.Ser1.DataBits", "5"),
        ("Serial.Ser2.PortMode", "RS485"),
        ("PTZ.CamPorts.Cam1Port", "0"),
        ("PTZ.CamPorts.Cam1Port", "4"),
        ("RemotePort.R0.AuthenticationKey", "k" * 129),
    ],
)
def test_a_value_outside_the_tables_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"must (be|have)"):
        CATALOGUE.parameters[name].rule.parse(value)


def test_the_contract_names_every_parameter_that_an_admin_may_write() -> None:
    def kind(name: str) -> str:
        return "".join(sign for sign in name if not sign.isdigit())

    writable = {kind(name) for name, parameter in CATALOGUE.parameters.items() if parameter.write is Role.ADMIN}
    assert writable == {kind(name) for name, _, _ in CONTRACT} | {"PTZ.CamPorts.CamPort"}


@pytest.mark.parametrize("lacking", ["FlowControlXONXOFF", "FlowControlRTSCTS", "Termination", "Bias"])
def test_what_the_hardware_lacks_does_not_exist(lacking: str) -> None:
    bare = SerialHardware(xon_xoff=False, rts_cts=False)
    catalogue = Catalogue(Hardware((bare,), (ManagerHardware(1),)))
    assert f"Serial.Ser1.{lacking}" not in catalogue.parameters
    assert "Serial.Ser1.BaudRate" in catalogue.parameters
    assert not any(name.startswith("RemotePort.") for name in catalogue.parameters)


def test_remote_ports_exist_up_to_the_highest_index_in_use() -> None:
    names = {name.split(".")[1] for name in CATALOGUE.parameters if name.startswith("RemotePort.")}
    assert names == {"R0", "R1", "R2", "R3"}
    assert len(DEFAULTS.remote_ports) == 4


def test_the_first_mode_that_the_host_names_is_the_default() -> None:
    port = SerialHardware((PortMode.RS485, PortMode.RS232))
    catalogue = Catalogue(Hardware((port,), ()))
    assert catalogue.restored("").settings.serial.ports[0].port_mode is PortMode.RS485


def test_facts_are_read_by_everybody_and_written_by_nobody() -> None:
    facts = {
        name: (CATALOGUE.text(DEFAULTS, name), parameter.read, parameter.write)
        for name, parameter in CATALOGUE.parameters.items()
        if parameter.write is Role.NOBODY
    }
    assert facts == {
        name: (text, Role.OPEN, Role.NOBODY)
        for name, text in {
            "Brand.Brand": "Daisyport",
            "Brand.ProdFullName": "Daisyport DP4",
            "Brand.ProdNbr": "DP4",
            "Brand.ProdShortName": "DP4",
            "Brand.ProdType": "Serial gateway",
            "Brand.ProdVariant": "",
            "Brand.WebURL": "",
            "PTZ.CameraDefault": "1",
            "PTZ.NbrOfSerPorts": "2",
            "PTZ.ImageSource.I0.PTZEnabled": "yes",
            "Properties.API.HTTP.Version": "3",
            "Properties.API.Metadata.Metadata": "no",
            "Properties.API.Metadata.Version": "0.0",
            "Properties.Firmware.BuildDate": "Nov 23 2026 08:30",
            "Properties.Firmware.BuildNumber": "77",
            "Properties.Firmware.Version": "1.2.3",
            "Properties.Serial.Serial": "yes",
            "Properties.System.SerialNumber": "00408C123456",
            "Serial.NbrOfPorts": "2",
        }.items()
    }


def test_the_first_video_source_has_the_first_port_and_the_others_have_none() -> None:
    assert DEFAULTS.ptz.cam_ports == (1, -1, -1, -1)
    binding = CATALOGUE.parameters["PTZ.CamPorts.Cam4Port"]
    assert (binding.read, binding.write) == (Role.VIEWER, Role.ADMIN)
    assert [binding.rule.parse(text) for text in ("-1", "1", "3")] == [-1, 1, 3]
    assert Catalogue(Hardware((), ())).restored("").settings.ptz.cam_ports == (-1,)


def test_the_tree_is_typed() -> None:
    assert DEFAULTS.port_managers[0].port_type is PortType.SERIAL
    assert DEFAULTS.port_managers[1].generic_tcp_server.listener.port == 1025
    assert DEFAULTS.serial.ports[0].parity is Parity.NONE
    assert DEFAULTS.serial.nbr_of_ports == 2
    assert DEFAULTS.network.http.authentication_policy is AuthenticationPolicy.RECOMMENDED


def test_by_itself_a_class_has_the_contracts_defaults() -> None:
    assert SerialPort() == DEFAULTS.serial.ports[0]
    assert PortManager() == DEFAULTS.port_managers[0]
    assert Settings().port_managers == ()
