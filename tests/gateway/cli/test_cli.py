"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.cli.control import quoted
from gateway.cli.main import main
from tests.helpers import free_port, lines, own_the_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAISYPORT = [sys.executable, "-m", "gateway"]


def daisyport(*words: str | Path, stdin: str = "", home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environ = os.environ | ({"HOME": str(home), "XDG_STATE_HOME": str(home), "XDG_RUNTIME_DIR": ""} if home else {})
    return subprocess.run(
        [*DAISYPORT, *map(str, words)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
        env=environ,
        check=False,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "daisyport.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n'
        f'[http]\nlisten = ["127.0.0.1:{free_port()}"]\n[tcp]\nbind = ["127.0.0.1"]\n'
        f'[[serial]]\ndevice = "{tmp_path}/tty1"\n'
    )
    return path


def test_version() -> None:
    assert daisyport("--version").stdout == f"daisyport {version('daisyport')}\n"


def test_without_a_command_the_help_names_them_all() -> None:
    alone = daisyport()
    assert alone.returncode == 2
    assert alone.stdout == daisyport("--help").stdout
    assert all(command in alone.stdout for command in ("run", "check", "status", "demo", "keygen", "user"))


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (("run", "--colour"), "usage: daisyport run ["),
        (("user", "add", "anna", "--role", "admin", "--colour"), "usage: daisyport user add ["),
        (("status", "P0", "P1"), "usage: daisyport status ["),
    ],
)
def test_an_error_in_the_arguments_shows_the_usage_of_that_command(words: tuple[str, ...], usage: str) -> None:
    refused = daisyport(*words)
    assert refused.returncode == 2
    assert refused.stderr.startswith(usage)
    assert "unrecognized arguments" in refused.stderr


def test_keygen_prints_another_key_each_time() -> None:
    one, another = daisyport("keygen"), daisyport("keygen")
    assert one.returncode == 0
    assert len(one.stdout.splitlines()) == 1
    assert one.stdout != another.stdout


def test_a_reader_who_has_seen_enough_is_no_error_and_a_full_disk_is_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    for descriptor, status, told in (
        (write, 0, ""),
        (os.open("/dev/full", os.O_WRONLY), 1, "daisyport: standard output: No space left on device\n"),
    ):
        with open(descriptor, "w") as stdout, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stdout)
            assert main(["keygen"]) == status
        assert capfd.readouterr().err == told


def test_what_fails_otherwise_is_not_taken_for_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/shadow")

    monkeypatch.setattr("gateway.cli.keygen._keygen", fails)
    with pytest.raises(PermissionError):
        main(["keygen"])


def test_a_word_that_is_no_text_is_a_part_of_a_target_all_the_same() -> None:
    assert quoted("P0/ \u00e9\udcff?") == "P0%2F%20%C3%A9%3F%3F"


def test_a_command_that_is_interrupted_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.remote_port.keygen.strong_key", interrupted)
    assert main(["keygen"]) == 130
    assert capfd.readouterr() == ("", "")


def test_a_name_that_the_terminal_cannot_show_is_spelled_out(config: Path) -> None:
    config.write_text('node_name = "blåde"\n' + config.read_text().replace("tty1", "ttyä"))
    environ = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [*DAISYPORT, "check", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, timeout=20, check=False, env=environ)
    assert (done.returncode, rb"tty\xe4 (RS232)" in done.stdout) == (0, True), done


def test_check_tells_what_the_configuration_means(config: Path) -> None:
    checked = daisyport("check", "--config", config)
    assert checked.returncode == 0
    assert checked.stdout.splitlines()[:2] == [f"Ser1: {config.parent}/tty1 (RS232)", "PortManager.P0: Ser1"]


