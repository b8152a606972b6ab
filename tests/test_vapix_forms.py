"""Every response form that VAPIX clients rely on, over raw sockets and to the byte, from a live daemon."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.host.config import HttpConfig, SerialConfig
from gateway.web import routes
from protocol.http.credentials import Algorithm
from protocol.parameters.hardware import ManagerHardware, PortMode, SerialHardware
from tests.helpers import PASSWORD, free_port, running_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.helpers import Gateway

PARAM = "/axis-cgi/param.cgi"
SERIAL = "/axis-cgi/com/serial.cgi"
DISCOVERY = "/axis-cgi/apidiscovery.cgi"
UPDATE = f"{PARAM}?action=update"
LIST = f"{PARAM}?action=list&group="
P0 = "PortManager.P0"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for found, value in self.headers if found.lower() == name]

    @property
    def kind(self) -> str:
        return "".join(self.all("content-type"))

    @property
    def text(self) -> str:
        return self.body.decode()


async def exchange(gateway: Gateway, raw: bytes) -> Answer:
    """What comes back for these bytes, until the gateway closes."""
    async with await trio.open_tcp_stream("127.0.0.1", gateway.http_port) as stream:
        await stream.send_all(raw)
        received = b"".join([bytes(piece) async for piece in stream])
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Answer(int(status.split(" ")[1]), headers, body)


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()


async def ask(
    gateway: Gateway,
    target: str,
    user: str = "admin",
    body: bytes | None = None,
    label: str = "application/x-www-form-urlencoded",
    authorization: str | None = None,
) -> Answer:
    """A GET, or with a body a POST, in HTTP/1.1; ``user`` "" logs nobody in."""
    lines = [f"{'GET' if body is None else 'POST'} {target} HTTP/1.1", "Host: cam:8080", "Connection: close"]
    if authorization or user:
        lines.append(f"Authorization: {authorization or basic(user)}")
    if body is not None:
        lines += [f"Content-Type: {label}", f"Content-Length: {len(body)}"]
    return await exchange(gateway, "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))


@contextlib.asynccontextmanager
async def blade_cpu(
    directory: Path, policy: str = "basic_digest", parameters: str = "", http: HttpConfig | None = None
) -> AsyncIterator[Gateway]:
    """A blade's CPU: two lines, the first of which can do RS-485 too, four video sources, serial.cgi on."""
    state = directory / "state"
    state.mkdir()
    (state / "parameters").write_text(
        f"root.Network.HTTP.AuthenticationPolicy={policy}\nroot.{P0}.SerialCGI.Enabled=yes\n{parameters}"
    )
    modes = SerialHardware((PortMode.RS232, PortMode.RS485))
    with trio.fail_after(20):
        more: dict[str, object] = {
            "serial": (SerialConfig(str(directory / "tty1"), modes), SerialConfig(str(directory / "tty2"))),
            "managers": (ManagerHardware(1, 0), ManagerHardware(2, 1)),
            "video_sources": 4,
        }
        if http is not None:
            more["http"] = http
        async with running_gateway(directory, 2, **more) as found:
            if http is not None:
                found.http_port = http.listen[0][1]
            yield found


# --- param.cgi: one request, one answer ------------------------------------------------------------------------

KEY = f"{P0}.RemotePortServer.AuthenticationKey"
SET_KEY = f"{UPDATE}&{KEY}=a%3Db%26c"
UNKNOWN = "# Error: Error -1 getting param in group '{}'\n"
WRONG = "# Error: Error setting 'root.{}' to '{}'!"
BAUD = "Serial.Ser1.BaudRate"

