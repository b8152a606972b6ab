"""Configurations of ser2net: what they come to, and what is named because there is no word for it here."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.main import main
from gateway.host.config import TlsConfig
from gateway.host.config_file import parse
from gateway.host.ser2net import Carried, Ser2netError, carried
from protocol.parameters.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

BASIC = """\
%YAML 1.1
---
define: &banner \\r\\nport \\p\\r\\n
connection: &first
    accepter: tcp,localhost,2000
    enable: on
    options:
      banner: *banner
      kickolduser: false
    connector: serialdev,
              /dev/ttyS0,
              9600n81,local
connection: &second
    accepter: tcp,localhost,2001
    connector: serialdev,/dev/ttyS1,19200e72,local,RTSCTS
connection: &faster
    accepter: tcp,3000
    connector: serialdev,/dev/ttyS0,19200n81,local
"""


def ours(found: Carried) -> dict[str, str]:
    """The parameters, which our own readers have taken without an error."""
    hardware = parse("\n".join(found.configuration).encode()).hardware
    text = "\n".join(found.parameters)
    assert Catalogue(hardware).restored(text).errors == ()
    return dict(line.removeprefix("root.").split("=", 1) for line in text.splitlines())


def test_each_device_is_a_line_with_its_settings_and_its_port() -> None:
    found = carried(BASIC)
    told = ours(found)
    assert [line.device for line in found.lines] == ["/dev/ttyS0", "/dev/ttyS1"]
    assert told["Serial.Ser1.BaudRate"] == "9600"
    assert (told["Serial.Ser2.BaudRate"], told["Serial.Ser2.Parity"]) == ("19200", "Even")
    assert (told["Serial.Ser2.DataBits"], told["Serial.Ser2.StopBits"]) == ("7", "2")
    assert (told["Serial.Ser1.FlowControlRTSCTS"], told["Serial.Ser2.FlowControlRTSCTS"]) == ("no", "yes")
    assert told["PortManager.P0.GenericTCPServer.Listener.Port"] == "2000"
    assert told["PortManager.P1.GenericTCPServer.Listener.Enabled"] == "yes"
    assert found.left == [
        "first: the option banner",
        "faster: /dev/ttyS0 has a listener already (2000); a port has one, at one rate",
    ]


def test_localhost_stays_localhost_and_no_listener_opens_to_more_than_before() -> None:
    found = carried(BASIC)
    assert parse("\n".join(found.configuration).encode()).tcp.bind == ("127.0.0.1",)
    more = "connection: &open\n  accepter: tcp,4000\n  connector: serialdev,/dev/ttyS2,local\n"
    mixed = carried(BASIC.replace("tcp,localhost,2001", "tcp,10.0.0.9,2001") + more)
    told = ours(mixed)
    assert parse("\n".join(mixed.configuration).encode()).tcp.bind == ("0.0.0.0", "::")
    assert told["PortManager.P0.GenericTCPServer.AllowedIPAddresses"] == "127.0.0.1"
    assert told["PortManager.P1.GenericTCPServer.Listener.Enabled"] == "no"
    assert "second: the address 10.0.0.9: [tcp] bind is for all ports; the listener is left closed" in mixed.left
    assert "PortManager.P2.GenericTCPServer.AllowedIPAddresses" not in told


OTHERS = """\
define: &base "/dev/serial/by-path/pci-0"
define: &usb "*(base)-usb-1"
default:
  name: speed
  value: 115200n81
default:
  name: local
  value: true
  class: serialdev
default:
  name: banner
  value: hello
