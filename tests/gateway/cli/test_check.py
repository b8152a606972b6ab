"""``daisyport check``: what it looks into, what it calls an error, and that it changes nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.cli.command import built_in_uarts
from gateway.cli.main import main
from gateway.state import atomic_file
from gateway.state.users import Users
from tests.certificates import NOW, YEAR, Authority
from tests.helpers import free_port, lines

if TYPE_CHECKING:
    from collections.abc import Iterator


USERS = '[[port_manager]]\n[port_manager.tls]\nlisten = ["127.0.0.1:0"]\n'
"""The beginning of a port that is reached over TLS."""


def check(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Check a machine of this configuration, whose front door is at a port that is free where the text names none."""
    if "[http]" not in text:
        text += f'\n[http]\nlisten = ["127.0.0.1:{free_port()}"]'
    config = directory / "daisyport.toml"
    config.write_text(f'state_dir = "{directory}/state"\nruntime_dir = "{directory}/run"\n{text}\n')
    command = [sys.executable, "-m", "gateway", "check", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_machine_where_all_is_well_is_ok(tmp_path: Path) -> None:
    Users(tmp_path / "state", "cpu1").add("anna", "admin", "secret")
    with lines(tmp_path, 1) as (line,):
        done = check(tmp_path, f'[[serial]]\ndevice = "{line.path}"')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"Ser1: {line.path} (RS232)", "PortManager.P0: Ser1", "ok"]


def test_a_machine_that_was_never_started_is_ok_with_a_warning_and_nothing_is_made(tmp_path: Path) -> None:
    done = check(tmp_path, "")
    assert done.returncode == 0
    assert "Warning: no user can log in: add one with: daisyport user add NAME --role admin" in done.stdout
    assert done.stdout.endswith("\nok\n")
    assert os.listdir(tmp_path) == ["daisyport.toml"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            f'{USERS}client_ca = "/etc/passwd"',
            "port_manager[0].tls.client_ca: /etc/passwd: no PEM certificate in it (BEGIN CERTIFICATE)",
        ),
        (
            f'{USERS}client_ca = "/none.pem"',
            "port_manager[0].tls.client_ca: /none.pem cannot be read: No such file or directory",
        ),
        ('[http]\ntls_certificate = "/etc/passwd"', "http.tls_certificate: /etc/passwd: no PEM certificate in it"),
        (
            '[http]\nmetrics_token = "/etc/passwd"',
            "http.metrics_token: /etc/passwd can be read by others than its owner",
        ),
        ('[[serial]]\ndevice = "/etc/passwd"', "Ser1: /etc/passwd is no serial device"),
    ],
)
def test_what_cannot_work_is_an_error_and_apart_from_warnings(tmp_path: Path, text: str, error: str) -> None:
    done = check(tmp_path, text)
    assert done.returncode == os.EX_CONFIG
    assert done.stderr.startswith(f"Error: {error}")
    assert "Error" not in done.stdout
    assert "ok" not in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ('[http]\nlisten = ["192.0.2.1:8080"]', "http.listen: 192.0.2.1: Cannot assign requested address"),
        ('[tcp]\nbind = ["192.0.2.1"]', "tcp.bind: 192.0.2.1: Cannot assign requested address"),
        ('[http]\nlisten = ["127.0.0.1:443"]', "http.listen: the service may bind no port below 1024: 443"),
        ('[[serial]]\ndevice = "/dev/none"', "Ser1: /dev/none: No such file or directory"),
        *(
            (
                f'[[port_manager]]\n[port_manager.{table}]\nlisten = ["192.0.2.1:4001"]',
                f"port_manager[0].{table}.listen: 192.0.2.1: Cannot assign requested address",
            )
            for table in ("modbus_tcp", "rfc2217")
        ),
        (
            '[[port_manager]]\nlisten_only = ["192.0.2.1:4001"]',
            "port_manager[0].listen_only: 192.0.2.1: Cannot assign requested address",
        ),
    ],
)
def test_what_may_come_later_is_a_warning(tmp_path: Path, text: str, warning: str) -> None:
    done = check(tmp_path, text)
    assert done.returncode == 0
    assert f"Warning: {warning}" in done.stdout


