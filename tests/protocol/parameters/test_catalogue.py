from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.parameters.catalogue import Catalogue, Update
from protocol.parameters.hardware import Hardware, ManagerHardware, PortMode, PortType, SerialHardware
from protocol.parameters.roles import Role
from protocol.parameters.rules import conflicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.parameters.settings import Settings

WHOLE = SerialHardware(tuple(PortMode), termination=True, bias=True)
CATALOGUE = Catalogue(
    Hardware((WHOLE, SerialHardware()), (ManagerHardware(1, 0), ManagerHardware(2), ManagerHardware(1)))
)
DEFAULTS = CATALOGUE.restored("").settings
KEY = "RemotePort.R0.AuthenticationKey"


def updated(query: str, settings: Settings = DEFAULTS, role: Role = Role.ADMIN) -> Update:
    """Update by the words of a query, without its percent-encoding."""
    assignments = [(name, value) for name, _, value in (pair.partition("=") for pair in query.split("&"))]
    return CATALOGUE.updated(settings, assignments, role)


def names(update: Update) -> list[str]:
    return [error.name for error in update.refused]


# One parameter at a time


def test_an_update_gives_a_new_tree_and_leaves_the_old_one_alone() -> None:
    update = updated("PortManager.P1.GenericTCPServer.Listener.Port=3000&root.Serial.Ser1.BaudRate=19200")
    assert update.settings.port_managers[1].generic_tcp_server.listener.port == 3000
    assert update.settings.serial.ports[0].baud_rate == 19200
    assert update.changed == ("PortManager.P1.GenericTCPServer.Listener.Port", "Serial.Ser1.BaudRate")
    assert update.refused == ()
    assert DEFAULTS.serial.ports[0].baud_rate == 9600


def test_what_an_update_does_not_name_is_the_same_object() -> None:
    update = updated("PortManager.P1.PortEnabled=no")
    assert update.settings.port_managers[0] is DEFAULTS.port_managers[0]
    assert update.settings.port_managers[1].generic_tcp_server is DEFAULTS.port_managers[1].generic_tcp_server
    assert update.settings.serial is DEFAULTS.serial


def test_a_host_adds_rates_and_data_bits_to_the_contracts() -> None:
    lines = SerialHardware(rates=(250000, 230400), data_bits=(5, 6)), SerialHardware()
    catalogue = Catalogue(Hardware(lines, (ManagerHardware(1), ManagerHardware(2))))
    pairs = [("Serial.Ser1.BaudRate", "250000"), ("Serial.Ser1.DataBits", "5")]
    pairs += [("Serial.Ser2.BaudRate", "250000"), ("Serial.Ser2.DataBits", "5")]
    update = catalogue.updated(catalogue.restored("").settings, pairs, Role.ADMIN)
    assert update.changed == ("Serial.Ser1.BaudRate", "Serial.Ser1.DataBits")
    assert [error.why for error in update.refused] == [
        "must be one of 300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200",
        "must be one of 7, 8",
    ]
    assert catalogue.updated(update.settings, [("Serial.Ser1.BaudRate", "230400")], Role.ADMIN).refused == ()


def test_a_value_that_is_there_already_is_no_change() -> None:
    update = updated("Serial.Ser1.BaudRate=9600&Serial.Ser1.Parity=None")
    assert update == Update(DEFAULTS, (), ())
    assert update.settings is DEFAULTS


def test_a_refused_value_leaves_the_others_applied() -> None:
    update = updated("Serial.Ser1.BaudRate=19200&Serial.Ser1.DataBits=5&Serial.Ser1.StopBits=2")
    assert update.changed == ("Serial.Ser1.BaudRate", "Serial.Ser1.StopBits")
    (error,) = update.refused
    assert (error.name, error.value, error.why) == ("Serial.Ser1.DataBits", "5", "must be one of 7, 8")


def test_refusals_come_in_the_order_of_the_request() -> None:
    update = updated("PortManager.P0.PortEnabled=maybe&Serial.Ser2.BaudRate=460800&PortManager.P0.PortType=COM1&X.Y=1")
    assert names(update) == ["PortManager.P0.PortEnabled", "Serial.Ser2.BaudRate", "PortManager.P0.PortType", "X.Y"]
    assert update.settings is DEFAULTS