include: /etc/more/*.yaml
admin:
  accepter: tcp,2999
led: &led1
  driver: sysfs
connection: &telnet
  accepter: telnet(rfc2217),tcp,2002
  enable: off
  timeout: 30
  connector: serialdev,*(usb)-port0
  trace-both: /tmp/trace
connection: &odd
  accepter: tcp,2003
  connector: serialdev,*(usb)-port1,921600m52,-local hangup-when-done
connection: &sctp
  accepter: telnet,ssl(key=a,cert=b),sctp,2004
  connector: serialdev,/dev/ttyS3,rtscts=off,xonxoff=on,speed=fast
connection: &echo
  accepter: tcp,2005
  connector: echo
connection: &none
  accepter: tcp,2007
  connector: serialdev
connection: &bell
  accepter: tcp,2008
  connector: "serialdev,/dev/\\x07,9600"
connection:
  accepter: tcp,2006
  connector: serialdev,/dev/ttyS4,512e61
  timeout: soon
rotator: &rot
  accepter: tcp,2020
  connections: [*telnet, *odd]
"""


def test_words_defaults_and_disabled_connections_are_carried_and_all_else_is_named() -> None:
    found = carried(OTHERS)
    told = ours(found)
    base = "/dev/serial/by-path/pci-0-usb-1"
    assert [line.device for line in found.lines] == [f"{base}-port0", f"{base}-port1", "/dev/ttyS3", "/dev/ttyS4"]
    assert told["Serial.Ser1.BaudRate"] == "115200"
    assert told["PortManager.P0.GenericTCPServer.Listener.Enabled"] == "no"
    assert told["PortManager.P0.GenericTCPServer.Timeout"] == "30"
    assert (told["Serial.Ser2.BaudRate"], told["Serial.Ser2.Parity"]) == ("921600", "None")
    assert (told["Serial.Ser2.DataBits"], told["Serial.Ser4.BaudRate"]) == ("5", "512")
    assert (found.lines[1].rates, found.lines[1].data_bits) == ([921600], [5])
    assert told["PortManager.P2.GenericTCPServer.Listener.Enabled"] == "no"  # or it would open on a port of its own
    assert "Serial.Ser3.BaudRate" not in told
    assert told["PortManager.P3.GenericTCPServer.Timeout"] == "0"
    assert found.left == [
        "default banner: there is nothing like it here",
        "include /etc/more/*.yaml: there is nothing like it here",
        "admin: there is nothing like it here",
        "led led1: there is nothing like it here",
        "telnet: telnet(rfc2217): it is disabled, so nothing is listened on by telnet",
        "telnet: trace-both",
        "odd: the line's option hangup-when-done",
        "odd: modem control (no `local`): the line is used whatever DCD says",
        "odd: the parity mark",
        "sctp: the speed fast",
        "sctp: ssl(key=a,cert=b): clients of this port find raw bytes over TCP",
        "sctp: the accepter telnet,ssl(key=a,cert=b),sctp,2004: only TCP can be listened on",
        "echo: the connector echo is no serial device",
        "none: '' is no device",
        "bell: '/dev/\\x07' is no device",
        "a connection without a name: the timeout soon: 0 to 3600 seconds are one",
        "rotator rot: there is nothing like it here",
    ]


def test_telnet_stays_telnet_and_rfc_2217_may_set_the_line_as_before() -> None:
    telnet = "connection: &{0}\n  accepter: {1}\n  connector: serialdev,/dev/tty{0},local\n"
    found = carried(
        telnet.format("a", "telnet(rfc2217),tcp,localhost,2001")
        + telnet.format("b", "tcp,2002")
        + telnet.format("c", "telnet,tcp,2003")
    )
    config = parse("\n".join(found.configuration).encode())
    services = [config.port(index).rfc2217 for index in range(3)]
    assert [service.listen for service in services] == [
        (("127.0.0.1", 2001),),
        (),
        (("0.0.0.0", 2003), ("::", 2003)),
    ]
    assert [service.configure for service in services] == [True, False, False]
    told = ours(found)
    assert told["PortManager.P0.GenericTCPServer.Listener.Enabled"] == "no"
    assert told["PortManager.P1.GenericTCPServer.Listener.Enabled"] == "yes"
    assert found.left == []


def test_tls_stays_tls_where_clients_had_to_prove_who_they_are() -> None:
    connection = "connection: &{0}\n  accepter: {1}\n  connector: serialdev,/dev/tty{0},local\n{2}"
    ours_is = "key=/etc/k.pem,cert=/etc/c.pem"
    found = carried(
        connection.format("a", f"'ssl({ours_is},CA=/etc/ca.pem,clientauth),tcp,localhost,2001'", "")
        + connection.format("b", f"'ssl({ours_is},CA=/etc/cb.pem,clientauth=true),tcp,2002'", "")
        + connection.format("c", f"'ssl({ours_is}),tcp,2003'", "")
        + connection.format("d", "'ssl(key=/etc/d.pem,CA=/etc/ca.pem,clientauth),tcp,::1,2004'", "")
        + connection.format("e", f"'ssl({ours_is},CA=/etc/ssl/,clientauth),tcp,2005'", "")
        + connection.format("f", f"'ssl({ours_is},CA=/etc/ca.pem,clientauth),tcp,2006'", "  enable: off\n")
    )
    config = parse("\n".join(found.configuration).encode())
    assert (config.http.tls_certificate, config.http.tls_key) == (Path("/etc/c.pem"), Path("/etc/k.pem"))
    assert [config.port(index).tls for index in range(6)] == [
        TlsConfig((("127.0.0.1", 2001),), Path("/etc/ca.pem")),
        TlsConfig((("0.0.0.0", 2002), ("::", 2002)), Path("/etc/cb.pem")),
        TlsConfig(),
        TlsConfig((("::1", 2004),), Path("/etc/ca.pem")),
        TlsConfig(),
        TlsConfig(),
    ]
    told = ours(found)
    opened = [told[f"PortManager.P{index}.GenericTCPServer.Listener.Enabled"] for index in range(6)]
    assert opened == ["no", "no", "yes", "no", "no", "no"]
    user = "ssl: the common name (CN) of each client's certificate has to be a user's here"
    assert found.left == [
        f"a: {user}",
        f"b: {user}",
        f"c: ssl({ours_is}): clients of this port find raw bytes over TCP",
        f"d: {user}",
        "d: ssl: its certificate /etc/d.pem: [http] tls_certificate is for all ports",
        "e: ssl: CA=/etc/ssl/: client_ca is the absolute path of one file; nothing is opened",
        "f: ssl: it is disabled",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is no configuration of ser2net 4: it has no `connection:`"),
        ("2000:raw:0:/dev/ttyS0:9600", "it is no configuration of ser2net 4"),
        ("- a", "it is no configuration of ser2net 4"),
        ("a: b: c", "line 1: not YAML: mapping values are not allowed here"),
        ("a:\n\t- b", "line 2: not YAML"),
        ("connection: " + "[" * 5, "not YAML"),
        ("connection: " + "[" * 30 + "]" * 30, "it is nested too deep"),
        ("connection: " + "[" * (1 << 19), "it is nested too deep"),
        ("a: b\n---\nconnection: c", "line 3: a second document begins; make one of them"),
        ("connection:\n  accepter: " + "x," * 3000, "'x,x,x,x,x,x,x,x,x,x,'... comes to more than 4096 characters"),
        (
            "define: &a0 " + "x" * 10 + "".join(f'\ndefine: &a{n} "*(a{n - 1})*(a{n - 1})"' for n in range(1, 40)),
            "comes to more than 4096 characters",
        ),
        ("x" * ((1 << 20) + 1), "larger than 1 MiB"),
    ],
    ids=lambda value: value[:20],
)
def test_what_cannot_be_read_is_told(text: str, why: str) -> None:
    with pytest.raises(Ser2netError) as caught:
        carried(text)
    assert why in str(caught.value)


@given(st.text(max_size=200) | st.lists(st.sampled_from(OTHERS.splitlines()), max_size=20).map("\n".join))
def test_any_text_is_carried_or_an_error(text: str) -> None:
    with contextlib.suppress(Ser2netError):
        parse("\n".join(carried(text).configuration).encode())


def test_what_our_own_readers_would_refuse_is_named_and_left_out() -> None:
    one = "connection: &{}\n  accepter: {}\n  connector: {}\n  timeout: 86400\n"
    found = carried(
        one.format("a", "tcp,99999", "serialdev,/dev/a,0n81,local")
        + one.format("b", "tcp,23", "serialdev,/dev/b,99999999n81,local")
        + one.format("c", '"telnet,tcp,plc.example\\n,3000"', "serialdev,/dev/c," + "9" * 2000 + ",local")
        + one.format("d", '"ssl(CA=/a\\nb,clientauth),tcp,٣٠٠٠"', '"serialdev,/dev/d,local,\\ud800\\n[control]"')
        + one.format("e", '"ssl(CA=/a\\nb,clientauth),tcp,3000"', "serialdev,/dev/e,local")
    )
    told = ours(found)
    assert [told[f"PortManager.P{index}.GenericTCPServer.Listener.Enabled"] for index in range(5)] == ["no"] * 5
    assert {told[f"PortManager.P{index}.GenericTCPServer.Timeout"] for index in range(5)} == {"0"}
    assert [left for left in found.left if "timeout" not in left] == [
        "a: the speed 0n81",
        "a: the accepter tcp,99999: only TCP can be listened on",
        "b: the speed 99999999n81",
        "b: the port 23: a listener has one of 1024 to 65535",
        f"c: the line's option {'9' * 2000}",
        "c: the address plc.example: only an IP address can be listened on; nothing is opened",
        "d: the line's option ?",
        "d: the line's option [control]",
        "d: the accepter ssl(CA=/a?b,clientauth),tcp,٣٠٠٠: only TCP can be listened on",
        "e: ssl: CA=/a?b: client_ca is the absolute path of one file; nothing is opened",
    ]
    assert "a: the timeout 86400: 0 to 3600 seconds are one" in found.left


def test_what_is_not_carried_over_is_one_line_of_comment() -> None:
    found = carried('connection: &a\n  accepter: x\n  connector: "a\\n[control]\\nadmins = \\e[2J\\ud800,b"\n')
    assert found.left == ["a: the connector a?[control]?admins = ?[2J? is no serial device"]


WORDS = st.sampled_from(
    [
        "tcp",
        "telnet(rfc2217)",
        "ssl(CA=/a,clientauth)",
        "3000",
        "0",
        "65536",
        "::",
        "fe80::1%e\n",
        "x\0",
        "local",
        "9600n81",
    ]
)
PIECES = st.lists(WORDS | st.text(max_size=8), max_size=4).map(",".join)


@given(st.lists(st.tuples(PIECES, PIECES), min_size=1, max_size=3))
def test_whatever_stands_in_a_connection_our_own_readers_take_what_it_comes_to(made: list[tuple[str, str]]) -> None:
    text = "".join(
        f"connection: &c{index}\n  accepter: {json.dumps(accepter)}\n"
        f"  connector: {json.dumps(f'serialdev,/dev/t{index},{rest}')}\n"
        for index, (accepter, rest) in enumerate(made)
    )
    with contextlib.suppress(Ser2netError):
        found = carried(text)
        assert all(line.isprintable() for line in found.left)
        parse("\n".join(found.configuration).encode())
        # Two lines with one port are an error of whoever wrote it, which our own reader names.
        if len(made) == 1:
            ours(found)


def test_all_of_debian_s_examples_is_carried_or_named() -> None:
    # Where they are installed; the second is commented out, and its comments are twice.
    examples: dict[Path, Callable[[str], str]] = {
        Path("/etc/ser2net.yaml"): lambda text: text,
        Path("/usr/share/doc/ser2net/examples/ser2net.yaml"): lambda text: "\n".join(
            re.findall(r"(?m)^# (?!#)(.*)$", text.partition("confver")[2])
        ),
    }
    for path, read in examples.items():
        if path.exists():
            text = read(path.read_text())
            found = carried(text)
            ours(found)
            named = set(re.findall(r"(?m)^connection: &(\S+)", text))
            assert len(named) == len(re.findall("(?m)^connection:", text))
            assert found.lines
            told = " ".join(found.left)
            assert len(found.lines) + sum(f"{name}: " in told for name in named) >= len(named)


def test_the_command_prints_a_file_that_is_read_and_parameters(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ser2net.yaml"
    file.write_text(BASIC)
    assert main(["import-ser2net", str(file)]) == 0
    shown = capfd.readouterr().out
    assert len(parse(shown.encode()).serial) == 2
    assert "#   root.Serial.Ser1.BaudRate=9600" in shown
    assert "# not carried over: first: the option banner" in shown
    assert main(["import-ser2net", str(file), "--parameters"]) == 0
    assert capfd.readouterr().out.splitlines() == list(carried(BASIC).parameters)
    assert main(["import-ser2net", str(tmp_path / "none")]) == 1
    file.write_text("- a")
    assert main(["import-ser2net", str(file)]) == 1
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["import-ser2net", str(file)]) == 1
    assert "PyYAML is not installed: pip install 'daisyport[ser2net]'" in capfd.readouterr().err
