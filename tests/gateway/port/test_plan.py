from __future__ import annotations

import pytest

from gateway.port.plan import (
    Announce,
    Device,
    Dial,
    Listen,
    PtzSocket,
    Serve,
    ServiceKind,
    Spec,
    order,
    plan,
    responsible,
)
from protocol.parameters.catalogue import Catalogue
from protocol.parameters.hardware import Hardware, ManagerHardware, PortType, SerialHardware
from protocol.parameters.roles import Role

CATALOGUE = Catalogue(Hardware((SerialHardware(),), (ManagerHardware(serial=1, remote_port=0),)))
EVERYWHERE = ("0.0.0.0", "::")


def planned(**parameters: str) -> frozenset[Spec]:
    assignments = [(f"PortManager.P0.{name.replace('_', '.')}", value) for name, value in parameters.items()]
    update = CATALOGUE.updated(CATALOGUE.restored("").settings, assignments, Role.ADMIN)
    assert not update.refused
    return plan(update.settings, 0, (1, 0), EVERYWHERE)


def test_by_default_there_is_the_device_and_every_service_is_closed() -> None:
    assert planned() == {Device(PortType.SERIAL, 1)}


def test_a_disabled_port_has_no_device_but_keeps_its_services() -> None:
    assert planned(PortEnabled="no", SerialCGI_Enabled="yes") == {Serve(ServiceKind.SERIAL_CGI)}


def test_the_port_type_chooses_the_device() -> None:
    assert planned(PortType="RemotePort") == {Device(PortType.REMOTE, 0)}


def test_a_port_without_that_hardware_has_no_device() -> None:
    assert plan(CATALOGUE.restored("").settings, 0, (None, 0), EVERYWHERE) == frozenset()


def test_the_hosts_own_listeners_whose_clients_may_not_write_are_there_whatever_the_parameters_say() -> None:
    settings = CATALOGUE.restored("").settings
    where = (("0.0.0.0", 4001), ("::1", 4002))
    assert plan(settings, 0, (1, 0), EVERYWHERE, where) == {
        Device(PortType.SERIAL, 1),
        Serve(ServiceKind.LISTEN_ONLY),
        Listen("0.0.0.0", 4001, ServiceKind.LISTEN_ONLY),
        Listen("::1", 4002, ServiceKind.LISTEN_ONLY),
    }
    assert str(Listen("::1", 4002, ServiceKind.LISTEN_ONLY)) == "listen [::1]:4002 to listen only"


def test_the_generic_tcp_server_listens_on_every_address_and_connects() -> None:
    wanted = planned(
        GenericTCPServer_Enabled="yes",
        GenericTCPServer_Listener_Enabled="yes",
        GenericTCPServer_Listener_Port="3000",
        GenericTCPServer_ConnectTo_Enabled="yes",
        GenericTCPServer_ConnectTo_Host="far.example",
    )
    assert wanted == {
        Device(PortType.SERIAL, 1),
        Serve(ServiceKind.GENERIC_TCP),
        Listen("0.0.0.0", 3000),
        Listen("::", 3000),
        Dial("far.example", 1024),
    }


def test_a_listener_without_its_server_and_a_dial_without_a_host_are_nothing() -> None:
    wanted = planned(
        GenericTCPServer_Listener_Enabled="yes", GenericTCPServer_ConnectTo_Enabled="yes", GenericTCPServer_Timeout="5"
    )
    assert wanted == {Device(PortType.SERIAL, 1)}
    assert planned(GenericTCPServer_Enabled="yes", GenericTCPServer_ConnectTo_Enabled="yes") == wanted | {
        Serve(ServiceKind.GENERIC_TCP)
    }


def test_ptz_drivers_have_a_stream_and_a_packet_socket() -> None:
    assert planned(PTZServer_Enabled="yes") >= {
        PtzSocket(packets=False),
        PtzSocket(packets=True),
        Serve(ServiceKind.PTZ),
    }


