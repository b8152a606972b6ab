"""The README's service chapter, word for word, and what the service does after that, good days and bad ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.systemd.machine import ROOT, booted, wheels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.systemd.machine import Machine

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="systemd-nspawn is not installed"),
]

PASSWORD = "correct horse"
CONFIG = "/etc/daisyport/daisyport.toml"
LINE = '[[serial]]\ndevice = "/dev/ttyV0"\n'
CURL = f"curl -sS -g --max-time 10 --digest -u 'anna:{PASSWORD}'"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which somebody has just followed the README's chapter, and then named a line that is there."""
    chapter = (ROOT / "README.md").read_text().partition("## As a service")[2]
    block = re.search(r"To install:\n\n```\n(.*?)```", chapter, re.DOTALL)
    assert block is not None
    with booted(wheels(tmp_path_factory.mktemp("wheels"))) as machine:
        machine.run(f"printf '%s\\n' '{PASSWORD}' > /run/password")
        machine.run(f"set -e; exec < /run/password; {block[1]}", seconds=240)
        yield machine


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    """The service with one line that says back what it is told, freshly started with nothing but defaults."""
    machine.run("systemd-run --quiet --unit=far-end python3 /src/tests/systemd/far_end.py /dev/ttyV0")
    machine.write(CONFIG, LINE)
    machine.run(
        "rm -rf /etc/systemd/system/daisyport.service.d /var/lib/daisyport/parameters*; systemctl daemon-reload"
    )
    machine.run("systemctl restart daisyport")
    yield machine
    machine.run("systemctl stop daisyport far-end; systemctl reset-failed", check=False)


def main_process(machine: Machine) -> str:
    return machine.says("systemctl show -p MainPID --value daisyport")


def with_settings(machine: Machine, *settings: str) -> None:
    """Start the service again with settings of the unit, and the faults at SIGUSR2."""
    machine.run("mkdir -p /faults && cp /src/tests/systemd/faults.py /faults/sitecustomize.py")
    lines = "\n".join(["[Service]", "Environment=PYTHONPATH=/faults", *settings])
    machine.write("/etc/systemd/system/daisyport.service.d/test.conf", lines)
    machine.run("systemctl daemon-reload && systemctl restart daisyport")


def status(machine: Machine, url: str = "http://127.0.0.1:8080") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.run(f"{CURL} {url}/daisyport/status").stdout)
    return found


def param(machine: Machine, query: str) -> str:
    return machine.says(f"{CURL} 'http://127.0.0.1:8080/axis-cgi/param.cgi?{query}'")


def open_tcp(machine: Machine) -> None:
    server = "PortManager.P0.GenericTCPServer."
    query = f"{server}Enabled=yes&{server}Listener.Enabled=yes&{server}Listener.Port=3000"
    assert param(machine, f"action=update&{query}") == "OK"


def test_the_readme_leaves_a_service_that_is_ready_and_says_what_is_wrong(machine: Machine) -> None:
    assert machine.says("systemctl is-active daisyport") == "active"
    assert machine.says("systemctl is-enabled daisyport") == "enabled"
    device = re.findall(r'(?m)^device = "(.*?)"', (ROOT / "systemd/daisyport.toml").read_text())[0]
    wanted = f": 0 of 1 ports up; P0: {device}: there is no such device; is it plugged in?"
    machine.until("systemctl show -p StatusText --value daisyport", lambda words: words.endswith(wanted))


def test_the_status_text_follows_the_line(service: Machine) -> None:
    show = "systemctl show -p StatusText --value daisyport"
    service.until(show, lambda words: words.endswith(": 1 of 1 ports up"))
    service.run("systemctl stop far-end")
    service.until(show, lambda words: ": 0 of 1 ports up; P0: /dev/ttyV0" in words)


def test_a_good_reload_says_what_waits_and_a_broken_one_fails_and_changes_nothing(service: Machine) -> None:
    process = main_process(service)
    service.write(CONFIG, LINE + '[http]\norigins = ["https://serial.example"]\n[video]\nsources = 2\n')
    service.run("systemctl reload daisyport")
    service.until("journalctl -o cat -u daisyport -n 30", lambda log: "at the next start: video.sources" in log)
    assert "now: the TLS certificate, http.origins" in service.log()
    assert status(service)["configuration"] == {"errors": [], "at_next_start": ["video.sources"]}
    service.write(CONFIG, LINE + "mode = 5\n")
    broken = service.run("systemctl reload daisyport", check=False)
    assert broken.returncode != 0
    assert "no such key; did you mean modes?" in service.log()
    service.run(f"kill -HUP {process}")  # as one may who does not use systemctl
    service.until("journalctl -o cat -u daisyport -n 30", lambda log: "the configuration in force stays" in log)
    assert status(service)["configuration"]["errors"] == ["serial[0].mode: no such key; did you mean modes?"]
    assert main_process(service) == process


