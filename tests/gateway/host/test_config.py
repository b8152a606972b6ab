from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import __version__
from gateway.clients.relay import LINGER
from gateway.host import config_file
from gateway.host.config import (
    ChainedConfig,
    Config,
    HttpConfig,
    LogConfig,
    ModbusTcpConfig,
    PortConfig,
    PtzConfig,
    RemoteConfig,
    Rfc2217Config,
    SerialConfig,
    TcpConfig,
    TlsConfig,
    TtyConfig,
)
from gateway.host.config_error import ConfigError
from protocol.http.credentials import Algorithm
from protocol.parameters.addresses import AddressList
from protocol.parameters.hardware import Hardware, Identity, ManagerHardware, PortMode, SerialHardware
from protocol.sharing.message_rule import MessageRule
from protocol.sharing.turn_rule import TurnRule

EXAMPLE = Path(__file__).parents[3] / "systemd/daisyport.toml"
BY_ID = "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0"

WHOLE = """
state_dir = "/var/lib/daisyport"
runtime_dir = "/run/daisyport"
node_name = "cpu1"
chassis = "blade-7"

[http]
listen = ["127.0.0.1:8080", "[::1]:8081", "localhost:0"]
browser_guard = false
origins = ["https://serial.example", "http://[::1]:81"]
trusted_proxies = ["127.0.0.1", "10.0.0.0/8"]

[tcp]
bind = ["0.0.0.0", "::"]

[ptz]
users = ["camera"]
groups = ["ptz", "video"]

[video]
sources = 4

[[serial]]
device = "/dev/ttyUSB0"
modes = ["RS232", "RS485"]

[[serial]]
device = "/dev/ttyS1"
modes = ["RS485"]
rts_cts = false
rates = [921600, 250000]
data_bits = [5, 6]
xon_xoff = false
termination = true
bias = ["/usr/bin/bias", "--on={state}"]

[[port_manager]]
serial = 2
remote_port = 3

[[port_manager]]
serial = 1
writers = "last"
max_clients = 2
listen_only = ["0.0.0.0:4001", "[::]:4001"]
linger_ms = 5000
slow_reader = "drop_oldest"
history_bytes = 4096
char_gap_ms = 5
message_end = "0D0a"
message_gap_ms = 20

[port_manager.log]
file = "/var/log/daisyport/../P1.log"
rotate = 2

[port_manager.tty]
path = ["/run/daisyport/tty-P1", "/run/daisyport/../gps"]
mode = 0o660
group = "dialout"
configure = true

[port_manager.modbus_tcp]
listen = ["[::1]:1502"]
units = [1, 247]

[port_manager.rfc2217]
listen = ["[::1]:2217"]
lines = false
configure = true

[port_manager.remote]
lines = true
configure = true

[port_manager.tls]
listen = ["0.0.0.0:4443"]
client_ca = "/etc/daisyport/../clients.pem"

[[port_manager]]
"""

OURS = Identity(firmware_version=__version__)


def errors(text: str) -> list[str]:
    """Return the errors that load reports of a file with this text."""
    with pytest.raises(ConfigError) as caught:
        config_file.parse(text.encode())
    assert str(caught.value) == "\n".join(caught.value.messages)
    return list(caught.value.messages)


def outcome(data: bytes) -> Config | tuple[str, ...]:
    try:
        return config_file.parse(data)
    except ConfigError as exc:
        return exc.messages


EVERYWHERE = (("0.0.0.0", 4001), ("::", 4001))
MASTERS = ModbusTcpConfig((("::1", 1502),), (1, 247))
TTYS = TtyConfig(("/run/daisyport/tty-P1", "/run/gps"), 0o660, "dialout", configure=True)