def test_a_remote_port_server_listens_and_is_announced() -> None:
    wanted = planned(
        RemotePortServer_Enabled="yes",
        RemotePortServer_Listener_Enabled="yes",
        RemotePortServer_Listener_Port="2500",
        RemotePortServer_AuthenticationKey="key",
    )
    assert wanted == {
        Device(PortType.SERIAL, 1),
        Serve(ServiceKind.REMOTE_PORT),
        Listen("0.0.0.0", 2500, ServiceKind.REMOTE_PORT),
        Listen("::", 2500, ServiceKind.REMOTE_PORT),
        Announce(2500, keyed=True),
    }


@pytest.mark.parametrize("server", ["RemotePortServer", "GenericTCPServer"])
def test_a_listener_is_open_only_where_both_it_and_its_server_are_enabled(server: str) -> None:
    listener = planned(**{f"{server}_Listener_Enabled": "yes"})
    alone = planned(**{f"{server}_Enabled": "yes", f"{server}_Listener_Enabled": "no"})
    assert not [spec for spec in listener | alone if isinstance(spec, Listen | Announce)]


def test_what_an_open_service_takes_up_in_place_changes_no_spec() -> None:
    opened = {"GenericTCPServer_Enabled": "yes"}
    assert planned(**opened) == planned(
        **opened, GenericTCPServer_Timeout="9", GenericTCPServer_AllowedIPAddresses="10.0.0.1"
    )


def test_services_start_before_their_listeners_and_the_device_first() -> None:
    last_first: list[Spec] = [Dial("h", 1), PtzSocket(packets=True), Listen("::", 1), Serve(ServiceKind.PTZ)]
    specs = [*last_first, Device(PortType.SERIAL, 1)]
    assert [type(spec) for spec in sorted(specs, key=order)] == [Device, Serve, Listen, PtzSocket, Dial]


TCP = "PortManager.P0.GenericTCPServer."


@pytest.mark.parametrize(
    ("spec", "changed", "names"),
    [
        (Listen("::", 1), (f"{TCP}Listener.Port",), (f"{TCP}Listener.Port",)),
        (
            Listen("::", 1),
            (f"{TCP}Enabled", f"{TCP}Listener.Enabled", f"{TCP}Listener.Port"),
            (f"{TCP}Listener.Enabled", f"{TCP}Listener.Port"),
        ),
        (Listen("::", 1), (f"{TCP}Enabled", f"{TCP}Timeout"), (f"{TCP}Enabled",)),
        (Listen("::", 1), (f"{TCP}Timeout",), ()),
        (PtzSocket(packets=True), ("PortManager.P0.PTZServer.Enabled",), ("PortManager.P0.PTZServer.Enabled",)),
        (Listen("::", 1), ("PortManager.P1.GenericTCPServer.Listener.Port",), ()),
    ],
)
def test_only_the_listeners_own_parameters_are_responsible_and_all_of_them_together(
    spec: Spec, changed: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert responsible(spec, 0, changed) == names


def test_specs_read_well_in_a_log() -> None:
    told = [Device(PortType.SERIAL, 1), Device(PortType.REMOTE, 0), Listen("::1", 9), Listen("10.0.0.1", 9)]
    assert [str(spec) for spec in told] == ["Ser1", "R0", "listen [::1]:9", "listen 10.0.0.1:9"]
    assert str(Dial("h", 1)) == "connect to h:1"
    assert str(Serve(ServiceKind.PTZ)) == "service PTZServer"
    assert str(Listen("::1", 9, ServiceKind.REMOTE_PORT)) == "listen [::1]:9 for remote ports"
    assert str(Announce(9, keyed=False)) == "announce port 9 by Bonjour"
    assert [str(PtzSocket(packets=packets)) for packets in (False, True)] == ["PTZ stream socket", "PTZ packet socket"]