def test_the_log_has_a_priority_on_each_line(service: Machine) -> None:
    service.write(CONFIG, LINE + "mode = 5\n")
    assert service.run("systemctl restart daisyport", check=False).returncode != 0
    errors = service.says("journalctl -o cat -p err -u daisyport -n 5")
    assert "serial[0].mode: no such key" in errors
    assert "P0 Ser1: up" not in errors


def test_a_loop_that_hangs_is_ended_by_the_watchdog_and_its_stacks_are_in_the_log(service: Machine) -> None:
    with_settings(service, "WatchdogSec=6", "RestartSec=1")
    process = main_process(service)
    service.run(f"echo loop > /run/fault && kill -USR2 {process}")
    service.until("systemctl show -p MainPID --value daisyport", lambda pid: pid not in (process, "0"))
    service.until("systemctl is-active daisyport", lambda state: state == "active")
    stacks = service.until(
        "journalctl -o cat -p err -u daisyport -n 60", lambda log: "the stacks of the run before" in log
    )
    assert "in hang_in_the_loop" in stacks


def test_a_manager_that_hangs_is_restarted_and_the_process_goes_on(service: Machine) -> None:
    with_settings(service, "WatchdogSec=30")
    process = main_process(service)
    service.run(f"echo manager > /run/fault && kill -USR2 {process}")
    param(service, "action=update&PortManager.P0.SerialCGI.Enabled=yes")
    service.until("journalctl -o cat -p err -u daisyport -n 60", lambda log: "did not answer for 5 s" in log)
    service.until("systemctl show -p StatusText --value daisyport", lambda words: words.endswith(": 1 of 1 ports up"))
    assert main_process(service) == process
    # The change that met the hang was not in force in time, so it was put back; the next one is.
    assert param(service, "action=update&PortManager.P0.SerialCGI.Enabled=yes") == "OK"
    assert "service SerialCGI" in status(service)["ports"][0]["services"]


def test_a_process_that_is_stopped_is_ended_and_started_again(service: Machine) -> None:
    with_settings(service, "WatchdogSec=4", "RestartSec=1", "TimeoutStopSec=2", "TimeoutAbortSec=2")
    process = main_process(service)
    service.run(f"kill -STOP {process}")
    service.until("systemctl show -p MainPID --value daisyport", lambda pid: pid not in (process, "0"))
    service.until("systemctl is-active daisyport", lambda state: state == "active")


def test_after_kill_9_it_comes_back_with_the_same_parameters(service: Machine) -> None:
    with_settings(service, "RestartSec=1")
    open_tcp(service)
    before = param(service, "action=list&group=PortManager")
    process = main_process(service)
    service.run(f"kill -9 {process}")
    service.until("systemctl show -p MainPID --value daisyport", lambda pid: pid not in (process, "0"))
    service.until("systemctl is-active daisyport", lambda state: state == "active")
    assert param(service, "action=list&group=PortManager") == before
    assert "GenericTCPServer.Listener.Port=3000" in before
    assert service.says("printf ask | timeout 3 nc -N 127.0.0.1 3000") == "ask"


def test_a_stop_is_over_in_four_seconds_though_the_line_is_stuck_and_twenty_clients_write(service: Machine) -> None:
    service.run("systemctl stop far-end")
    service.run("systemd-run --quiet --unit=far-end python3 /src/tests/systemd/far_end.py /dev/ttyV0 mute")
    service.until("systemctl show -p StatusText --value daisyport", lambda words: words.endswith(": 1 of 1 ports up"))
    open_tcp(service)
    clients = "for n in $(seq 20); do (exec 3<>/dev/tcp/127.0.0.1/3000; exec cat /dev/zero >&3) & done; sleep 60"
    service.run(f"systemd-run --quiet --unit=clients bash -c '{clients}'")
    service.until(
        f"{CURL} http://127.0.0.1:8080/daisyport/status | grep -o GenericTCPServer | wc -l", lambda n: int(n) > 20
    )
    service.run("systemctl stop daisyport", seconds=8)
    assert service.says("systemctl show -p Result --value daisyport") == "success"
    log = service.log("-o short-unix")
    began, ended = (float(re.findall(rf"(?m)^([\d.]+) .*{text}", log)[-1]) for text in (r"stopping$", "Stopped"))
    assert ended - began < 4.5
    service.run("systemctl stop clients", check=False)