def test_every_key_of_a_whole_file_is_read() -> None:
    assert config_file.parse(WHOLE.encode()) == Config(
        state_dir=Path("/var/lib/daisyport"),
        runtime_dir=Path("/run/daisyport"),
        node_name="cpu1",
        chassis="blade-7",
        http=HttpConfig(
            (("127.0.0.1", 8080), ("::1", 8081), ("127.0.0.1", 0)),
            browser_guard=False,
            origins=("https://serial.example", "http://[::1]:81"),
            trusted_proxies=AddressList.parse("127.0.0.1,10.0.0.0/8"),
        ),
        tcp=TcpConfig(("0.0.0.0", "::")),
        ptz=PtzConfig(("camera",), ("ptz", "video")),
        video_sources=4,
        serial=(
            SerialConfig("/dev/ttyUSB0", SerialHardware((PortMode.RS232, PortMode.RS485))),
            SerialConfig(
                "/dev/ttyS1",
                SerialHardware(
                    (PortMode.RS485,),
                    xon_xoff=False,
                    rts_cts=False,
                    termination=True,
                    bias=True,
                    rates=(921600, 250000),
                    data_bits=(5, 6),
                ),
                ("/usr/bin/bias", "--on={state}"),
            ),
        ),
        managers=(ManagerHardware(2, 3), ManagerHardware(1, 1), ManagerHardware(None, 2)),
        sharing=(
            PortConfig(),
            PortConfig(
                "last",
                2,
                (("0.0.0.0", 4001), ("::", 4001)),
                5.0,
                "drop_oldest",
                4096,
                0.005,
                None,
                LINES,
                LogConfig(Path("/var/log/P1.log"), 2 << 20),
                TTYS,
                MASTERS,
                Rfc2217Config((("::1", 2217),), lines=False, configure=True),
                TlsConfig((("0.0.0.0", 4443),), Path("/etc/clients.pem")),
                ChainedConfig(lines=True, configure=True),
            ),
            PortConfig(),
        ),
    )


@pytest.mark.parametrize("origin", ["serial.example", "https://serial.example/", "ftp://x", "https://", "https://a b"])
def test_an_origin_is_written_as_browsers_send_it(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"origins.*for example \"https://serial\.example\""):
        config_file.parse(f'[http]\norigins = ["{origin}"]\n'.encode())


def test_a_trusted_proxy_that_is_no_address_is_named() -> None:
    with pytest.raises(ConfigError, match=r"trusted_proxies.*'proxy' is not an address"):
        config_file.parse(b'[http]\ntrusted_proxies = ["10.0.0.1", "proxy"]\n')


def test_an_empty_file_means_the_defaults() -> None:
    made = config_file.parse(b"")
    assert made == Config(Path("/var/lib/daisyport"), Path("/run/daisyport"), os.uname().nodename)
    assert made.http.listen == (("127.0.0.1", 8080),)
    assert made.tcp.bind == ("0.0.0.0", "::")
    assert made.hardware == Hardware(serial=(), managers=(), identity=OURS)


def test_ports_that_no_table_names_are_shared_as_by_default() -> None:
    made = config_file.parse(f"{SERIAL}".encode())
    assert made.port(0) == PortConfig()
    assert (PortConfig().linger, PortConfig().writers) == (LINGER, "all")


def test_the_hashes_of_digest_and_the_certificate_are_read() -> None:
    made = config_file.parse(
        b'[http]\ndigest = ["SHA-256", "MD5"]\ntls_certificate = "/etc/ssl/cam.pem"\ntls_key = "/etc/ssl/cam.key"'
    )
    assert made.http.digest == (Algorithm.SHA256, Algorithm.MD5)
    assert (made.http.tls_certificate, made.http.tls_key) == (Path("/etc/ssl/cam.pem"), Path("/etc/ssl/cam.key"))


def test_without_port_managers_each_serial_port_has_one() -> None:
    made = config_file.parse(b'[video]\nsources=2\n[[serial]]\ndevice="/dev/a"\n[[serial]]\ndevice="/dev/b"\n')
    assert made.hardware == Hardware(
        serial=(SerialHardware(), SerialHardware()),
        managers=(ManagerHardware(1, 0), ManagerHardware(2, 1)),
        identity=OURS,
        video_sources=2,
    )