def test_check_warns_of_names_that_do_not_stay_and_of_two_for_one_device(config: Path) -> None:
    link = config.parent / "usb-FTDI"
    link.symlink_to("/dev/ttyUSB9")
    with config.open("a") as file:  # behind the one it has, whose name stays
        file.write(f'[[serial]]\ndevice = "{link}"\n[[serial]]\ndevice = "/dev/ttyUSB9"\n')
    checked = daisyport("check", "--config", config)
    assert checked.returncode == 0
    assert [line for line in checked.stdout.splitlines() if "adapter" in line or "one device" in line] == [
        (
            "Warning: Ser3: /dev/ttyUSB9 is whichever adapter was plugged in first; "
            "name it by its link in /dev/serial/by-id, or in /dev/serial/by-path"
        ),
        f"Warning: Ser2 and Ser3 are one device: {link} and /dev/ttyUSB9",
    ]


def test_check_says_so_where_there_is_no_port(config: Path) -> None:
    config.write_text("")
    assert "No port: add a [[serial]] table" in daisyport("check", "--config", config).stdout


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_bad_configuration_is_told_key_by_key_without_a_traceback(config: Path, command: str) -> None:
    with config.open("a") as file:
        file.write('modes = ["RS232", "RS484"]\nbaud = 9600\n')
    refused = daisyport(command, "--config", config)
    assert refused.returncode == os.EX_CONFIG
    assert "serial[0].modes[1]: RS484 is not one of RS232, RS485, RS485_4, RS422" in refused.stderr
    assert "serial[0].baud" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_state_directory_that_cannot_be_used_is_told_in_one_line(config: Path) -> None:
    (config.parent / "state").write_text("a file")
    refused = daisyport("run", "--config", config)
    assert refused.returncode == 1
    assert f"{config.parent}/state" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_runtime_directory_that_cannot_be_made_is_told_in_one_line(config: Path) -> None:
    (config.parent / "run").write_text("a file")
    refused = daisyport("run", "--config", config)
    assert refused.returncode == 1
    why = "cannot be made, and the PTZ sockets are to be in it: File exists"
    assert refused.stderr == f"daisyport: runtime_dir {config.parent}/run {why}\n"


def test_a_user_is_added_with_a_password_from_a_pipe(config: Path) -> None:
    added = daisyport("user", "add", "anna", "--role", "operator", "--config", config, stdin="secret\n")
    assert added.returncode == 0
    users = config.parent / "state" / "users"
    assert "anna:operator:" in users.read_text()
    assert "secret" not in users.read_text()
    assert stat.S_IMODE(users.stat().st_mode) == 0o600


def test_users_are_listed_given_another_password_and_removed(config: Path) -> None:
    def users(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return daisyport("user", *words, "--config", config, stdin=stdin)

    assert users("list").stdout == ""
    for name, role in (("zoe", "viewer"), ("anna", "admin")):
        assert users("add", name, "--role", role, stdin="secret\n").stdout == f"{name} may log in as {role}.\n"
    assert users("list").stdout == "admin     anna\nviewer    zoe\n"
    stored = config.parent / "state" / "users"
    before = stored.read_text()
    assert users("passwd", "zoe", stdin="another\n").stdout == "zoe has a new password.\n"
    (changed,) = set(stored.read_text().splitlines()) - set(before.splitlines())
    assert changed.startswith("zoe:")
    assert users("remove", "anna").stdout == "anna cannot log in any more.\n"
    assert users("list").stdout == "viewer    zoe\n"


@pytest.mark.parametrize(
    ("words", "stdin", "error"),
    [
        (["add", "anna", "--role", "viewer"], "x\n", "anna is already a user; use daisyport user passwd to change"),
        (["passwd", "bob"], "x\n", "'bob' is not a user; daisyport user list prints the users"),
        (["remove", "bob"], "", "'bob' is not a user of"),
        (["passwd", "anna"], "", "a password has 1 to 1024 characters"),
        (["passwd", "anna"], "\ttab\n", "a password has 1 to 1024 characters, and no control character"),
    ],
)
def test_what_cannot_be_done_with_a_user_changes_nothing(
    config: Path, words: list[str], stdin: str, error: str
) -> None:
    daisyport("user", "add", "anna", "--role", "operator", "--config", config, stdin="secret\n")
    stored = config.parent / "state" / "users"
    before = stored.read_bytes()
    refused = daisyport("user", *words, "--config", config, stdin=stdin)
    assert refused.returncode == 1
    assert error in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert stored.read_bytes() == before


def test_a_password_is_no_argument(config: Path) -> None:
    refused = daisyport("user", "passwd", "anna", "secret", "--config", config, stdin="secret\n")
    assert refused.returncode == 2


def typed(config: Path, *words: str, answers: Sequence[bytes]) -> tuple[int, bytes]:
    """Run a command on a terminal of its own, and type an answer at each question; its status, and all it showed."""
    near, far = pty.openpty()
    command = [*DAISYPORT, *words, "--config", str(config)]
    environ = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}  # as in a locale that is not C
    process = subprocess.Popen(
        command,
        stdin=far,
        stdout=far,
        stderr=far,
        start_new_session=True,
        preexec_fn=own_the_terminal,
        env=environ,
    )
    deadline = threading.Timer(20, process.kill)
    deadline.start()
    os.close(far)
    shown = b""
    asked = 0
    with contextlib.suppress(OSError):  # EIO: the terminal has no other end any more
        while piece := os.read(near, 1000):
            shown += piece
            if shown.count(b": ") > asked and asked < len(answers):
                os.write(near, answers[asked])
                asked += 1
    os.close(near)
    status = process.wait(timeout=20)
    deadline.cancel()
    return status, shown


