"""Commands for a shell that drive the demo's camera and show its answers, by each service of a CPU.

They use only tools that nearly any machine has: curl, and netcat or Python.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final, final

from protocol.frozen import frozen

if TYPE_CHECKING:
    from gateway.demo.cpu import Cpu

__all__ = ["Example", "afar", "at_the_owner"]

_LEFT: Final = bytes.fromhex("8101060106050103ff")
_WHERE: Final = bytes.fromhex("81090612ff")
_HOME: Final = bytes.fromhex("81010604ff")
_STOP: Final = bytes.fromhex("ff010000000001")
_PAN: Final = bytes.fromhex("ff010051000052")


@final
@frozen
class Example:
    """A command for a shell, and a description of it."""

    what: str
    command: str


def at_the_owner(cpu: Cpu) -> tuple[Example, ...]:
    """Return a command for each service, and two that set and list parameters."""
    return (
        Example("Over HTTP: turn left (VISCA)", _curl(cpu, f"com/serial.cgi?write={_LEFT.hex()}")),
        _ask(cpu),
        Example("Over TCP: stop, and ask for the pan angle in 0.01 degrees (Pelco-D)", _tcp(cpu, _STOP + _PAN)),
        Example("As a PTZ driver: go to the home position (VISCA)", _ptz(cpu, _HOME)),
        Example("Set the baud rate", _curl(cpu, "param.cgi?action=update&Serial.Ser1.BaudRate=19200")),
        Example("List the parameters of the port", _curl(cpu, "param.cgi?action=list&group=PortManager.P0")),
    )


def afar(cpu: Cpu) -> tuple[Example, ...]:
    """Return a command for each service of a CPU that has no line of its own."""
    return (
        _ask(cpu),
        Example("Over TCP: ask for the pan angle in 0.01 degrees (Pelco-D)", _tcp(cpu, _PAN)),
        Example("As a PTZ driver: turn left (VISCA)", _ptz(cpu, _LEFT)),
    )


def _ask(cpu: Cpu) -> Example:
    what = "Over HTTP: ask for the position, and read the 11 bytes of it (VISCA)"
    return Example(what, _curl(cpu, f"com/serial.cgi?write={_WHERE.hex()}&read=11&timeout=500"))


def _curl(cpu: Cpu, target: str) -> str:
    login = shlex.quote(f"{cpu.login.user}:{cpu.login.password}")
    return f"curl -sS --digest -u {login} 'http://{cpu.host}:{cpu.http_port}/axis-cgi/{target}'; echo"


def _tcp(cpu: Cpu, data: bytes) -> str:
    if _netcat_half_closes():
        # In octal: the printf of a plain shell does not know \x.
        octal = "".join(f"\\{byte:03o}" for byte in data)
        return f"printf '{octal}' | nc -N {cpu.host} {cpu.tcp_ports[0]} | od -An -tx1"
    return _python("AF_INET", (cpu.host, cpu.tcp_ports[0]), data)


def _ptz(cpu: Cpu, data: bytes) -> str:
    return _python("AF_UNIX", str(cpu.ptz_socket), data)


def _netcat_half_closes() -> bool:
    """Return True if there is a netcat with -N. Without it netcat keeps its sending side open, and never ends."""
    if shutil.which("nc") is None:
        return False
    done = subprocess.run(["nc", "-h"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return b"-N" in done.stdout + done.stderr


def _python(family: str, address: object, data: bytes) -> str:
    """Return a one-line netcat in Python: it sends, closes its sending side, and prints the answer in hex."""
    python = "python3" if shutil.which("python3") else sys.executable
    talk = (
        f"import socket; s = socket.socket(socket.{family}); s.connect({address!r}); "
        f"s.sendall(bytes.fromhex('{data.hex()}')); s.shutdown(1); print(s.makefile('rb').read().hex(' '))"
    )
    # In double quotes, because Python's own text has single ones.
    quoted = re.sub(r'([$`"\\])', r"\\\1", talk)
    return f'{shlex.quote(python)} -c "{quoted}"'