PARAM_FORMS = {
    # list
    "a group answers full names with root.": (
        f"{LIST}PTZ.CamPorts",
        "".join(f"root.PTZ.CamPorts.Cam{n}Port={1 if n == 1 else -1}\n" for n in range(1, 5)),
    ),
    "a single parameter echoes the name as typed": (f"{LIST}{BAUD}", f"{BAUD}=9600\n"),
    "a single parameter typed with root. has root.": (f"{LIST}root.{BAUD}", f"root.{BAUD}=9600\n"),
    "both kinds mix in the order asked": (
        f"{LIST}{BAUD},PTZ.ImageSource,root.Serial.Ser1.DataBits",
        f"{BAUD}=9600\nroot.PTZ.ImageSource.I0.PTZEnabled=yes\nroot.Serial.Ser1.DataBits=8\n",
    ),
    "a wildcard answers with root.": (
        f"{LIST}PortManager.*.PortType",
        "root.PortManager.P0.PortType=Serial\nroot.PortManager.P1.PortType=Serial\n",
    ),
    "parameters come before sub-groups, both sorted": (
        f"{LIST}PTZ",
        (
            "root.PTZ.CameraDefault=1\nroot.PTZ.NbrOfSerPorts=2\n"
            "root.PTZ.CamPorts.Cam1Port=1\nroot.PTZ.CamPorts.Cam2Port=-1\nroot.PTZ.CamPorts.Cam3Port=-1\n"
            "root.PTZ.CamPorts.Cam4Port=-1\nroot.PTZ.ImageSource.I0.PTZEnabled=yes\n"
        ),
    ),
    "names are case-sensitive": (f"{LIST}serial.ser1.baudrate", UNKNOWN.format("serial.ser1.baudrate")),
    "an unknown name is answered in place, as typed, and the others still": (
        f"{LIST}root.Does.Not.Exist,{BAUD}",
        UNKNOWN.format("root.Does.Not.Exist") + f"{BAUD}=9600\n",
    ),
    "an empty value ends with the equals sign": (
        f"{LIST}root.{P0}.GenericTCPServer.AllowedIPAddresses",
        f"root.{P0}.GenericTCPServer.AllowedIPAddresses=\n",
    ),
    "action may come last": (f"{PARAM}?group={BAUD}&action=list", f"{BAUD}=9600\n"),
    "junk arguments of a list are ignored": (
        f"{PARAM}?timestamp=17&action=list&camera=1&group={BAUD}&responseformat=rfc&usergroup=admin",
        f"{BAUD}=9600\n",
    ),
    "values are decoded once": (f"{LIST}Serial%2ESer1%252EBaudRate", UNKNOWN.format("Serial.Ser1%2EBaudRate")),
    # update
    "success is OK without a newline": (f"{UPDATE}&{BAUD}=19200", "OK"),
    "a refused parameter is named with root.": (f"{UPDATE}&{BAUD}=12345", WRONG.format(BAUD, "12345")),
    "a refused parameter typed with root. has it once": (f"{UPDATE}&root.{BAUD}=1", WRONG.format(BAUD, "1")),
    "several refused are joined by newlines, without OK": (
        f"{UPDATE}&{BAUD}=1&Serial.Ser1.StopBits=2&Serial.Ser1.DataBits=3",
        WRONG.format(BAUD, "1") + "\n" + WRONG.format("Serial.Ser1.DataBits", "3"),
    ),
    "a bare second name belongs to the group before it": (f"{UPDATE}&{BAUD}=9600&StopBits=2", "OK"),
    "a control character is refused": (f"{UPDATE}&{KEY}=a%0Ab", WRONG.format(KEY, "******")),
    "a rate that requires RS485 is refused on RS232": (f"{UPDATE}&{BAUD}=230400", WRONG.format(BAUD, "230400")),
    "an address list may hold blanks, ranges, wildcards, IPv6 and CIDR": (
        f"{UPDATE}&{P0}.GenericTCPServer.AllowedIPAddresses=1.2.3.4,+2.3.4.5-9,%203.4.5.*,fe80::1,10.0.0.0/8",
        "OK",
    ),
    # add, remove, and what is none of them
    "add is refused in the documented form": (
        f"{PARAM}?action=add&group=Serial&template=x",
        "# Request failed: add: the groups of this product are fixed, none can be added or removed\n",
    ),
    "remove is refused in the documented form": (
        f"{PARAM}?action=remove&group=Serial.Ser1",
        "# Request failed: remove: the groups of this product are fixed, none can be added or removed\n",
    ),
    # defaults
    "a line has its product dependent defaults": (
        f"{LIST}Serial.Ser2",
        (
            "root.Serial.Ser2.BaudRate=9600\nroot.Serial.Ser2.DataBits=8\nroot.Serial.Ser2.FlowControlRTSCTS=no\n"
            "root.Serial.Ser2.FlowControlXONXOFF=no\nroot.Serial.Ser2.Parity=None\nroot.Serial.Ser2.PortMode=RS232\n"
            "root.Serial.Ser2.StopBits=1\n"
        ),
    ),
    "listeners and ConnectTo default to 1024 and the port's number": (
        f"{LIST}{P0}.*.Listener.Port,PortManager.P1.*.Listener.Port,PortManager.P1.GenericTCPServer.ConnectTo.Port",
        (
            f"root.{P0}.GenericTCPServer.Listener.Port=1024\nroot.{P0}.RemotePortServer.Listener.Port=1024\n"
            "root.PortManager.P1.GenericTCPServer.Listener.Port=1025\nroot.PortManager.P1.RemotePortServer.Listener.Port=1025\n"
            "PortManager.P1.GenericTCPServer.ConnectTo.Port=1025\n"
        ),
    ),
    "a remote port finds its server by itself unless told": (
        f"{LIST}RemotePort.R0",
        (
            "root.RemotePort.R0.AuthenticationKey=\nroot.RemotePort.R0.AutoConf=yes\nroot.RemotePort.R0.Host=\n"
            "root.RemotePort.R0.Port=5555\n"
        ),
    ),
    "the API says that it is version 3 and has a serial port": (
        f"{LIST}Properties.API.HTTP.Version,Properties.Serial.Serial",
        "Properties.API.HTTP.Version=3\nProperties.Serial.Serial=yes\n",
    ),
}