@pytest.mark.parametrize(
    ("query", "role", "why"),
    [
        ("Serial.Ser3.BaudRate=9600", Role.ADMIN, "no such parameter on this product"),
        ("root.root.Serial.Ser1.BaudRate=9600", Role.ADMIN, "no such parameter on this product"),
        ("Serial.Ser2.Termination=yes", Role.ADMIN, "no such parameter on this product"),
        ("serial.ser1.baudrate=9600", Role.ADMIN, "no such parameter on this product"),
        ("Serial.NbrOfPorts=9", Role.ADMIN, "read-only"),
        ("Serial.Ser1.BaudRate=9600", Role.OPERATOR, "requires the role admin"),
        ("Serial.Ser1.BaudRate=9600", Role.VIEWER, "requires the role admin"),
        (f"{KEY}=a\nroot.X=1", Role.ADMIN, "control characters"),
        (f"{KEY}=a\x7f", Role.ADMIN, "control characters"),
        (f"{KEY}=a\x85b", Role.ADMIN, "control characters"),
        (f"{KEY}=a\u2028b", Role.ADMIN, "control characters"),
        (f"{KEY}=a\udcffb", Role.ADMIN, "bytes that are not text"),
        (f"{KEY}={'x' * 129}", Role.ADMIN, "must have at most 128 characters, not 129"),
        ("RemotePort.R0.Host=two words", Role.ADMIN, "a host name or an IP address"),
        ("PortManager.P0.GenericTCPServer.AllowedIPAddresses=1.2.3", Role.ADMIN, "four numbers with dots"),
    ],
)
def test_a_refusal_says_what_the_value_must_be(query: str, role: Role, why: str) -> None:
    update = updated(query, role=role)
    assert why in update.refused[0].why
    assert update.settings is DEFAULTS


def test_what_stands_for_undecodable_bytes_is_no_part_of_a_key() -> None:
    assert "bytes that are not text" in updated(f"{KEY}=a{chr(0xFFFD)}b").refused[0].why


def test_a_refused_key_is_not_in_the_error() -> None:
    (error,) = updated(f"{KEY}=hunter2\t").refused
    assert error.value == "******"
    assert "hunter2" not in str(error)


def test_of_two_values_for_one_parameter_the_last_right_one_counts() -> None:
    assert updated("Serial.Ser1.BaudRate=300&Serial.Ser1.BaudRate=600").settings.serial.ports[0].baud_rate == 600
    update = updated("Serial.Ser1.BaudRate=300&root.Serial.Ser1.BaudRate=fast")
    assert update.settings.serial.ports[0].baud_rate == 300
    assert names(update) == ["Serial.Ser1.BaudRate"]


def test_a_parameter_named_twice_stands_where_it_was_named_last() -> None:
    update = updated("Serial.Ser1.BaudRate=300&Serial.Ser1.StopBits=2&Serial.Ser1.BaudRate=600")
    assert update.changed == ("Serial.Ser1.StopBits", "Serial.Ser1.BaudRate")


def test_text_is_the_value_as_an_admin_sees_it() -> None:
    settings = updated(f"{KEY}=secret&PortManager.P0.PortType=RemotePort").settings
    assert CATALOGUE.text(settings, KEY) == "secret"
    assert CATALOGUE.text(settings, "PortManager.P0.PortType") == "RemotePort"
    assert settings.port_managers[0].port_type is PortType.REMOTE
    with pytest.raises(KeyError):
        CATALOGUE.text(settings, "No.Such")


# Rules across parameters


def test_rules_are_judged_on_the_state_after_the_whole_request() -> None:
    for query in (
        "Serial.Ser1.BaudRate=230400&Serial.Ser1.PortMode=RS485",
        "Serial.Ser1.PortMode=RS485&Serial.Ser1.BaudRate=230400",
    ):
        update = updated(query)
        assert update.refused == ()
        assert update.settings.serial.ports[0].baud_rate == 230400