def test_an_adapter_may_switch_by_itself_be_left_alone_and_be_any() -> None:
    keys = 'modes = ["RS485"]\nrs485 = "automatic"\nlow_latency = false\nany_device = true\n'
    (line,) = config_file.parse(f"{SERIAL}{keys}".encode()).serial
    assert (line.rs485_automatic, line.low_latency, line.any_device) == (True, False, True)
    (line,) = config_file.parse(SERIAL.encode()).serial
    assert (line.rs485_automatic, line.low_latency, line.any_device) == (False, True, False)


def test_a_device_may_be_open_on_demand() -> None:
    (line,) = config_file.parse(f'{SERIAL}open = "on demand"\nclose_after_ms = 500\n'.encode()).serial
    assert (line.on_demand, line.close_after) == (True, 0.5)
    (line,) = config_file.parse(f'{SERIAL}open = "always"\n'.encode()).serial
    assert (line.on_demand, line.close_after) == (False, 2.0)


def test_the_example_is_accepted_and_says_what_the_defaults_are() -> None:
    made = config_file.load(EXAMPLE)
    assert made == config_file.parse(f'[[serial]]\ndevice = "{BY_ID}"\n'.encode())


def test_every_key_that_the_example_names_is_accepted() -> None:
    lines = EXAMPLE.read_text().splitlines()
    wanted = [line.removeprefix("# ") if " = " in line or line.startswith("# [") else line for line in lines]
    told = errors("\n".join(wanted))
    assert told == [
        "serial[0].bias: requires RS485, RS485_4 or RS422 among the modes",
        'port_manager[0].turn.reply_end: the bytes that end a reply belong to reply = "line", and to no other',
    ]


def test_the_example_names_every_key_that_there_is() -> None:
    named = set(re.findall(r"^(?:# )?(\w+) = ", EXAMPLE.read_text(), re.MULTILINE))
    tables = (HttpConfig, TcpConfig, PtzConfig, RemoteConfig, SerialHardware, ManagerHardware)
    assert {key.name for table in tables for key in fields(table)} <= named


LINES = MessageRule(b"\r\n", 0.02)
HEX = '1 to 16 bytes in hexadecimal digits, for example "0d0a"'
KEYS_OF_A_PORT = "serial, remote_port, turn, writers, max_clients, listen_only, linger_ms, slow_reader, "
KEYS_OF_A_PORT += "history_bytes, char_gap_ms, message_end, message_gap_ms, log, tty, modbus_tcp, rfc2217, tls, remote"
TTY = '[[port_manager]]\n[port_manager.tty]\npath = "/run/t"\n'
SERIAL = '[[serial]]\ndevice = "/dev/ttyS0"\n'
OWNER = f"{SERIAL}[[port_manager]]\nserial = 1\n"