@pytest.mark.parametrize("form", PARAM_FORMS)
async def test_param_cgi(tmp_path: Path, form: str) -> None:
    target, expected = PARAM_FORMS[form]
    async with blade_cpu(tmp_path) as found:
        answer = await ask(found, target)
        assert (answer.status, answer.kind, answer.text) == (200, "text/plain; charset=utf-8", expected)


async def test_the_second_of_two_listeners_on_one_port_is_refused_with_its_line(tmp_path: Path) -> None:
    port = free_port()
    async with blade_cpu(tmp_path) as found:
        server = f"{UPDATE}&{P0}.GenericTCPServer.Enabled=yes&{P0}.GenericTCPServer.Listener.Port={port}"
        assert (await ask(found, f"{server}&Enabled=yes")).text == "OK"
        remote = f"{UPDATE}&{P0}.RemotePortServer.Enabled=yes&{P0}.RemotePortServer.Listener.Port={port}"
        assert (await ask(found, remote)).text == "OK"
        name = f"{P0}.RemotePortServer.Listener.Enabled"
        assert (await ask(found, f"{UPDATE}&{name}=yes")).text == WRONG.format(name, "yes")


async def test_rules_across_parameters_are_judged_on_the_state_after_the_whole_request(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    async with blade_cpu(tmp_path) as found:
        listener = "&PortManager.P{0}.GenericTCPServer.Enabled=yes&PortManager.P{0}.GenericTCPServer.Listener.Port={1}"
        query = listener.format(0, first) + "&Enabled=yes" + listener.format(1, first) + "&Enabled=yes"
        moved = f"&PortManager.P1.GenericTCPServer.Listener.Port={second}"
        assert (await ask(found, UPDATE + query + moved)).text == "OK"


async def test_values_are_listed_raw_and_keys_only_to_whoever_carries_them(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found:
        operator = f"{LIST}RemotePort.R0.AuthenticationKey,{KEY}"
        assert (await ask(found, SET_KEY)).text == "OK"
        assert (await ask(found, LIST + KEY)).text == f"{KEY}=a=b&c\n"
        assert (await ask(found, operator, "operator")).text == f"RemotePort.R0.AuthenticationKey=\n{KEY}=******\n"


async def test_what_may_not_be_read_is_left_out_of_groups_and_unknown_by_name(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found:
        assert (await ask(found, f"{LIST}Serial", "viewer")).text == "root.Serial.NbrOfPorts=2\n"
        assert (await ask(found, LIST + BAUD, "viewer")).text == UNKNOWN.format(BAUD)


async def test_no_group_is_everything_and_each_line_ends(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found:
        everything = (await ask(found, f"{PARAM}?action=list")).text
        assert everything.endswith("\n")
        assert all(re.fullmatch(r"root\.[\w.]+=.*", line) for line in everything.splitlines())
        for name in (
            *("Brand", "ProdFullName", "ProdNbr", "ProdShortName", "ProdType", "ProdVariant", "WebURL"),
            *("Metadata.Metadata", "Metadata.Version", "BuildDate", "BuildNumber", "Firmware.Version"),
            *("SerialNumber", "CameraDefault", "NbrOfSerPorts", "I0.PTZEnabled"),
        ):
            assert f".{name}=" in everything


async def test_good_values_are_applied_beside_bad_ones(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found:
        assert (await ask(found, f"{UPDATE}&{BAUD}=1&StopBits=2")).text == WRONG.format(BAUD, "1")
        assert (await ask(found, f"{LIST}{BAUD},Serial.Ser1.StopBits")).text == f"{BAUD}=9600\nSerial.Ser1.StopBits=2\n"


@pytest.mark.parametrize("label", ["application/x-www-form-urlencoded", "text/plain", "application/json", "x"])
async def test_arguments_come_by_post_under_any_label_and_in_query_and_body(tmp_path: Path, label: str) -> None:
    async with blade_cpu(tmp_path) as found:
        answer = await ask(found, PARAM, body=f"action=list&group={BAUD}".encode(), label=label)
        assert answer.text == f"{BAUD}=9600\n"
        assert (await ask(found, UPDATE, body=f"{BAUD}=300".encode(), label=label)).text == "OK"


@pytest.mark.parametrize(
    ("path", "user", "status"),
    [
        ("/axis-cgi/view/param.cgi", "viewer", 200),
        ("/axis-cgi/operator/param.cgi", "viewer", 401),
        ("/axis-cgi/operator/param.cgi", "operator", 200),
        ("/axis-cgi/admin/param.cgi", "operator", 401),
        ("/axis-cgi/admin/param.cgi", "admin", 200),
    ],
)
async def test_the_aliases_want_their_role_and_one_too_low_gets_401(
    tmp_path: Path, path: str, user: str, status: int
) -> None:
    async with blade_cpu(tmp_path) as found:
        assert (await ask(found, f"{path}?action=list", user)).status == status


async def test_who_may_not_update_gets_401_and_who_may_not_write_one_parameter_gets_its_line(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found:
        assert (await ask(found, f"{UPDATE}&{BAUD}=300", "viewer")).status == 401
        answer = await ask(found, f"{UPDATE}&{BAUD}=300", "operator")
        assert (answer.status, answer.text) == (200, WRONG.format(BAUD, "300"))


async def test_definitions_are_xml_to_the_byte_with_every_kind_of_type(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found:
        target = f"{PARAM}?action=listdefinitions&listformat=xmlschema&group=Serial.NbrOfPorts,{P0}.PortEnabled"
        answer = await ask(found, target)
        assert (answer.status, answer.kind) == (200, "text/xml")
        assert answer.text == DEFINED
        everything = (await ask(found, f"{PARAM}?action=listdefinitions&listformat=xmlschema")).text
        for kind in (
            '<bool true="yes" false="no" />',
            '<entry value="RS485" niceValue="RS485" />',
            '<int min="1024" max="65535" />',
            '<string maxlen="',
            '<password maxlen="',
            "<ipList />",
            "<hostname />",
            'securityLevel="7746"',
            'securityLevel="7707"',
        ):
            assert kind in everything


DEFINED = """\
<?xml version="1.0" encoding="iso-8859-1" ?>
<parameterDefinitions xmlns="http://www.axis.com/ParameterDefinitionsSchema" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://www.axis.com/ParameterDefinitionsSchema \
http://cam:8080/pub/parameterdefinitions.xsd" version="1.0">
  <model>Daisyport</model>
  <firmwareVersion>0.1.0</firmwareVersion>
  <group name="root">
    <group name="PortManager">
      <group name="P0">
        <parameter name="PortEnabled" value="yes" securityLevel="7746" niceName="Port enabled">
          <type>
            <bool true="yes" false="no" />
          </type>
        </parameter>
      </group>
    </group>
    <group name="Serial">
      <parameter name="NbrOfPorts" value="2" securityLevel="7707" niceName="Nbr of ports">
        <type readonly="true">
          <int />
        </type>
      </parameter>
    </group>
  </group>
</parameterDefinitions>
"""


async def test_the_public_web_page_s_patterns_match_and_it_sees_no_error(tmp_path: Path) -> None:
    server = f"{P0}.GenericTCPServer"
    async with blade_cpu(tmp_path, parameters="root.Serial.Ser1.PortMode=RS485\n") as found:
        enabled = f"{UPDATE}&{server}.Enabled=yes&{server}.Listener.Enabled=yes&{server}.Listener.Port={free_port()}"
        assert (await ask(found, enabled)).text == "OK"
        listed = (await ask(found, f"{LIST}PortManager")).text + (await ask(found, f"{LIST}Serial")).text
        assert "PortMode=RS485" in listed
        assert re.search(r"BaudRate=(\d+)", listed)
        assert "GenericTCPServer.Enabled=yes" in listed
        assert "Listener.Enabled=yes" in listed
        assert re.search(r"GenericTCPServer.Listener.Port=(\d+)", listed)
        assert "Error" not in listed


# --- serial.cgi -----------------------------------------------------------------------------------------------

NO_CONTENT = (204, "", b"")
WRITES = {
    "write takes upper and lower case": ("write=4a4B", b"JK"),
    "writestring is decoded once, and any byte goes": ("writestring=a%2Bb%00%FF%2541", b"a+b\x00\xff%41"),
    "write and writestring go in this order": ("writestring=two&write=6f6e65", b"onetwo"),
    "dataout is the old name of write": ("dataout=6f6c64", b"old"),
    "more than 128 bytes go": (f"write={'55' * 4096}", b"U" * 4096),
    "port N is port manager N-1": ("port=1&write=31", b"1"),
    "the camera's port is meant without a port": ("camera=1&write=31", b"1"),
}


@pytest.mark.parametrize("form", WRITES)
async def test_serial_cgi_writes_and_answers_204(tmp_path: Path, form: str) -> None:
    query, written = WRITES[form]
    async with blade_cpu(tmp_path) as found:
        answer = await ask(found, f"{SERIAL}?{query}", "viewer")
        assert (answer.status, answer.kind, answer.body) == NO_CONTENT
        assert await found.lines[0].hear(len(written)) == written
        posted = await ask(found, SERIAL, "viewer", body=query.replace("+", "%2B").encode())
        assert (posted.status, posted.kind, posted.body) == NO_CONTENT
        assert await found.lines[0].hear(len(written)) == written


READS = {
    "one byte": (b":", "read=1", "#3A#"),
    "several bytes, in upper case": (b":K\\", "read=3", "#3A4B5C#"),
    "up to so many bytes": (b":K\\\xff", "read=3", "#3A4B5C#"),
    "what is there when the time is over": (b":", "read=9&timeout=0", "#3A#"),
    "nothing read": (b"", "read=3&timeout=0", "##"),
    "wait and timeout, the shorter": (b"", "read=3&wait=9&timeout=0", "##"),
    "flush empties the buffer first": (b"old", "flush=yes&read=3&timeout=0", "##"),
    "until a delimiter": (b"ab\r\ncd", "until=0d0a", "#61620D0A#"),
    "as they are": (b"ab", "read=2&format=raw", "ab"),
    "in base64": (b"ab", "read=2&format=base64", "YWI="),
    "the newest 4096 bytes that came before": (b"o" + b"n" * 4096, "read=5000&timeout=0", f"#{'6E' * 4096}#"),
}


@pytest.mark.parametrize("form", READS)
async def test_serial_cgi_reads(tmp_path: Path, form: str) -> None:
    said, query, expected = READS[form]
    async with blade_cpu(tmp_path) as found:
        await found.lines[0].say(said)
        await found.until(lambda status: status["bytes_from_line"] == len(said))
        answer = await ask(found, f"{SERIAL}?{query}", "viewer")
        assert answer.status == 200
        assert answer.kind == ("application/octet-stream" if "raw" in query else "text/plain; charset=utf-8")
        assert answer.text == expected


async def test_serial_cgi_writes_then_reads_and_what_came_before_is_no_answer(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found, trio.open_nursery() as nursery:
        await found.lines[0].say(b"old")
        await found.until(lambda status: status["bytes_from_line"] == 3)
        answers: list[Answer] = []

        async def call() -> None:
            answers.append(await ask(found, f"{SERIAL}?write=51&writestring=R&read=2&wait=9"))

        nursery.start_soon(call)
        assert await found.lines[0].hear(2) == b"QR"
        await found.lines[0].say(b"ok")
        while not answers:
            await trio.lowlevel.checkpoint()
        assert answers[0].text == "#6F6B#"


async def test_serial_cgi_writes_and_reads_in_two_requests(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found:
        assert (await ask(found, f"{SERIAL}?write=51")).status == 204
        assert await found.lines[0].hear(1) == b"Q"
        await found.lines[0].say(b"ok")
        assert (await ask(found, f"{SERIAL}?read=2")).text == "#6F6B#"


ERRORS = {
    "a plus in the query's writestring": (
        "writestring=MOVE+10%2B5",
        "writestring: + is ambiguous in a query; write %20 for a blank and %2B for a plus",
    ),
    "an odd number of digits": ("write=123", "write=123: must have two hexadecimal digits for each byte"),
    "another character": ("write=4x", "write=4x: must have two hexadecimal digits for each byte"),
    "wait out of range": ("read=1&wait=10", "wait=10: must be a whole number of seconds from 1 to 9"),
    "timeout out of range": (
        "read=1&timeout=9001",
        "timeout=9001: must be a whole number of milliseconds from 0 to 9000",
    ),
    "a port that is not there": ("port=3&write=41", "port=3: must be a port from 1 to 2"),
    "a port without its server": (
        "port=2&write=41",
        "serial.cgi is disabled for port 2; root.PortManager.P1.SerialCGI.Enabled=yes enables it",
    ),
    "a video source on no port": (
        "camera=2&write=41",
        "video source 2 is bound to no port; port=N&camera=2 binds it to port N",
    ),
}


@pytest.mark.parametrize("form", ERRORS)
async def test_serial_cgi_s_errors_are_200_and_nothing_is_written(tmp_path: Path, form: str) -> None:
    query, why = ERRORS[form]
    async with blade_cpu(tmp_path) as found:
        answer = await ask(found, f"{SERIAL}?{query}")
        assert (answer.status, answer.kind, answer.text) == (200, "text/plain; charset=utf-8", f"Error:\n{why}\n")
        assert (await found.status())["bytes_to_line"] == 0


async def test_a_disabled_port_names_the_parameter_and_is_not_enabled_by_serial_cgi(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path, parameters=f"root.{P0}.PortEnabled=no\n") as found:
        answer = await ask(found, f"{SERIAL}?port=1&camera=1&write=41")
        assert answer.text == f"Error:\nport 1 is disabled; root.{P0}.PortEnabled=yes enables it\n"
        assert (await ask(found, f"{LIST}{P0}.PortEnabled")).text == f"{P0}.PortEnabled=no\n"


async def test_a_video_source_is_bound_and_unbound_and_the_binding_is_a_parameter(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found:
        assert (await ask(found, f"{SERIAL}?port=1&camera=2", "viewer")).status == 204
        cam2 = f"{LIST}PTZ.CamPorts.Cam2Port"
        assert (await ask(found, cam2, "viewer")).text == "PTZ.CamPorts.Cam2Port=1\n"
        assert (await ask(found, f"{SERIAL}?camera=2&write=41")).status == 204
        assert await found.lines[0].hear(1) == b"A"
        assert (await ask(found, f"{SERIAL}?port=-1&camera=2", "viewer")).status == 204
        assert (await ask(found, cam2, "viewer")).text == "PTZ.CamPorts.Cam2Port=-1\n"


async def test_the_traffic_system_s_request_in_http_1_0_with_preemptive_basic_works(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path, "basic") as found:
        request = f"GET {SERIAL}?port=1&write=8101060100ff HTTP/1.0\r\nAuthorization: {basic('operator')}\r\n\r\n"
        answer = await exchange(found, request.encode())
        assert (answer.status, answer.body) == (204, b"")
        assert await found.lines[0].hear(6) == b"\x81\x01\x06\x01\x00\xff"


# --- apidiscovery.cgi -----------------------------------------------------------------------------------------


def call(**members: object) -> bytes:
    return json.dumps(members).encode()


SERIAL_API = {
    "id": "serial-port",
    "version": "1.0",
    "name": "Serial Port",
    "docLink": "https://developer.axis.com/vapix/network-video/serial-port-api/",
    "status": "official",
}
DISCOVERIES = {
    "the keys are in the recorded order": (
        call(apiVersion="1.0", context="x", method="getApiList", params={"id": "serial-*", "version": "*"}),
        {"method": "getApiList", "apiVersion": "1.0", "context": "x", "data": {"apiList": [SERIAL_API]}},
    ),
    "the context is echoed only when sent": (
        call(apiVersion="1.0", method="getApiList", params={"id": "serial-p?rt"}),
        {"method": "getApiList", "apiVersion": "1.0", "data": {"apiList": [SERIAL_API]}},
    ),
    "an unknown id is an empty list": (
        call(apiVersion="1.0", method="getApiList", params={"id": "ptz"}),
        {"method": "getApiList", "apiVersion": "1.0", "data": {"apiList": []}},
    ),
    "the versions are told": (
        call(context="y", method="getSupportedVersions"),
        {"method": "getSupportedVersions", "apiVersion": "1.0", "context": "y", "data": {"apiVersions": ["1.0"]}},
    ),
}
CODES = {
    1000: call(apiVersion="1.0", context="x", method="getApiList", params={"id": ""}),
    2003: call(apiVersion="2.0", context="x", method="getApiList"),
    2004: call(apiVersion="1.0", context="x", method="getList"),
    4000: b'{"context":"x",',
    4002: call(apiVersion="1.0", context="x", method="getApiList", params=[]),
}


@pytest.mark.parametrize("form", DISCOVERIES)
async def test_api_discovery_answers_without_login(tmp_path: Path, form: str) -> None:
    request, expected = DISCOVERIES[form]
    async with blade_cpu(tmp_path) as found:
        answer = await ask(found, DISCOVERY, "", request, "application/json")
        assert (answer.status, answer.kind, answer.text) == (200, "application/json", json.dumps(expected))


async def test_api_discovery_lists_three_official_apis(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found:
        listed = json.loads((await ask(found, DISCOVERY, "", call(method="getApiList"))).body)["data"]["apiList"]
        assert [(api["id"], api["name"], api["version"], api["status"]) for api in listed] == [
            ("api-discovery", "API Discovery Service", "1.0", "official"),
            ("param-cgi", "Legacy Parameter Handling", "1.0", "official"),
            ("serial-port", "Serial Port", "1.0", "official"),
        ]


@pytest.mark.parametrize("code", CODES)
async def test_api_discovery_s_errors_are_200_with_a_code(tmp_path: Path, code: int) -> None:
    async with blade_cpu(tmp_path) as found:
        answer = await ask(found, DISCOVERY, "", CODES[code])
        told = json.loads(answer.body)
        assert answer.status == 200
        assert list(told) == (["apiVersion", "error"] if code == 4000 else ["apiVersion", "context", "error"])
        assert list(told["error"]) == ["code", "message"]
        assert told["error"]["code"] == code


async def test_api_discovery_by_get_is_error_2002(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path) as found:
        answer = await ask(found, DISCOVERY, "")
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (200, 2002)


async def test_a_fault_of_ours_is_api_discovery_s_error_8000_and_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_: object) -> bytes:
        raise KeyError("a bug")

    monkeypatch.setattr(routes, "discovery_answer", bug)
    async with blade_cpu(tmp_path) as found:
        answer = await ask(found, DISCOVERY, "", call(method="getApiList"))
        assert (answer.status, answer.kind) == (200, "application/json")
        assert json.loads(answer.body) == {"apiVersion": "1.0", "error": {"code": 8000, "message": "Internal error"}}
    assert "KeyError: 'a bug'" in caplog.text


# --- logging in -----------------------------------------------------------------------------------------------

CHALLENGE = re.compile(r'Digest realm="[^"]+", nonce="([^"]+)", algorithm=(MD5|SHA-256), qop="auth"(, stale=true)?')


def proof(challenge: str, target: str, count: int, user: str = "admin") -> str:
    """A client's answer to a Digest challenge (RFC 7616), with the fixed nonce that some of them have."""
    said = dict(re.findall(r'(\w+)="?([^",]+)"?', challenge))
    new = hashlib.sha256 if said["algorithm"] == "SHA-256" else hashlib.md5

    def h(*parts: str) -> str:
        return new(":".join(parts).encode()).hexdigest()

    nc = f"{count:08x}"
    response = h(h(user, said["realm"], PASSWORD), said["nonce"], nc, "162d50aa", "auth", h("GET", target))
    return (
        f'Digest username="{user}",realm="{said["realm"]}",nonce="{said["nonce"]}",uri="{target}",'
        f'response="{response}",algorithm={said["algorithm"]},qop=auth,nc={nc},cnonce="162d50aa"'
    )


async def challenged(gateway: Gateway, target: str = LIST + BAUD) -> list[str]:
    answer = await ask(gateway, target, "")
    assert answer.status == 401
    return answer.all("www-authenticate")


@pytest.mark.parametrize(
    ("policy", "schemes"),
    [("basic", ["Basic"]), ("digest", ["Digest"]), ("basic_digest", ["Digest", "Basic"]), ("recommended", ["Digest"])],
)
async def test_each_policy_offers_its_schemes_and_the_401_says_what_to_do(
    tmp_path: Path, policy: str, schemes: list[str]
) -> None:
    async with blade_cpu(tmp_path, policy) as found:
        answer = await ask(found, LIST + BAUD, "")
        assert [challenge.split()[0] for challenge in answer.all("www-authenticate")] == schemes
        assert f"curl --{schemes[0].lower()}" in answer.text
        assert "root.Network.HTTP.AuthenticationPolicy" in answer.text
        assert (await ask(found, LIST + BAUD)).status == (200 if "Basic" in schemes else 401)


async def test_the_challenge_has_the_recorded_form(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path, "recommended") as found:
        (challenge,) = await challenged(found)
        match = CHALLENGE.fullmatch(challenge)
        assert match
        assert match[2] == "MD5"


async def test_the_uri_is_hashed_as_sent_and_counts_may_come_in_any_order_once_each(tmp_path: Path) -> None:
    target = f"{LIST}Serial%2eSer1.BaudRate&x=%7E~"
    async with blade_cpu(tmp_path, "digest") as found:
        (challenge,) = await challenged(found)
        for count in (3, 1, 2):
            answer = await ask(found, target, authorization=proof(challenge, target, count))
            assert answer.text == f"{BAUD}=9600\n"
        used = await ask(found, target, authorization=proof(challenge, target, 2))
        assert used.status == 401
        assert "stale=true" in used.all("www-authenticate")[0]


async def test_the_first_count_with_a_fixed_client_nonce_works_for_each_nonce(tmp_path: Path) -> None:
    target = LIST + BAUD
    async with blade_cpu(tmp_path, "digest") as found:
        for _ in range(20):
            (challenge,) = await challenged(found)
            assert (await ask(found, target, authorization=proof(challenge, target, 1))).status == 200


async def test_basic_first_is_no_wrong_password_under_digest(tmp_path: Path) -> None:
    async with blade_cpu(tmp_path, "digest") as found:
        for _ in range(30):
            assert (await ask(found, LIST + BAUD)).status == 401  # and never 429


async def test_two_hashes_are_two_challenges_and_either_logs_in(tmp_path: Path) -> None:
    target = LIST + BAUD
    http = HttpConfig((("127.0.0.1", free_port()),), digest=(Algorithm.SHA256, Algorithm.MD5))
    async with blade_cpu(tmp_path, "digest", http=http) as found:
        sha256, md5 = await challenged(found)
        for count, challenge, name in ((1, sha256, "SHA-256"), (2, md5, "MD5")):  # on one nonce, so two counts
            match = CHALLENGE.fullmatch(challenge)
            assert match
            assert match[2] == name
            assert (await ask(found, target, authorization=proof(challenge, target, count))).status == 200