@pytest.mark.parametrize(
    ("before", "query", "refused"),
    [
        ("Serial.Ser1.StopBits=1", "Serial.Ser1.BaudRate=230400", ["BaudRate"]),
        ("Serial.Ser1.StopBits=1", "Serial.Ser1.PortMode=RS422&Serial.Ser1.BaudRate=230400", ["BaudRate"]),
        ("Serial.Ser1.PortMode=RS485", "Serial.Ser1.FlowControlXONXOFF=yes", ["FlowControlXONXOFF"]),
        ("Serial.Ser1.PortMode=RS422", "Serial.Ser1.FlowControlRTSCTS=yes", ["FlowControlRTSCTS"]),
        ("Serial.Ser1.FlowControlRTSCTS=yes", "Serial.Ser1.PortMode=RS422", ["PortMode"]),
        (
            "Serial.Ser1.FlowControlRTSCTS=yes&Serial.Ser1.FlowControlXONXOFF=yes",
            "Serial.Ser1.PortMode=RS485&Serial.Ser1.StopBits=2",
            ["PortMode"],
        ),
        (
            "Serial.Ser1.PortMode=RS485&Serial.Ser1.BaudRate=460800",
            "Serial.Ser1.PortMode=RS232&Serial.Ser1.BaudRate=230400",
            ["PortMode", "BaudRate"],
        ),
    ],
)
def test_what_a_line_cannot_have_is_put_back_the_later_one_first(before: str, query: str, refused: list[str]) -> None:
    base = updated(before).settings
    update = updated(query, base)
    assert names(update) == [f"Serial.Ser1.{name}" for name in refused]
    assert len(update.changed) == query.count("=") - len(refused)


def test_putting_one_change_back_can_save_another() -> None:
    update = updated("Serial.Ser1.FlowControlXONXOFF=yes&Serial.Ser1.PortMode=RS485&Serial.Ser1.FlowControlRTSCTS=yes")
    assert names(update) == ["Serial.Ser1.PortMode"]
    assert update.changed == ("Serial.Ser1.FlowControlXONXOFF", "Serial.Ser1.FlowControlRTSCTS")


def listening(manager: int, port: int, service: str = "GenericTCPServer") -> str:
    path = f"PortManager.P{manager}.{service}"
    return f"{path}.Enabled=yes&{path}.Listener.Enabled=yes&{path}.Listener.Port={port}"


def test_the_contracts_example_opens_a_listener() -> None:
    update = updated(f"{listening(0, 3000)}&PortManager.P0.PortEnabled=yes")
    service = update.settings.port_managers[0].generic_tcp_server
    assert (service.enabled, service.listener.enabled, service.listener.port) == (True, True, 3000)
    assert update.refused == ()


@pytest.mark.parametrize("service", ["GenericTCPServer", "RemotePortServer"])
def test_a_second_listener_on_a_tcp_port_is_put_back_whole(service: str) -> None:
    # With its port alone put back it would listen on 1025, where nobody asked for a listener.
    base = updated(listening(0, 3000)).settings
    update = updated(f"{listening(1, 3000, service)}&PortManager.P1.PTZServer.Enabled=yes", base)
    assert names(update) == [
        f"PortManager.P1.{service}.{name}" for name in ("Enabled", "Listener.Enabled", "Listener.Port")
    ]
    assert "only one server can listen on TCP port 3000" in update.refused[0].why
    assert update.changed == ("PortManager.P1.PTZServer.Enabled",)
    assert update.settings == updated("PortManager.P1.PTZServer.Enabled=yes", base).settings


def test_the_two_services_of_one_port_manager_collide_by_default() -> None:
    base = updated("PortManager.P0.GenericTCPServer.Enabled=yes&PortManager.P0.GenericTCPServer.Listener.Enabled=yes")
    update = updated(
        "PortManager.P0.RemotePortServer.Listener.Enabled=yes&PortManager.P0.RemotePortServer.Enabled=yes",
        base.settings,
    )
    assert names(update) == [
        "PortManager.P0.RemotePortServer.Listener.Enabled",
        "PortManager.P0.RemotePortServer.Enabled",
    ]