def test_a_password_is_asked_for_twice_and_never_shown(config: Path) -> None:
    add = ("user", "add", "anna", "--role", "admin")
    status, shown = typed(config, *add, answers=[b"secret\n", b"secret\n"])
    assert (status, shown) == (0, b"Password for anna: \r\nOnce more: \r\nanna may log in as admin.\r\n")


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([b"secret\n", b"secert\n"], b"the two passwords differ; nothing was changed"),
        ([b"\x04"], b"no password was given; nothing was changed"),
        ([b"secret\x03"], b"no password was given; nothing was changed"),
        ([b"\xff\n"], b"the password is not valid utf-8; nothing was changed"),
    ],
)
def test_a_password_that_was_not_typed_well_changes_nothing(config: Path, answers: list[bytes], error: bytes) -> None:
    status, shown = typed(config, "user", "add", "anna", "--role", "admin", answers=answers)
    assert status == 1
    assert error in shown
    assert b"Traceback" not in shown
    assert b"secret" not in shown
    assert daisyport("user", "list", "--config", config).stdout == ""


def test_what_is_no_user_is_told_without_a_traceback(config: Path) -> None:
    refused = daisyport("user", "add", "an:na", "--role", "admin", "--config", config, stdin="secret\n")
    assert refused.returncode == 1
    assert "colon" in refused.stderr
    assert daisyport("user", "add", "x", "--role", "king", "--config", config, stdin="x\n").returncode == 2


def test_without_a_configuration_it_says_what_it_takes_and_keeps_its_state_at_home(tmp_path: Path) -> None:
    checked = daisyport("check", home=tmp_path)
    assert checked.returncode == 0
    assert checked.stdout.startswith("No configuration file: using the USB serial adapters")
    assert f"State: {tmp_path}/daisyport" in checked.stdout
    added = daisyport("user", "add", "anna", "--role", "admin", home=tmp_path, stdin="secret\n")
    assert added.returncode == 0
    assert (tmp_path / "daisyport" / "users").exists()


async def run_daemon(nursery: trio.Nursery, config: Path) -> trio.Process:
    run = functools.partial(trio.run_process, stderr=subprocess.PIPE, check=False)
    process: trio.Process = await nursery.start(run, [*DAISYPORT, "run", "--config", str(config)])
    return process


async def started(process: trio.Process, text: bytes) -> None:
    assert process.stderr is not None
    said = b""
    while text not in said:
        piece = await process.stderr.receive_some()
        assert piece, said
        said += piece


async def test_it_runs_until_sigterm_and_a_hang_up_does_not_end_it(config: Path) -> None:
    with lines(config.parent, 1), trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            process = await run_daemon(nursery, config)
            await started(process, b"P0 Ser1: up")
            process.send_signal(signal.SIGHUP)
            await started(process, b"SHA-256 fingerprint")  # read again
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