@pytest.mark.parametrize(
    ("writers", "allowed", "warns"),
    [("last", "", True), ("last", "192.0.2.*", False), ("first", "", False), ("all", "", False)],
)
def test_a_port_that_whoever_connects_takes_over_is_warned_of(
    tmp_path: Path, writers: str, allowed: str, *, warns: bool
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    server = "PortManager.P0.GenericTCPServer"
    (state / "parameters").write_text(f"{server}.Enabled=yes\n{server}.AllowedIPAddresses={allowed}\n")
    done = check(tmp_path, f'[[port_manager]]\nwriters = "{writers}"')
    assert done.returncode == 0
    warning = 'Warning: port_manager[0].writers: with "last" each new client takes the line from the one before; '
    assert (warning in done.stdout) is warns


@pytest.mark.parametrize(
    ("rate", "turn", "warns"),
    [
        (9600, 'reply = "modbus-rtu"', False),
        (1200, 'reply = "modbus-rtu"', True),
        (9600, 'reply = "visca"\nreply_timeout_ms = 1500', True),
        (1200, 'reply = "none"', False),
    ],
)
def test_turns_that_make_commands_stale_are_warned_of(tmp_path: Path, rate: int, turn: str, *, warns: bool) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/parameters").write_text(f"Serial.Ser1.BaudRate={rate}\n")
    port = "[[port_manager]]\nserial = 1\n[port_manager.turn]\n"
    done = check(tmp_path, f'[[serial]]\ndevice = "/dev/none"\n{port}{turn}')
    assert done.returncode == 0, done.stderr
    warning = f"Warning: port_manager[0].turn: at {rate} bits a second one turn may take "
    assert (warning in done.stdout) is warns


def test_authorities_and_revocation_lists_that_are_out_of_date_are_warned_of(tmp_path: Path) -> None:
    authority, file = Authority("plant"), tmp_path / "clients.pem"
    config = f'[http]\nlisten = []\n{USERS}client_ca = "{file}"'
    file.write_bytes(authority.pem + authority.revoke([]))
    done = check(tmp_path, config)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Warning:") == 1
    assert "Warning: no user can log in: add one" in done.stdout
    old = authority.sign("a client on its own", end=NOW - YEAR / 2)[1].public_bytes(Encoding.PEM)
    file.write_bytes(authority.pem + old + authority.revoke([], end=NOW - YEAR / 2))
    told = check(tmp_path, config).stdout
    assert (
        f"Warning: port_manager[0].tls.client_ca: {file}: the certificate of CN=a client on its own has expired\n"
        in told
    )
    assert f"{file}: the revocation list of CN=plant has expired: no client of that authority is let in\n" in told


def test_modbus_tcp_on_a_line_without_turns_of_modbus_is_warned_of(tmp_path: Path) -> None:
    port = '[[serial]]\ndevice = "/dev/none"\n[[port_manager]]\nserial = 1\n'
    masters = '[port_manager.modbus_tcp]\nlisten = ["127.0.0.1:1502"]\n'
    warning = "Warning: port_manager[0].modbus_tcp: without turn.reply"
    assert warning in check(tmp_path, port + masters).stdout
    assert warning in check(tmp_path, f'{port}[port_manager.turn]\nreply = "visca"\n{masters}').stdout
    assert warning not in check(tmp_path, f'{port}[port_manager.turn]\nreply = "modbus-rtu"\n{masters}').stdout


def test_stored_parameters_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/parameters").write_text("root.Serial.Ser1.BaudRate=many\n")
    done = check(tmp_path, '[[serial]]\ndevice = "/dev/none"')
    assert f"Warning: {tmp_path}/state/parameters line 1: Serial.Ser1.BaudRate: must be one of" in done.stdout


def test_a_directory_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    done = check(tmp_path, "[http]\nlisten = []")
    assert f"Error: state_dir: {tmp_path}/state is no directory" in done.stderr


def test_a_log_in_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = check(tmp_path, f'[http]\nlisten = []\n[[port_manager]]\n[port_manager.log]\nfile = "{tmp_path}/no/P0.log"')
    assert f"Error: port_manager[0].log.file: {tmp_path}/no is no directory" in done.stderr


async def test_a_port_that_another_program_has_is_an_error_unless_it_is_our_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = f'[http]\nlisten = ["127.0.0.1:{taken.getsockname()[1]}"]'
        done = await trio.to_thread.run_sync(check, tmp_path, text)
        assert f"Error: http.listen: 127.0.0.1:{taken.getsockname()[1]} is taken by another program" in done.stderr
        (tmp_path / "state").mkdir()
        lock = atomic_file.claim(tmp_path / "state/lock")
        try:
            done = await trio.to_thread.run_sync(check, tmp_path, text)
        finally:
            os.close(lock)
    assert done.returncode == 0
    assert done.stdout.endswith("\nok, and running\n")


def test_uarts_of_the_board_are_those_that_a_driver_found(tmp_path: Path) -> None:
    for name, kind in (("ttyS0", "4"), ("ttyS1", "0"), ("ttyAMA0", "32")):
        folder = tmp_path / "sys/class/tty" / name
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"{kind}\n")
    assert built_in_uarts(tmp_path) == ["/dev/ttyAMA0", "/dev/ttyS0"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("run", "--tcp", "3000"), "--tcp requires --device"),
        (("run", "--device", "/dev/x", "--config", "/x"), "--device is for a machine without a configuration file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: tuple[str, ...], why: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *words], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert why in done.stderr


async def test_one_device_is_shared_over_tcp_without_a_configuration_file(short_path: Path) -> None:
    port = free_port()
    environ = os.environ | {"XDG_STATE_HOME": str(short_path), "XDG_RUNTIME_DIR": str(short_path)}
    with lines(short_path, 1) as (line,), trio.fail_after(30):
        command = [sys.executable, "-m", "gateway", "run", "--device", str(line.path), "--tcp", str(port)]
        process = await trio.lowlevel.open_process(command, env=environ, stdout=subprocess.DEVNULL)
        try:
            client = None
            while client is None:
                try:
                    client = await trio.open_tcp_stream("127.0.0.1", port)
                except OSError:
                    await trio.sleep(0.05)
            async with client:
                await client.send_all(b"shared")
                assert await line.hear(6) == b"shared"
        finally:
            process.terminate()
            assert await process.wait() == 0


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may look into, as /etc is; that of other tests is for their user alone."""
    with tempfile.TemporaryDirectory(prefix="daisyport-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


NOBODY = 65534


def check_as_nobody(config: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Check as another user, and return the exit status; ``capsys`` has what was printed."""
    main(["check", "--config", str(config)])  # it imports now what nobody may not read, under /root
    capsys.readouterr()
    os.seteuid(NOBODY)
    try:
        return main(["check", "--config", str(config)])
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_told_what_was_not_checked_for_him(public: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = public / "state"
    Users(state, "cpu1").add("anna", "admin", "secret")
    token = public / "token"
    token.write_text("a secret that is long enough for everybody")
    token.chmod(0o600)
    config = public / "daisyport.toml"
    http = f'[http]\nlisten = ["127.0.0.1:{free_port()}"]\nmetrics_token = "{token}"'
    config.write_text(f'state_dir = "{state}"\nruntime_dir = "{public}/run"\n{http}\n')
    status = check_as_nobody(config, capsys)
    told = capsys.readouterr()
    assert (status, told.err) == (0, "")
    for file in (token, state / "users", state / "parameters"):
        reason = "because this user may not read it; run the check as the gateway's user, or as root"
        wanted = f"Warning: {file} was not checked, {reason}\n"
        assert wanted in told.out
    assert told.out.endswith("\nok\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_what_the_gateways_own_user_may_not_read_is_an_error(public: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, token = public / "state", public / "token"
    Users(state, "cpu1").add("anna", "admin", "secret")
    os.chown(state, NOBODY, NOBODY)
    token.write_text("a secret that is long enough for everybody")
    token.chmod(0o600)
    config = public / "daisyport.toml"
    config.write_text(f'state_dir = "{state}"\nruntime_dir = "{public}/run"\n[http]\nmetrics_token = "{token}"\n')
    assert check_as_nobody(config, capsys) == os.EX_CONFIG
    assert f"Error: http.metrics_token: {token} cannot be read: Permission denied" in capsys.readouterr().err