def test_a_full_disk_at_the_first_start_is_a_state_and_no_loop(service: Machine) -> None:
    service.run("systemctl stop daisyport && mount -t tmpfs -o size=64k tmpfs /var/lib/daisyport")
    try:
        service.run("chown daisyport: /var/lib/daisyport; head -c 1M /dev/zero > /var/lib/daisyport/full || true")
        service.run("systemctl start daisyport")
        service.until("systemctl show -p StatusText --value daisyport", lambda words: ": 1 of 1 ports up" in words)
        assert "No space left on device; its id is not kept" in service.says(
            "journalctl -o cat -p err -u daisyport -n 9"
        )
        assert service.says("systemctl show -p NRestarts --value daisyport") == "0"
    finally:
        service.run("systemctl stop daisyport; umount -l /var/lib/daisyport")


def test_two_instances_run_side_by_side_and_share_nothing(service: Machine) -> None:
    service.run("cp /src/systemd/daisyport@.service /etc/systemd/system/ && systemctl daemon-reload")
    service.write("/etc/daisyport/b.toml", '[http]\nlisten = ["127.0.0.1:8081"]\n[[port_manager]]\n')
    service.run("systemctl start daisyport@b")
    assert service.says("ls -d /run/daisyport-b/runtime.lock /var/lib/daisyport-b/lock") != ""
    add = f"printf '%s\\n' '{PASSWORD}' | STATE_DIRECTORY=/var/lib/daisyport-b /opt/daisyport/bin/daisyport user add"
    service.run(f"{add} anna --role admin --config /etc/daisyport/b.toml")
    assert status(service, "http://127.0.0.1:8081")["ports"][0]["serial_port"] is None
    service.run("systemctl stop daisyport@b")
    assert status(service)["ports"][0]["state"] == "up"


def test_a_second_daemon_on_the_same_runtime_directory_is_refused(service: Machine) -> None:
    service.write("/etc/daisyport/c.toml", 'state_dir = "/tmp/c"\nruntime_dir = "/run/daisyport"\n[[port_manager]]\n')
    refused = service.run("/opt/daisyport/bin/daisyport run --config /etc/daisyport/c.toml", check=False)
    assert refused.stdout.endswith(
        "daisyport: runtime_dir /run/daisyport is in use by another daisyport: give this one its own\n"
    )


def test_a_port_below_1024_is_refused_with_the_reason(service: Machine) -> None:
    service.write(CONFIG, LINE + '[http]\nlisten = ["127.0.0.1:80"]\n')
    service.run("systemctl restart daisyport")
    why = "HTTP server 127.0.0.1:80: Permission denied: the service may bind no port below 1024"
    service.until("systemctl show -p StatusText --value daisyport", lambda words: why in words)


def test_sockets_of_systemd_serve_a_port_that_the_daemon_may_not_bind(service: Machine) -> None:
    service.run("cp /src/systemd/daisyport.socket /etc/systemd/system/ && systemctl daemon-reload")
    service.run("systemctl stop daisyport && systemctl start daisyport.socket && systemctl start daisyport")
    assert status(service, "http://127.0.0.1:80")["ports"][0]["name"] == "P0"
    assert status(service, "http://[::1]:80")["ports"][0]["name"] == "P0"
    assert service.run(f"{CURL} http://127.0.0.1:8080/", check=False).returncode == 7
    service.run("systemctl stop daisyport.socket daisyport && rm /etc/systemd/system/daisyport.socket")