KINDS = "none, modbus-rtu, visca, line, length, silence"
WRONG_TURNS = (
    ("[port_manager.turn]", f"turn.reply: missing; how the end of a reply is known: one of {KINDS}"),
    ('[port_manager.turn]\nreply = "modbus"', f"turn.reply: modbus is not one of {KINDS}"),
    (
        '[port_manager.turn]\nreply = "line"',
        'turn.reply_end: the bytes that end a reply belong to reply = "line", and to no other',
    ),
    (
        '[port_manager.turn]\nreply_end = "0d"\nreply_length = 3',
        'turn.reply_length: the length of a reply belongs to reply = "length", and to no other',
    ),
    ('[port_manager.turn]\nreply_end = "0"', f"turn.reply_end: 0 is not {HEX}"),
    ("[port_manager.turn]\nreply_length = 1025", "turn.reply_length: 1025 is not a whole number from 1 to 1024"),
    (
        '[port_manager.turn]\nreply = "visca"\nreply_timeout_ms = 0',
        "turn.reply_timeout_ms: 0 is not a whole number from 1 to 9000",
    ),
    (
        '[port_manager.turn]\nreply = "visca"\nreply_silence_ms = 9001',
        "turn.reply_silence_ms: 9001 is not a whole number from 1 to 9000",
    ),
    ('[port_manager.turn]\nreply = "visca"\ngap_ms = -1', "turn.gap_ms: -1 is not a whole number from 0 to 9000"),
    (
        '[port_manager.turn]\nreply = "visca"\nmax_wait_ms = 0',
        "turn.max_wait_ms: 0 is not a whole number from 1 to 9000",
    ),
    ('[port_manager.turn]\nreply = "visca"\nreply_to = "me"', "turn.reply_to: me is not one of sender, all"),
    ('[port_manager.turn]\nreply = "visca"\necho = 1', "turn.echo: 1 is not true or false"),
    ('[port_manager.turn]\nreply = "visca"\nreply_ms = 1', "turn.reply_ms: no such key; did you mean reply?"),
    (
        'message_gap_ms = 5\n[port_manager.turn]\nreply = "visca"',
        'message_gap_ms: has no place beside turn.reply = "visca", which itself finds the ends of messages',
    ),
    (
        'message_end = "ff"\n[port_manager.turn]\nreply = "modbus-rtu"',
        'message_end: has no place beside turn.reply = "modbus-rtu", which itself finds the ends of messages',
    ),
)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ('reply = "modbus-rtu"', TurnRule("modbus-rtu")),
        ('reply = "silence"', TurnRule("silence")),
        ('reply = "none"\ngap_ms = 0', TurnRule("none", gap=0.0)),
        ('reply_end = "0d0a"', TurnRule("line", end=b"\r\n")),
        ('reply = "line"\nreply_end = "0d"', TurnRule("line", end=b"\r")),
        ("reply_length = 1024", TurnRule("length", length=1024)),
        (
            'reply = "visca"\nreply_timeout_ms = 9000\nreply_silence_ms = 1\ngap_ms = 4\nmax_wait_ms = 2500',
            TurnRule("visca", reply_timeout=9.0, reply_silence=0.001, gap=0.004, max_wait=2.5),
        ),
        (
            'reply = "visca"\nreply_to = "all"\necho = true',
            TurnRule("visca", reply_to="all", echo=True),
        ),
    ],
)
def test_the_turns_of_a_line_are_read(body: str, rule: TurnRule) -> None:
    made = config_file.parse(f"{OWNER}[port_manager.turn]\n{body}\n".encode())
    assert made.port(0) == PortConfig(turn=rule)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            SERIAL + 'modes = ["RS232", "RS484"]',
            "serial[0].modes[1]: RS484 is not one of RS232, RS485, RS485_4, RS422",
        ),
        (SERIAL + 'modes = ["RS232", "RS232"]', "serial[0].modes[1]: RS232 is a duplicate"),
        (SERIAL + 'modes = "RS232"', "serial[0].modes: RS232 is not a list, [...]"),
        (SERIAL + f'modes = "{"x" * 60}"', f"serial[0].modes: {'x' * 60} is not a list, [...]"),
        (SERIAL + f'modes = "{"x" * 61}"', f"serial[0].modes: {'x' * 60}... is not a list, [...]"),
        (
            SERIAL + "modes = []",
            'serial[0].modes: must not be empty; most lines are ["RS232"]',
        ),
        (SERIAL + "modes = [[]]", "serial[0].modes[0]: a list is not one of RS232, RS485, RS485_4, RS422"),
        (SERIAL + 'mode = ["RS232"]', "serial[0].mode: no such key; did you mean modes?"),
        (SERIAL + "rts_cts = 1", "serial[0].rts_cts: 1 is not true or false"),
        (
            SERIAL + "termination = true",
            "serial[0].termination: requires RS485, RS485_4 or RS422 among the modes",
        ),
        (SERIAL + 'rs485 = "automatic"', "serial[0].rs485: requires RS485, RS485_4 or RS422 among the modes"),
        (SERIAL + 'rs485 = "rts"', "serial[0].rs485: rts is not one of driver, automatic"),
        (
            SERIAL + 'modes=["RS485"]\nrs485 = "automatic"\ntermination = true',
            'serial[0].termination: requires rs485 = "driver", which switches it',
        ),
        (SERIAL + 'open = "never"', "serial[0].open: never is not one of always, on demand"),
        (SERIAL + "any_device = 1", "serial[0].any_device: 1 is not true or false"),
        (SERIAL + "low_latency = 1", "serial[0].low_latency: 1 is not true or false"),
        (
            SERIAL + 'modes=["RS485"]\nbias = []',
            'serial[0].bias: a list is not a command, for example ["/usr/local/bin/bias", "{state}"]',
        ),
        (
            SERIAL + 'modes=["RS485"]\nbias = ["/usr/bin/bias", "on"]',
            "serial[0].bias: must contain {state} after the first word; it becomes on or off",
        ),
        (
            SERIAL + 'modes=["RS485"]\nbias = ["/usr/bin/bias", 1]',
            "serial[0].bias: 1 is not a string of printable characters",
        ),
        (
            "[[serial]]",
            'serial[0].device: missing; name the serial device, for example "/dev/serial/by-id/usb-FTDI_..."',
        ),
        ('[[serial]]\ndevice = "ttyS0"', "serial[0].device: ttyS0 is not an absolute path"),
        (
            SERIAL + '[[serial]]\ndevice = "/dev/../dev/ttyS0"',
            "serial[1].device: /dev/ttyS0 is already used by serial[0]",
        ),
        ("[serial]", "serial: a table is not an array of tables; write [[serial]] above each table"),
        ("serial = [1]", "serial: a list is not an array of tables; write [[serial]] above each table"),
        (
            SERIAL + "[[port_manager]]\nserial = 2",
            "port_manager[0].serial: 2 is not the number of a [[serial]] table; there are 1",
        ),
        (
            SERIAL + "[[port_manager]]\nserial = 0",
            "port_manager[0].serial: 0 is not a whole number from 1 to 65535",
        ),
        (
            SERIAL + "[[port_manager]]\nserial = 1\n[[port_manager]]\n[[port_manager]]\nserial = 1",
            "port_manager[2].serial: 1 is already used by port_manager[0]",
        ),
        ('[[port_manager]]\nwriters = "one"', "port_manager[0].writers: one is not one of all, first, last"),
        ("[[port_manager]]\nwriters = true", "port_manager[0].writers: true is not one of all, first, last"),
        ("[[port_manager]]\nmax_clients = 0", "port_manager[0].max_clients: 0 is not a whole number from 1 to 256"),
        (
            '[[port_manager]]\nlisten_only = ["4001"]',
            'port_manager[0].listen_only[0]: 4001 is not host:port, for example "127.0.0.1:8080" or "[::1]:8080"',
        ),
        (
            '[[port_manager]]\nlisten_only = ["[::1]:4001"]\n[[port_manager]]\nlisten_only = ["[::1]:4001"]',
            "port_manager[1].listen_only: [::1]:4001 is already used by port_manager[0].listen_only",
        ),
        (
            "[[port_manager]]\nlinger_ms = 60001",
            "port_manager[0].linger_ms: 60001 is not a whole number from 0 to 60000",
        ),
        (
            '[[port_manager]]\nslow_reader = "drop"',
            "port_manager[0].slow_reader: drop is not one of cut, drop_oldest",
        ),
        (
            '[[port_manager]]\nlisten_only = ["[::1]:4001"]\n[port_manager.modbus_tcp]\nlisten = ["[::1]:4001"]',
            "port_manager[0].modbus_tcp.listen: [::1]:4001 is already used by port_manager[0].listen_only",
        ),
        (
            '[[port_manager]]\n[port_manager.tls]\nlisten = ["[::1]:4443"]',
            "port_manager[0].tls.listen: requires client_ca, whose certificates vouch for the clients' own",
        ),
        (
            '[[port_manager]]\n[port_manager.tls]\nclient_ca = "clients.pem"',
            "port_manager[0].tls.client_ca: clients.pem is not an absolute path",
        ),
        (
            "[[port_manager]]\n[port_manager.modbus_tcp]\nunits = [256]",
            "port_manager[0].modbus_tcp.units[0]: 256 is not a whole number from 0 to 255",
        ),
        (
            "[[port_manager]]\nhistory_bytes = 65537",
            "port_manager[0].history_bytes: 65537 is not a whole number from 0 to 65536",
        ),
        *(
            (f"{OWNER}message_end = {value}", f"port_manager[0].message_end: {shown} is not {HEX}")
            for value, shown in (('"x"', "x"), ('"f"', "f"), ('""', "''"), (f'"{"00" * 17}"', "00" * 17))
        ),
        (
            OWNER + "message_gap_ms = 101",
            "port_manager[0].message_gap_ms: 101 is not a whole number from 1 to 100",
        ),
        (
            '[[port_manager]]\n[port_manager.turn]\nreply = "visca"',
            "port_manager[0].turn: requires serial, because the CPU with the line decides it for the others",
        ),
        *((OWNER + table, f"port_manager[0].{error}") for table, error in WRONG_TURNS),
        (
            "[[port_manager]]\n[port_manager.remote]\nlines = true",
            "port_manager[0].remote: requires serial, because the CPU with the line decides it for the others",
        ),
        (
            OWNER + "[port_manager.remote]\nconfigure = 1",
            "port_manager[0].remote.configure: 1 is not true or false",
        ),
        (
            '[[port_manager]]\nmessage_end = "ff"',
            "port_manager[0].message_end: requires serial, because the CPU with the line decides it for the others",
        ),
        (
            '[[port_manager]]\n[port_manager.tty]\npath = "/run/t"\nmode = "660"',
            "port_manager[0].tty.mode: 660 is not a mode in octal digits, for example 0o660",
        ),
        (
            "[[port_manager]]\n[port_manager.tty]\nmode = 0o660",
            'port_manager[0].tty.mode: requires path; name the tty, for example "/run/daisyport/tty-P0"',
        ),
        (
            '[[port_manager]]\n[port_manager.tty]\npath = ["/run/t", "tty"]',
            "port_manager[0].tty.path[1]: tty is not an absolute path",
        ),
        (
            TTY + TTY.replace("/run/t", "/run//t"),
            "port_manager[1].tty.path: /run/t is already used by port_manager[0]",
        ),
        (
            "[[port_manager]]\n[port_manager.log]\nrotate = 1",
            'port_manager[0].log.rotate: requires file; name it, for example "/var/log/daisyport/P0.log"',
        ),
        (
            '[[port_manager]]\n[port_manager.log]\nfile = "P0.log"',
            "port_manager[0].log.file: P0.log is not an absolute path",
        ),
        (
            '[[port_manager]]\n[port_manager.log]\nfile = "/a"\nrotate = 0',
            "port_manager[0].log.rotate: 0 is not a whole number from 1 to 4096",
        ),
        (
            TTY + '[port_manager.log]\nfile = "/run/t"',
            "port_manager[0].log.file: /run/t is already used by port_manager[0]",
        ),
        (
            TTY + '[[port_manager]]\n[port_manager.log]\nfile = "/run/x/../t"',
            "port_manager[1].log.file: /run/t is already used by port_manager[0]",
        ),
        (
            "[[port_manager]]\nremote_port = true",
            "port_manager[0].remote_port: true is not a whole number from 0 to 255",
        ),
        ("http = 8080", "http: 8080 is not a table; write its name in [...]"),
        (
            '[http]\nlisten = ["8080"]',
            'http.listen[0]: 8080 is not host:port, for example "127.0.0.1:8080" or "[::1]:8080"',
        ),
        (
            '[http]\nlisten = ["127.0.0.1:80", "::1:80"]',
            'http.listen[1]: ::1:80 is not host:port, for example "127.0.0.1:8080" or "[::1]:8080"',
        ),
        (
            '[http]\nlisten = ["127.0.0.1:65536"]',
            'http.listen[0]: 127.0.0.1:65536 is not host:port, for example "127.0.0.1:8080" or "[::1]:8080"',
        ),
        (
            '[http]\nlisten = ["300.0.0.1:80"]',
            'http.listen[0]: 300.0.0.1 is not an IP address, for example "127.0.0.1" or "::1"',
        ),
        (
            '[http]\nlisten = ["127.0.0.1:80", "127.0.0.1:80"]',
            "http.listen[1]: 127.0.0.1:80 is a duplicate",
        ),
        ("[http]\ndigest = []", 'http.digest: must not be empty; every client supports ["MD5"]'),
        ('[http]\ndigest = ["MD5", "SHA-512"]', "http.digest[1]: SHA-512 is not one of MD5, SHA-256"),
        ("[http]\ndigest = [{}]", "http.digest[0]: a table is not one of MD5, SHA-256"),
        ('[http]\ntls_certificate = "cert.pem"', "http.tls_certificate: cert.pem is not an absolute path"),
        (
            '[http]\ntls_key = "/etc/daisyport/key.pem"',
            "http.tls_key: requires tls_certificate; name the certificate's file too",
        ),
        ("[tcp]\nbind = [1]", "tcp.bind[0]: 1 is not a string of printable characters"),
        (
            "[tcp]\nmax_clients = 0",
            "tcp.max_clients: 0 is not a whole number from 1 to 256",
        ),
        (
            "[tcp]\nbind = []",
            'tcp.bind: must not be empty; ["127.0.0.1"] is for this machine only',
        ),
        ('[ptz]\nusers = [" "]', "ptz.users[0]: ' ' is not a name"),
        ('[ptz]\nowner = "x"', "ptz.owner: no such key; the keys are users, groups"),
        ("[http]\nstrange = 1", "http.strange: no such key; the keys are listen, "),
        ("[tcp]\nstrange = 1", "tcp.strange: no such key; the keys are bind, max_clients"),
        (
            "[remote_port]\nstrange = 1",
            "remote_port.strange: no such key; the keys are autoconf_without_key, keyless, accept_rekey",
        ),
        ("[video]\nstrange = 1", "video.strange: no such key; the keys are sources"),
        (
            "[[port_manager]]\nstrange = 1",
            "port_manager[0].strange: no such key; the keys are " + KEYS_OF_A_PORT,
        ),
        ("[video]\nsources = 0", "video.sources: 0 is not a whole number from 1 to 64"),
        ('chassis = "a\\nb"', "chassis: 'a\\nb' is not a string of printable characters"),
        ('state_dir = ""', "state_dir: '' is not an absolute path"),
        (
            f'runtime_dir = "/{"x" * 90}"',
            f"runtime_dir: /{'x' * 59}... is not a path of at most 90 bytes, so that the addresses of its sockets fit",
        ),
        ("stat_dir = 1979-05-27", "stat_dir: no such key; did you mean state_dir?"),
        ('"\\n" = 1', "'\\n': no such key; the keys are state_dir, "),
        ("chassis = 1979-05-27", "chassis: 1979-05-27 is not a string of printable characters"),
        (
            f"[video]\nsources = 0x{'f' * 9999}",
            "video.sources: a number of that length is not a whole number from 1 to 64",
        ),
    ],
)
def test_an_error_names_the_key_what_was_found_and_what_would_be_right(text: str, error: str) -> None:
    (told,) = errors(text)
    assert told.startswith(error)
    assert told == error or error.endswith(", ")


