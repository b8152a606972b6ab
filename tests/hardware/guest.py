"""A small machine of its own, emulated by qemu: Debian's kernel with the real drivers, and Python, all in memory.

Emulated means slow: what is measured here is the truth and not the speed. Nor does its clock hurry when this machine is
busy: an instruction takes two of its nanoseconds, however long that is out here, and only what it waits for takes the
time that it takes. So a limit in seconds holds on a busy machine as on a quiet one, by the guest's clock (``Clock``).
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from tests.hardware.agent import CLOCK_PORT
from tests.hardware.line import Line

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AMD64", "ARM64", "BREAK", "Clock", "Guest", "GuestError", "Machine"]

_BOOT: Final = 300.0
"""Seconds; a quiet machine needs ten."""
_ANSWER: Final = 180.0
"""Seconds out here, where a busy machine makes twenty of one there."""
BREAK: Final = b"\x01b"
"""What the far end says for a break, where it can."""


@final
@dataclass(frozen=True)
class Machine:
    """One kind of guest. ``uarts`` are its serial devices: the name in the guest, and how qemu makes it.

    The far end of the one called ``breaks`` can send ``BREAK``, and for that no Ctrl-A.
    """

    arch: str
    command: tuple[str, ...]
    uarts: tuple[tuple[str, tuple[str, ...]], ...]
    breaks: str
    console: str
    traced: tuple[str, ...]


AMD64: Final = Machine(
    arch="amd64",
    command=("qemu-system-x86_64", "-cpu", "max", "-m", "768"),
    uarts=(
        ("/dev/ttyS1", ("-device", "isa-serial,index=1,chardev={}")),
        ("/dev/ttyS4", ("-device", "pci-serial,chardev={}")),
        ("/dev/ttyS5", ("-device", "pci-serial,chardev={}")),
    ),
    breaks="/dev/ttyS5",
    console="console=ttyS0 8250.nr_uarts=8 tsc=reliable no_timer_check mitigations=off",
    traced=("serial_write", "serial_update_parameters"),
)
ARM64: Final = Machine(
    arch="arm64",
    command=("qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a57", "-m", "900"),
    uarts=(("/dev/ttyAMA0", ("-serial", "chardev:{}")),),
    breaks="/dev/ttyAMA0",
    console="console=hvc0",
    traced=("pl011_write", "pl011_baudrate_change"),
)


class GuestError(Exception):
    """The guest did not start, did not answer, or could not do what it was asked; the text says which and why."""


@final
class Guest:
    """One guest, from ``with`` to its end. ``image`` has its kernel and root, ``overlay`` more files for the root.

    ``forwards`` are more TCP ports of the guest; ``ports`` says at which port of loopback each is found. ``disk`` is a
    file that is /dev/vda there, and outlives it.
    """

    def __init__(
        self, machine: Machine, image: Path, overlay: Path, forwards: Sequence[int], disk: Path | None = None
    ) -> None:
        self.machine = machine
        self.lines: dict[str, Line] = {}
        """The far end of each UART's cable, by the UART's name in the guest."""
        self.ports = {port: _free_port() for port in (CLOCK_PORT, *forwards)}
        self._image = image
        self._overlay = overlay
        self._disk = disk
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Guest:
        self._boot()
        return self

    def _boot(self) -> None:
        with contextlib.ExitStack() as cleanup:
            self._directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="guest-")))
            root = self._directory / "root.cpio"
            with root.open("wb") as whole:  # the kernel unpacks archives that follow each other one over the other
                for part in (self._image / "root.cpio", self._overlay):
                    with part.open("rb") as archive:
                        shutil.copyfileobj(archive, whole, 1 << 20)
            ends = {
                device: cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
                for device, _ in self.machine.uarts
            }
            agent = cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
            errors = cleanup.enter_context((self._directory / "qemu").open("wb"))
            self._qemu = subprocess.Popen(
                self._command(root, agent, ends), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )
            cleanup.callback(self._stop)
            for device, end in ends.items():
                self.lines[device] = cleanup.enter_context(Line(self._accepted(end)))
            self._agent = cleanup.enter_context(self._accepted(agent))
            self._received = b""
            self._hear(_BOOT)
            self._cleanup = cleanup.pop_all()

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _command(self, root: Path, agent: socket.socket, ends: dict[str, socket.socket]) -> list[str]:
        there = "socket,host=127.0.0.1,nodelay=on,id={},port={}"
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{port}" for port, here in self.ports.items())
        # It goes when these tests go, however they end.
        command = ["setpriv", "--pdeathsig", "KILL", *self.machine.command]
        command += ["-accel", "tcg", "-icount", "shift=1,sleep=on"]
        command += ["-nodefaults", "-display", "none", "-no-reboot"]
        command += ["-kernel", str(self._image / "vmlinuz"), "-initrd", str(root)]
        command += ["-append", f"{self.machine.console} rdinit=/init quiet panic=-1 random.trust_cpu=on"]
        # Lines are TCP: into a Unix socket go some 280 writes of one byte, and then the UART stands still.
        for number, (device, how) in enumerate(self.machine.uarts):
            # A chardev that is shared reads Ctrl-A as the beginning of an order to qemu: one is to send a break.
            shared = ",mux=on" if device == self.machine.breaks else ""
            command += ["-chardev", there.format(f"uart{number}", ends[device].getsockname()[1]) + shared]
            command += [word.format(f"uart{number}") for word in how]
        command += ["-device", "virtio-serial-pci"]
        command += ["-chardev", there.format("agent", agent.getsockname()[1])]
        command += ["-device", "virtserialport,chardev=agent,name=agent"]
        command += ["-chardev", f"file,id=console,path={self._directory}/console"]
        isa = self.machine.arch == "amd64"
        command += ["-device", "isa-serial,index=0,chardev=console" if isa else "virtconsole,chardev=console"]
        command += ["-netdev", f"user,id=wire,restrict=on{forwards}", "-device", "virtio-net-pci,netdev=wire,romfile="]
        if self._disk is not None:
            command += ["-drive", f"file={self._disk},if=virtio,format=raw,cache=writethrough"]
        command += ["-D", f"{self._directory}/trace", "-msg", "timestamp=on"]
        for event in self.machine.traced:
            command += ["-trace", event]
        return command

    def _accepted(self, server: socket.socket) -> socket.socket:
        server.settimeout(_ANSWER)
        try:
            end, _ = server.accept()
        except TimeoutError:
            raise GuestError(f"qemu did not start: {self._text('qemu')}") from None
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return end

    def cut_power(self) -> None:
        """Stop the machine between two instructions, and boot it again. What is not on its disk is gone."""
        self._cleanup.close()
        self._boot()

    def _stop(self) -> None:
        self._qemu.kill()
        self._qemu.wait()

    # -- what the agent does

    def call(self, verb: str, *positional: object, seconds: float = _ANSWER, **keywords: object) -> Any:
        """Have ``agent`` do ``verb``, which may take so many seconds, and return its result. Raises GuestError."""
        try:
            self._agent.sendall(json.dumps([verb, positional, keywords]).encode() + b"\n")
            answer = self._hear(seconds)
        except OSError as error:
            raise GuestError(f"the guest is gone: {error}") from error
        if "error" in answer:
            raise GuestError(f"{verb}{positional}: {answer['error']}")
        return answer["result"]

    def _hear(self, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while b"\n" not in self._received:
            if not select.select([self._agent], [], [], max(0.0, until - time.monotonic()))[0]:
                raise GuestError(f"no answer in {seconds} s; {self._text('qemu')}{self._text('console')}")
            more = self._agent.recv(65536)
            if not more:
                raise GuestError(f"the guest is gone; {self._text('qemu')}{self._text('console')}")
            self._received += more
        line, self._received = self._received.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def sh(self, script: str, user: str = "root", seconds: float = _ANSWER) -> str:
        """Run a shell script in the guest, and return what it printed. Raises GuestError where it fails."""
        status, output = self.call("run", ["sh", "-c", script], user, seconds=seconds)
        if status:
            raise GuestError(f"{script}: status {status}: {output}")
        return str(output)

    # -- what qemu saw

    def _text(self, name: str) -> str:
        try:
            return (self._directory / name).read_text(errors="replace")[-3000:]
        except OSError:
            return ""

    def trace(self, since: float = 0.0) -> list[str]:
        """Return what the drivers told the UARTs since the time ``since`` (``time.time()``), as qemu describes it."""
        events = []
        for line in (self._directory / "trace").read_text(errors="replace").splitlines():
            event = re.match(r"\d+@(\d+\.\d+):(.*)", line)
            if event and float(event[1]) >= since:
                events.append(event[2])
        return events


@final
class Clock:
    """The guest's clock, in seconds; it can be read while the guest is asked for something else."""

    def __init__(self, guest: Guest) -> None:
        self._socket = socket.create_connection(("127.0.0.1", guest.ports[CLOCK_PORT]), timeout=_ANSWER)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def __call__(self) -> float:
        """Return the time."""
        self._socket.sendall(b"?")
        (now,) = struct.unpack("d", self._socket.recv(8, socket.MSG_WAITALL))
        return float(now)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