def test_the_sandbox_from_inside_has_the_state_and_the_line_and_nothing_else(service: Machine) -> None:
    process = main_process(service)
    inside = f"nsenter -t {process} -m -- setpriv --reuid=daisyport --regid=daisyport --groups=dialout"
    assert service.says(f"{inside} sh -c 'touch /var/lib/daisyport/x /run/daisyport/x && echo yes'") == "yes"
    for place in ("/etc", "/usr", "/opt/daisyport", "/var/lib", "/home", "/dev/shm", "/root"):
        assert service.run(f"{inside} touch {place}/x", check=False).returncode != 0, place
    assert service.run(f"{inside} ls /dev/shm", check=False).returncode != 0
    facts = dict(line.split(":\t") for line in service.says(f"cat /proc/{process}/status").splitlines())
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert {facts[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
    assert Path(f"/proc/{process}").exists() or facts["Name"] in ("daisyport", "python3")


TTY = "/run/daisyport/tty-P0"
SAY = f"exec 3<>{TTY}; printf hello >&3; timeout 10 head -c 5 <&3"


def test_a_tty_for_programs_is_there_within_the_sandbox(service: Machine) -> None:
    service.write(CONFIG, LINE + f'[[port_manager]]\nserial = 1\n[port_manager.tty]\npath = "{TTY}"\nmode = 0o640\n')
    service.run("systemctl restart daisyport")
    service.until(f"stat -Lc %a {TTY}", lambda mode: mode == "640")
    assert service.says(f"bash -c '{SAY}'") == "hello"
    service.run("systemctl stop daisyport")
    assert service.run(f"test -L {TTY}", check=False).returncode != 0


def test_a_tty_gets_a_group_of_the_services_own_where_a_drop_in_lets_it(service: Machine) -> None:
    tty = f'[port_manager.tty]\npath = "{TTY}"\nmode = 0o660\ngroup = "dialout"\n'
    service.write(CONFIG, f"{LINE}[[port_manager]]\nserial = 1\n{tty}")
    service.run("systemctl restart daisyport")
    refused = "needs SystemCallFilter=@chown, to give the tty the group 'dialout'"
    service.until("journalctl -u daisyport -n 50 -o cat", lambda log: refused in log)
    with_settings(service, "SystemCallFilter=@chown")
    service.until(f"stat -Lc %G {TTY}", lambda group: group == "dialout")
    member = "setpriv --reuid=nobody --regid=nogroup --groups=dialout"
    assert service.says(f"{member} bash -c '{SAY}'") == "hello"


PROGRAM = f"""
import os, sys, termios
tty = os.open("{TTY}", os.O_RDWR | os.O_NOCTTY)
settings = termios.tcgetattr(tty)
settings[4] = settings[5] = termios.B19200
termios.tcsetattr(tty, termios.TCSANOW, settings)
os.mkfifo("/run/ask")
os.mkfifo("/run/answer")
while True:
    with open("/run/ask", "rb") as asked:
        data = asked.read()
    os.write(tty, data)
    answer = b""
    while len(answer) < len(data) and data != b"stale":
        if not (heard := os.read(tty, 100)):
            sys.exit()
        answer += heard
    with open("/run/answer", "wb") as answered:
        answered.write(answer + b" over")
"""


def test_a_program_keeps_its_tty_over_a_restart_and_a_kill_until_the_configuration_has_it_no_more(
    service: Machine,
) -> None:
    held = f'{LINE}[[port_manager]]\nserial = 1\n[port_manager.tty]\npath = "{TTY}"\nconfigure = true\n'
    service.write(CONFIG, held)
    service.run("systemctl restart daisyport")
    service.until(f"test -L {TTY} && echo yes", bool)
    service.write("/run/program.py", PROGRAM)
    service.run("rm -f /run/ask /run/answer; systemd-run --quiet --unit=program python3 /run/program.py")
    service.until("test -p /run/answer && echo yes", bool)

    def said(what: str) -> str:
        return service.says(f"printf {what} > /run/ask; timeout 10 cat /run/answer")

    assert said("hello") == "hello over"
    slave = service.says(f"readlink {TTY}")
    service.run("systemctl restart daisyport")
    assert service.says(f"readlink {TTY}") == slave
    assert said("again") == "again over"
    assert status(service)["ports"][0]["settings_in_force"]["BaudRate"] == 19200
    # What is written while nobody reads is not said to the line later, and counted.
    process = main_process(service)
    service.run(f"kill -STOP {process}")
    assert said("stale") == "over"
    service.run(f"kill -KILL {process}; systemctl restart daisyport")
    assert said("fresh") == "fresh over"
    (client,) = (client for client in status(service)["ports"][0]["clients"] if client["service"] == "Tty")
    assert (client["dropped"], client["written"]) == (5, 5)
    assert service.says("systemctl show -p NFileDescriptorStore --value daisyport") == "1"
    service.write(CONFIG, LINE)
    service.run("systemctl restart daisyport; rm -f /run/ask")
    service.until("systemctl show -p NFileDescriptorStore --value daisyport", lambda count: count == "0")
    service.run("systemctl stop program", check=False)


@pytest.mark.parametrize(
    ("command", "ready"),
    [
        pytest.param(
            f"{command} {TTY}",
            ready,
            marks=pytest.mark.skipif(shutil.which(command.split()[0]) is None, reason="it is not installed"),
            id=command.split()[0],
        )
        for command, ready in (
            ("picocom -r -b 19200", "Terminal ready"),
            ("minicom -o -8 -b 19200 -D", "Welcome to minicom"),
        )
    ],
)
def test_a_terminal_program_goes_on_over_a_restart_and_a_kill(service: Machine, command: str, ready: str) -> None:
    service.write(CONFIG, f'{LINE}[[port_manager]]\nserial = 1\n[port_manager.tty]\npath = "{TTY}"\nconfigure = true\n')
    service.run("systemctl restart daisyport")
    service.until(f"test -L {TTY} && echo yes", bool)
    # script(1) is its keyboard and its screen.
    service.write("/run/terminal", f"exec 3<>/run/keys\nexec script -qfc '{command}' /run/screen <&3\n")
    service.run("rm -f /run/keys /run/screen; mkfifo /run/keys")
    service.run("systemd-run --quiet --unit=terminal -E TERM=vt100 bash /run/terminal")

    def shows(word: str) -> None:
        service.until("cat /run/screen", lambda shown: word in shown)

    def types(word: str) -> None:
        """Have it say a word to the line, which says it back."""
        service.run(f"printf {word} > /run/keys")
        shows(word)

    shows(ready)
    types("before")
    service.run("systemctl restart daisyport")
    types("again")
    service.run(f"kill -KILL {main_process(service)}; systemctl restart daisyport")
    types("fresh")
    (client,) = (client for client in status(service)["ports"][0]["clients"] if client["service"] == "Tty")
    assert client["written"] == len("fresh")
    assert service.says("systemctl is-active terminal") == "active"
    service.run("systemctl stop terminal")


LOG = "/var/log/daisyport/P0.log"


def test_a_log_of_the_line_is_kept_within_the_sandbox(service: Machine) -> None:
    service.write(CONFIG, f'{LINE}[[port_manager]]\nserial = 1\n[port_manager.log]\nfile = "{LOG}"\n')
    service.run("systemctl restart daisyport")
    open_tcp(service)
    service.run("bash -c 'exec 3<>/dev/tcp/127.0.0.1/3000; echo hello >&3; timeout 10 head -c 6 <&3'")
    service.until(f"cat {LOG}", lambda log: log.endswith(" hello"))
    assert service.says(f"stat -c '%U %a' {LOG}") == "daisyport 600"


# The pages of docs/operating -----------------------------------------------------------------------------------

RUN = {
    "systemctl status daisyport": "1 of 1 ports up",
    "daisyport status": "P0   up     /dev/ttyV0",
    "daisyport status P0": "device    /dev/ttyV0",
    "daisyport chain": "no port is shared with other CPUs here",
    "daisyport ports": "/daisyport/ports/P0 (WebSocket)",
    "daisyport devices": "",
    "daisyport check": "ok, and running",
    "daisyport health": "ok",
    "journalctl -u daisyport -p err": "",
    "journalctl -u daisyport -p warning": "",
    "kill -USR1": "",
    "daisyport keygen": "-",
    "daisyport keygen | tr -d '\\n' | install -m 600 /dev/stdin /root/new.key": "",
    "cat /root/new.key | daisyport rekey P0": "P0 has the new key, and accepts the old one too for 24 h.",
    "curl --digest -u anna --data-urlencode 'RemotePort.R0.AuthenticationKey@/root/new.key' "
    "'http://cpu2:8080/axis-cgi/param.cgi?action=update'": "OK",
    "daisyport trace P0": "- the port is up",
    "daisyport trace P0 --pcapng line.pcapng": "Writing to line.pcapng until Ctrl-C.",
    "daisyport kick HOLDER": "ended: 127.0.0.1:",
    "openssl rand -hex 32 | install -m 600 -o daisyport /dev/stdin /etc/daisyport/metrics.token": "",
    "systemctl reload daisyport": "",
    "daisyport backup cpu1.tar.gz": "",
    "systemctl stop daisyport && daisyport restore cpu1.tar.gz && systemctl start daisyport": "",
    "systemctl stop daisyport && cp /var/lib/daisyport/parameters.old /var/lib/daisyport/parameters": "",
    "daisyport restore --identity --keys --configuration cpu1.tar.gz": "",
    "daisyport check; systemctl start daisyport": "ok",
    "daisyport user add anna --role admin": "anna is already a user",
    "daisyport check && systemctl restart daisyport": "ok",
    "systemctl restart daisyport": "",
}
"""The commands of the pages that are run here, in this order, and a part of what each prints."""

ELSEWHERE = {
    "daisyport pair": "tests/test_pair.py, at two CPUs",
    "daisyport pair --join": "the same",
    "daisyport pair --join cpu1": "the same",
    "daisyport pair P1": "named with another port",
    "apt install ./daisyport_VERSION_ARCH.deb": "the Debian package",
    "apt install ./daisyport_VERSION_ARCH.deb && systemctl stop daisyport": "the Debian package",
    "apt install --allow-downgrades ./daisyport_OLDER_amd64.deb": "the Debian package",
    "apt remove daisyport": "the Debian package",
    "apt purge daisyport": "the Debian package",
    "/opt/daisyport/bin/pip install --upgrade . && systemctl restart daisyport": "as the README installs it",
    "cp systemd/daisyport.socket /etc/systemd/system/ && systemctl enable --now daisyport.socket && "
    "systemctl restart daisyport": "the test of the sockets",
    "systemctl disable --now daisyport && rm /etc/systemd/system/daisyport.service /etc/sysusers.d/daisyport.conf": "",
    "rm -r /opt/daisyport /etc/daisyport /var/lib/daisyport": "nothing would be left to test",
    "start-stop-daemon --start --background --make-pidfile --pidfile /run/daisyport.pid --chuid daisyport:dialout "
    "--exec /usr/bin/daisyport -- run --config /etc/daisyport/daisyport.toml": "another init",
    "daisyport import-ser2net /etc/ser2net.yaml": "tests of that command, with all of Debian's examples",
    "daisyport trace P0 --pcapng - | wireshark -k -i -": "no display",
    "tshark -r line.pcapng -d rtacser.data,mbrtu": "tests/clients",
    "daisyport run": "the service",
    "daisyport kick": "named without its argument",
    "daisyport user add": "named without its arguments",
    "daisyport user remove": "named without its argument",
    "daisyport user add NAME --role admin": "with a name",
    "daisyport user add NAME --role operator": "the same",
    "daisyport rekey P0": "named without its pipe",
    "cat /root/new.key | daisyport rekey P0 --chain": "tests of that command, on a blade of three CPUs",
}
"""Those that are not, and why, or who runs them."""


def test_the_commands_of_the_operating_pages_do_what_these_say(service: Machine) -> None:
    service.until("systemctl show -p StatusText --value daisyport", lambda words: words.endswith(": 1 of 1 ports up"))
    token = '[http]\nmetrics_token = "/etc/daisyport/metrics.token"\n'
    open_tcp(service)
    key = "PortManager.P0.RemotePortServer.AuthenticationKey=the-old-key"
    assert param(service, f"action=update&{key}") == "OK"
    # Somebody has to be there who can be kicked.
    service.run("systemd-run --quiet --collect --unit=client bash -c 'exec 3<>/dev/tcp/127.0.0.1/3000; cat <&3'")
    holder = service.until(
        "/opt/daisyport/bin/daisyport status P0 | grep -o '^127[0-9.:]*'", lambda said: said.startswith("127")
    )
    actual = {
        "kill -USR1": f"kill -USR1 {main_process(service)}",
        "HOLDER": holder,
        "daisyport trace": "timeout --foreground --preserve-status -s INT 5 daisyport trace",
        "-u anna ": f"-u 'anna:{PASSWORD}' ",
        "//cpu2:": "//127.0.0.1:",
    }
    for command, said in RUN.items():
        if command == "systemctl reload daisyport":
            service.write(CONFIG, LINE + token)
        if command.startswith("daisyport restore"):
            service.run("systemctl stop daisyport")
        if "parameters.old" in command:
            assert param(service, "action=update&Serial.Ser1.BaudRate=19200") == "OK"
        if command == "daisyport health":
            service.until("/opt/daisyport/bin/daisyport health", lambda word: word == "ok")
        for written, here in actual.items():
            command = command.replace(written, here)
        refused = command.startswith("daisyport user add")
        done = service.run(f"export PATH=/opt/daisyport/bin:$PATH; {command}", check=not refused)
        assert said in done.stdout, command
        service.until("systemctl is-active daisyport", lambda state: state in ("active", "inactive"))
    assert service.says("stat -c %a /root/new.key") == "600"
    assert service.says("stat -c %a /src/line.pcapng") == "600"
    stored = service.says("cat /var/lib/daisyport/parameters")
    assert service.says("cat /root/new.key") in stored
    assert "the-old-key" not in stored