def test_of_two_new_listeners_on_one_tcp_port_the_first_assigned_stays() -> None:
    update = updated(f"{listening(1, 3000)}&{listening(0, 3000)}")
    assert {name.split(".")[1] for name in names(update)} == {"P0"}
    assert update.settings.port_managers[1].generic_tcp_server.listener.enabled


def test_listeners_can_swap_their_tcp_ports_in_one_request() -> None:
    base = updated(f"{listening(0, 3000)}&{listening(1, 3001)}").settings
    port = "GenericTCPServer.Listener.Port"
    update = updated(f"PortManager.P0.{port}=3001&PortManager.P1.{port}=3000", base)
    assert update.refused == ()
    assert [m.generic_tcp_server.listener.port for m in update.settings.port_managers[:2]] == [3001, 3000]


def test_a_move_that_is_put_back_puts_back_what_took_its_place() -> None:
    base = updated(f"{listening(0, 3000)}&{listening(1, 3001)}&{listening(2, 3002)}").settings
    port = "GenericTCPServer.Listener.Port"
    update = updated(f"PortManager.P0.{port}=3001&PortManager.P1.{port}=3002", base)
    assert names(update) == [f"PortManager.P0.{port}", f"PortManager.P1.{port}"]
    assert update.settings == base


def test_sixty_four_listeners_on_one_tcp_port_leave_one() -> None:
    blade = Catalogue(Hardware((WHOLE,), (ManagerHardware(1),) * 64))
    pairs = [tuple(pair.split("=")) for n in range(64) for pair in listening(n, 3000).split("&")]
    update = blade.updated(blade.restored("").settings, [(name, value) for name, value in pairs], Role.ADMIN)
    assert len(update.changed) == 3
    assert len(update.refused) == 63 * 3


def test_a_conflict_that_was_there_before_is_not_blamed_on_a_request_without_part_in_it() -> None:
    broken = updated(f"{listening(0, 3000)}&{listening(1, 3001)}").settings
    managers = (broken.port_managers[0], broken.port_managers[0], broken.port_managers[2])
    base = type(broken)(serial=broken.serial, port_managers=managers, remote_ports=broken.remote_ports)
    update = updated("Serial.Ser1.StopBits=2", base)
    assert (update.changed, update.refused) == (("Serial.Ser1.StopBits",), ())


# The stored file


def test_a_file_holds_sorted_lines_of_what_differs_from_its_default() -> None:
    settings = updated(f"Serial.Ser1.BaudRate=19200&{KEY}=k=1&PortManager.P0.PortEnabled=no").settings
    assert CATALOGUE.stored(settings) == (
        "root.PortManager.P0.PortEnabled=no\nroot.RemotePort.R0.AuthenticationKey=k=1\nroot.Serial.Ser1.BaudRate=19200\n"
    )
    assert CATALOGUE.stored(DEFAULTS) == ""


def test_what_a_file_does_not_name_has_its_default() -> None:
    assert CATALOGUE.restored("").settings is DEFAULTS
    restored = CATALOGUE.restored("root.Serial.Ser1.BaudRate=19200\n")
    assert restored.settings == updated("Serial.Ser1.BaudRate=19200").settings
    assert restored.errors == ()


def test_a_hand_edited_file_is_read_and_each_bad_line_is_named() -> None:
    written = (
        "# my settings\n"
        "\n"
        "Serial.Ser1.BaudRate=19200\r\n"  # an editor of another system, and no root.
        "root.Serial.Ser1.DataBits\n"
        "root.Serial.Ser1.StopBits=3\n"
        "root.Serial.NbrOfPorts=9\n"
        "root.Ser\x1bial.X=1\n"
        f"root.{KEY}=hunter2\x00\n"
        "  root.Serial.Ser2.Parity =Even\n"
        "root.Serial.Ser2.Parity=Odd\n"
        "root.Serial.Ser2.FlowControlRTSCTS=yes\u2028root.Serial.Ser2.StopBits=2\n"
        "root.PortManager.P0.PortEnabled=no"  # no line feed at the end
    )
    restored = CATALOGUE.restored(written)
    expected = "Serial.Ser1.BaudRate=19200&Serial.Ser2.Parity=Odd&PortManager.P0.PortEnabled=no"
    assert restored.settings == updated(expected).settings
    assert restored.errors == (
        (4, "must have the form root.NAME=VALUE"),
        (5, "Serial.Ser1.StopBits: must be one of 1, 2"),
        (6, "Serial.NbrOfPorts: read-only"),
        (7, r"Ser\x1bial.X: no such parameter on this product"),
        (8, f"{KEY}: must not contain control characters or bytes that are not text"),
        (9, "duplicate of line 10, which is used"),
        (
            11,
            "Serial.Ser2.FlowControlRTSCTS: must not contain control characters or bytes that are not text",
        ),
    )