async def test_a_configuration_that_never_comes_to_its_end_does_not_keep_it_from_obeying_sigterm(config: Path) -> None:
    with lines(config.parent, 1), trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            process = await run_daemon(nursery, config)
            await started(process, b"P0 Ser1: up")
            os.unlink(config)
            os.mkfifo(config)  # as a file on a server that does not answer
            process.send_signal(signal.SIGHUP)
            while True:
                with contextlib.suppress(OSError):  # nobody reads it yet
                    writer = os.open(config, os.O_WRONLY | os.O_NONBLOCK)
                    break
                await trio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            os.close(writer)


async def said_at_the_end(config: Path, notify: Path, expression: str) -> str:
    """Run the gateway until it is ready, end it, and return what it printed, at its end the value of an expression."""
    watched = config.with_name("watched.py")
    watched.write_text(
        "import atexit, gc, sys\n"
        f"atexit.register(lambda: print({expression}, file=sys.stderr))\n"
        "from gateway.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    environ = os.environ | {"NOTIFY_SOCKET": str(notify)}
    run = functools.partial(trio.run_process, stderr=subprocess.PIPE, check=False, env=environ)
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, lines(config.parent, 1), trio.fail_after(20):
        await manager.bind(str(notify))
        async with trio.open_nursery() as nursery:
            process = await nursery.start(run, [sys.executable, str(watched), "run", "--config", str(config)])
            while b"READY=1" not in await manager.recv(4096):
                pass
            process.send_signal(signal.SIGTERM)
            return b"".join([piece async for piece in process.stderr]).decode()


async def test_what_the_start_has_made_is_left_out_of_garbage_collections(config: Path, short_path: Path) -> None:
    count = "'frozen', gc.get_freeze_count(), 'left', len(gc.get_objects())"
    said = await said_at_the_end(config, short_path / "notify", count)
    frozen, left = (int(number) for number in re.findall(r"frozen (\d+) left (\d+)", said)[0])
    assert left < 3000 < frozen


UNASKED = (
    # What only some configurations use.
    "gateway.chain gateway.tls_logins gateway.demo gateway.remote_port protocol.session protocol.telnet"
    " gateway.clients.tls gateway.clients.tls_stream gateway.clients.rfc2217 gateway.clients.modbus_tcp"
    " gateway.clients.tty gateway.clients.tty_stream gateway.clients.pty gateway.clients.line_log"
    # What is loaded for whoever asks.
    " gateway.web.websocket gateway.web.openmetrics gateway.web.trace gateway.discovery.pairing gateway.host.ser2net"
    " gateway.state.backup"
    # What others bring along. cryptography is loaded once in a gateway's life, to make its certificate.
    " zeroconf trio_websocket wsproto prometheus_client yaml rich importlib.resources"
)
"""Modules, and packages with all that is in them, that a gateway with one serial port does not load."""


async def test_a_gateway_with_one_port_has_loaded_nothing_that_nobody_asked_for(config: Path, short_path: Path) -> None:
    said = await said_at_the_end(config, short_path / "notify", "'loaded', *sys.modules")
    (names,) = (line.split() for line in re.findall(r"(?m)^loaded (.*)$", said))
    assert "gateway.web.server" in names
    assert {name for name in names if name.startswith("gateway.cli.")} == {
        "gateway.cli.command",
        "gateway.cli.main",
        "gateway.cli.run",
    }
    packages = set(UNASKED.split())
    assert all(importlib.util.find_spec(name) for name in packages if name.startswith(("gateway.", "protocol.")))
    assert not [name for name in names if packages & {name, *parents(name)}]


def parents(name: str) -> list[str]:
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words))]


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["keygen"]])
def test_no_configuration_is_read_or_loaded_for_a_command_that_needs_none(words: list[str]) -> None:
    code = (
        "import atexit, sys; from gateway.cli.main import main; "
        "atexit.register(lambda: print('loaded', *sys.modules, file=sys.stderr)); main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=20, check=True)
    names = done.stderr.partition("loaded ")[2].split()
    assert "gateway.cli.main" in names
    unread = {"gateway.host.config", "gateway.host.config_file", "protocol.parameters.settings", "protocol.frozen"}
    assert not unread & {*names}


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_descriptors_that_were_closed_are_dev_null_and_no_port_gets_their_number(config: Path, closed: str) -> None:
    with lines(config.parent, 1):
        command = f"exec {sys.executable} -m gateway run --config {config} {closed}"
        process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not (config.parent / "run/control/http.sock").exists():
                assert process.poll() is None
                time.sleep(0.05)
            for number in range(3):
                assert os.readlink(f"/proc/{process.pid}/fd/{number}") == "/dev/null"
        finally:
            process.terminate()
            assert process.wait(10) == 0


async def test_sigusr1_shows_the_stacks_and_ends_nothing(config: Path) -> None:
    with lines(config.parent, 1), trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            process = await run_daemon(nursery, config)
            await started(process, b"P0 Ser1: up")
            for _ in range(100):
                process.send_signal(signal.SIGUSR1)
            await started(process, b"SIGUSR1: the stacks of all threads:")
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


def test_a_daemon_started_with_nohup_outlives_its_terminal_and_another_ends_with_it(config: Path) -> None:
    with lines(config.parent, 1):
        assert hung_up(config, ignore=True) is None
        assert hung_up(config, ignore=False) == 0


def hung_up(config: Path, *, ignore: bool) -> int | None:
    """Run a daemon on a terminal of its own and close the terminal; return its status, None if it goes on."""
    near, far = pty.openpty()

    def prepare() -> None:
        own_the_terminal()
        if ignore:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [*DAISYPORT, "run", "--config", str(config)]
    process = subprocess.Popen(command, stdin=far, stdout=far, stderr=far, start_new_session=True, preexec_fn=prepare)
    try:
        os.close(far)
        shown = b""
        while b"P0 Ser1: up" not in shown:
            shown += os.read(near, 1000)
        os.close(near)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(2 if ignore else 10)
        return None
    finally:
        process.terminate()
        process.wait(10)


async def test_a_second_daemon_on_the_same_state_is_refused(config: Path) -> None:
    with lines(config.parent, 1), trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            process = await run_daemon(nursery, config)
            await started(process, b"P0 Ser1: up")
            second = await trio.to_thread.run_sync(lambda: daisyport("run", "--config", config))
            assert second.returncode == 1
            assert "in use by another daisyport" in second.stderr
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0


def test_a_name_that_clients_cannot_send_is_refused_and_one_that_is_not_ascii_is_warned_of(config: Path) -> None:
    def add(name: str) -> subprocess.CompletedProcess[str]:
        return daisyport("user", "add", name, "--role", "viewer", "--config", config, stdin="secret\n")

    for name in ("CORP\\anna", 'an"na', "an:na"):
        refused = add(name)
        assert refused.returncode == 1
        assert "cannot be a name" in refused.stderr
    warned = add("järvi")
    assert warned.returncode == 0
    assert "the name is not ASCII: clients that send it as ISO 8859-1 in Digest" in warned.stderr
    assert add("anna").stderr == ""


def test_a_user_is_bound_to_ports_that_there_are_and_listed_with_them(config: Path) -> None:
    with config.open("a") as more:
        more.write(f'[[serial]]\ndevice = "{config.parent}/tty2"\n')

    def users(*words: str) -> subprocess.CompletedProcess[str]:
        return daisyport("user", *words, "--config", config, stdin="secret\n")

    added = users("add", "anna", "--role", "operator", "--ports", "P1, P0")
    assert added.stdout == "anna may log in as operator of P0, P1 only.\n"
    assert users("add", "bob", "--role", "viewer", "--ports", "P1").returncode == 0
    assert users("add", "zoe", "--role", "viewer").returncode == 0
    assert users("list").stdout == "operator  anna  P0,P1\nviewer    bob  P1\nviewer    zoe\n"
    for ports in ("P2", "", "P0,", "p0", "P00", "all"):
        refused = users("add", "carl", "--role", "viewer", "--ports", ports)
        assert refused.returncode == 1
        assert "is not one of P0, P1" in refused.stderr
    assert "carl" not in users("list").stdout