def test_all_errors_come_at_once_one_a_line() -> None:
    assert errors('state_dir = 5\nnode_name = ""\n[http]\nlisten = ["x", "y"]\n[[serial]]\ndvice = 1') == [
        "state_dir: 5 is not a string of printable characters",
        "node_name: '' is not a name",
        'http.listen[0]: x is not host:port, for example "127.0.0.1:8080" or "[::1]:8080"',
        'http.listen[1]: y is not host:port, for example "127.0.0.1:8080" or "[::1]:8080"',
        'serial[0].device: missing; name the serial device, for example "/dev/serial/by-id/usb-FTDI_..."',
        "serial[0].dvice: no such key; did you mean device?",
    ]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'node_name = "a"\nchassis = b\n', "not TOML: Invalid value (at line 2, column 11)"),
        (b'# ok\nnode_name = "caf\xe9"\n', "line 2: a byte that is not UTF-8; save the file as UTF-8"),
        (b"x = " + b"[" * 5000, "not TOML that can be read: nested too deep"),
    ],
)
def test_what_is_not_toml_is_named_with_its_line(data: bytes, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.parse(data)
    assert caught.value.messages == (error,)


def test_a_byte_order_mark_and_the_ends_of_lines_of_windows_are_no_errors() -> None:
    assert config_file.parse(b'\xef\xbb\xbfnode_name = "a"\r\n[http]\r\nlisten = []\r\n').node_name == "a"


def test_a_number_with_too_many_digits_is_an_error() -> None:
    (told,) = errors("x = " + "9" * 5000)
    assert told.startswith("not TOML: ")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            config_file.load(path)
        assert caught.value.messages == (f"cannot be read: {why}",)


def test_a_file_of_any_size_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        config_file.load("/dev/zero")


def test_a_machine_without_configuration_keeps_to_its_user_and_to_loopback() -> None:
    environ = {"XDG_STATE_HOME": "/home/u/state", "XDG_RUNTIME_DIR": "/run/user/1000"}
    made = Config.for_this_machine(environ, ["/dev/serial/by-id/usb-A", "/dev/serial/by-id/usb-B"])
    assert made.state_dir == Path("/home/u/state/daisyport")
    assert made.runtime_dir == Path("/run/user/1000/daisyport")
    assert made.http.listen == (("127.0.0.1", 8080),)
    assert made.tcp.bind == ("127.0.0.1", "::1")
    assert [line.device for line in made.serial] == ["/dev/serial/by-id/usb-A", "/dev/serial/by-id/usb-B"]
    assert made.managers == (ManagerHardware(1, 0), ManagerHardware(2, 1))


@pytest.mark.parametrize("environ", [{}, {"XDG_STATE_HOME": "relative", "XDG_RUNTIME_DIR": ""}])
def test_without_xdg_folders_the_state_is_in_the_home_folder(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    made = Config.for_this_machine(environ, [])
    assert made.state_dir == Path("/home/u/.local/state/daisyport")
    assert made.runtime_dir == Path("/home/u/.local/state/daisyport/run")


@given(st.binary(max_size=200))
@example(b"\xff")
def test_any_bytes_are_a_configuration_or_an_error(data: bytes) -> None:
    assert outcome(data)


KEYS = st.sampled_from(
    [line.split("=")[0].strip() for line in WHOLE.splitlines() if "=" in line] + ["[http]", "[[serial]]"]
)
VALUES = st.sampled_from(
    ["1", "-1", "1.5", "nan", "true", '"/x"', '""', "[]", "[[]]", "{}", "[{}]", "[1, 1]", '["::1"]', "07:32:00"]
)


@given(st.lists(st.tuples(st.sampled_from(["", "[http]", "[tcp]", "[[serial]]", "[[port_manager]]"]), KEYS, VALUES)))
def test_any_value_under_any_key_is_accepted_or_refused(lines: list[tuple[str, str, str]]) -> None:
    text = "\n".join(f"{head}\n{key} = {value}" for head, key, value in lines)
    match outcome(text.encode()):
        case Config() as made:
            assert isinstance(made.hardware, Hardware)
        case messages:
            assert all(": " in message and "\n" not in message for message in messages)