def test_a_hand_edited_file_is_under_the_same_rules_as_an_update() -> None:
    restored = CATALOGUE.restored(listening(0, 3000).replace("&", "\n") + "\n" + listening(1, 3000).replace("&", "\n"))
    assert [number for number, _ in restored.errors] == [4, 5, 6]
    assert restored.settings == updated(listening(0, 3000)).settings


# What holds for everything that can be asked

ACTIVE = [
    f"PortManager.P{manager}.{service}.{name}"
    for manager in range(3)
    for service in ("GenericTCPServer", "RemotePortServer")
    for name in ("Enabled", "Listener.Enabled", "Listener.Port")
]
LINE = [f"Serial.Ser1.{name}" for name in ("PortMode", "BaudRate", "FlowControlXONXOFF", "FlowControlRTSCTS")]
NAMES = st.sampled_from(ACTIVE + LINE) | st.sampled_from(sorted(CATALOGUE.parameters)) | st.text(max_size=20)
WORDS = [
    "yes",
    "no",
    "3000",
    "3001",
    "1024",
    "RS232",
    "RS485",
    "RS485_4",
    "RS422",
    "9600",
    "230400",
    "460800",
    "-1",
    "1.2.3.4",
    "cam.example",
    "Even",
]
VALUES = st.sampled_from(WORDS) | st.text(max_size=20)
ASSIGNMENTS = st.lists(st.tuples(NAMES | NAMES.map("root.{}".format), VALUES), max_size=40)


@given(st.lists(st.tuples(ASSIGNMENTS, st.sampled_from([Role.VIEWER, Role.OPERATOR, Role.ADMIN])), max_size=4))
@example([([(name, "yes" if "Enabled" in name else "3000") for name in ACTIVE], Role.ADMIN)])
def test_any_update_leaves_a_whole_state(requests: list[tuple[list[tuple[str, str]], Role]]) -> None:
    settings = DEFAULTS
    for assignments, role in requests:
        update = CATALOGUE.updated(settings, assignments, role)
        assert_told(settings, assignments, update)
        settings = update.settings
        assert list(conflicts(settings)) == []
        assert (settings is DEFAULTS) or role is Role.ADMIN or not update.changed
    assert CATALOGUE.restored(CATALOGUE.stored(settings)) == CATALOGUE.restored("\n".join(lines_of(settings)))
    assert CATALOGUE.restored(CATALOGUE.stored(settings)).settings == settings


def lines_of(settings: Settings) -> Sequence[str]:
    """Every writable parameter as a line, whether it has its default or not."""
    writable = [name for name, parameter in CATALOGUE.parameters.items() if parameter.write is Role.ADMIN]
    return [f"{name}={CATALOGUE.text(settings, name)}" for name in writable]


def assert_told(before: Settings, assignments: list[tuple[str, str]], update: Update) -> None:
    """What changed is exactly what is told, and whatever was asked is either so now or refused."""
    differing = {n for n in CATALOGUE.parameters if CATALOGUE.text(before, n) != CATALOGUE.text(update.settings, n)}
    assert set(update.changed) == differing
    assert len(set(update.changed)) == len(update.changed)
    last = {name.removeprefix("root."): text for name, text in assignments}
    for name in last.keys() - {error.name for error in update.refused}:
        assert CATALOGUE.text(update.settings, name) == last[name]
    assert len(update.refused) <= len(assignments)


@given(st.text() | st.lists(st.tuples(NAMES, VALUES).map("=".join)).map("\n".join))
@example("=\n==\n\x00=\n#\nroot.=\n")
def test_any_file_gives_a_whole_state_and_errors_of_one_line(text: str) -> None:
    restored = CATALOGUE.restored(text)
    assert list(conflicts(restored.settings)) == []
    assert [number for number, _ in restored.errors] == sorted({number for number, _ in restored.errors})
    assert all(1 <= number <= text.count("\n") + 1 and why.isprintable() for number, why in restored.errors)
    assert CATALOGUE.restored(CATALOGUE.stored(restored.settings)).errors == ()


# Callers who are bound to ports


def bound(query: str, *ports: int) -> Update:
    assignments = [(name, value) for name, _, value in (pair.partition("=") for pair in query.split("&"))]
    return CATALOGUE.updated(DEFAULTS, assignments, Role.ADMIN, frozenset(ports))


def test_parameters_of_other_ports_are_absent_for_a_caller_who_is_bound() -> None:
    listed = CATALOGUE.listed(DEFAULTS, (), Role.ADMIN, frozenset({1}))
    assert "root.PortManager.P1.PortEnabled=" in listed
    assert "root.Serial.Ser2.BaudRate=" in listed
    for absent in ("PortManager.P0.", "PortManager.P2.", "Serial.Ser1.", "RemotePort.R0."):
        assert absent not in listed
    assert "root.Brand.Brand=" in listed
    assert "root.Network.HTTP.AuthenticationPolicy=" in listed
    groups = ("Serial.Ser1.BaudRate", "PortManager.P0", "PortManager.*.PortType")
    asked = CATALOGUE.listed(DEFAULTS, groups, Role.ADMIN, frozenset({1}))
    assert asked.splitlines() == [
        "# Error: Error -1 getting param in group 'Serial.Ser1.BaudRate'",
        "# Error: Error -1 getting param in group 'PortManager.P0'",
        "root.PortManager.P1.PortType=Serial",
    ]
    defined = CATALOGUE.defined(DEFAULTS, ("Serial",), Role.ADMIN, "cam", frozenset({1}))
    assert '<group name="Ser2">' in defined
    assert '<group name="Ser1">' not in defined


def test_a_caller_who_is_bound_sets_what_is_its_ports_own_and_nothing_else() -> None:
    update = bound(
        "Serial.Ser2.BaudRate=19200&Serial.Ser1.BaudRate=19200&PTZ.CamPorts.Cam1Port=2"
        "&Network.HTTP.AuthenticationPolicy=basic&PortManager.P1.PortEnabled=no&RemotePort.R0.AuthenticationKey=stolen",
        1,
    )
    assert update.changed == ("Serial.Ser2.BaudRate", "PortManager.P1.PortEnabled")
    assert [(error.name, error.why) for error in update.refused] == [
        ("Serial.Ser1.BaudRate", "no such parameter on this product"),
        ("PTZ.CamPorts.Cam1Port", "does not belong to the ports that this user is bound to, or not alone"),
        ("Network.HTTP.AuthenticationPolicy", "does not belong to the ports that this user is bound to, or not alone"),
        ("RemotePort.R0.AuthenticationKey", "no such parameter on this product"),
    ]


def test_a_line_that_two_ports_share_is_read_by_either_and_set_by_who_has_both() -> None:
    assert "Serial.Ser1.BaudRate=9600" in CATALOGUE.listed(
        DEFAULTS, ("Serial.Ser1.BaudRate",), Role.ADMIN, frozenset({2})
    )
    assert names(bound("Serial.Ser1.BaudRate=19200", 2)) == ["Serial.Ser1.BaudRate"]
    assert bound("Serial.Ser1.BaudRate=19200", 0, 2).changed == ("Serial.Ser1.BaudRate",)


def test_a_caller_who_is_bound_to_a_port_that_is_gone_sees_none() -> None:
    listed = CATALOGUE.listed(DEFAULTS, (), Role.ADMIN, frozenset({9}))
    assert "PortManager.P" not in listed
    assert "Brand.Brand" in listed
    assert names(bound("PortManager.P0.PortEnabled=no", 9)) == ["PortManager.P0.PortEnabled"]
