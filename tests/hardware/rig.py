"""The daemon in a guest, as an operator has it: a configuration, parameters over HTTP, clients, the status, its log."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import threading
import time
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final
from urllib.parse import quote

from tests.hardware.adapter import Adapter
from tests.hardware.guest import Clock, GuestError
from tests.hardware.websocket import WebSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.hardware.adapter import Chip
    from tests.hardware.guest import Guest

__all__ = ["HTTP", "PASSWORD", "RFC2217", "SETTLED", "STOPPED", "TCP", "USER", "Answer", "Client", "Rig"]

USER, PASSWORD = "admin", "correct horse"
HTTP: Final = 8080
RFC2217: Final = 2217
TCP: Final = (3000, 3001, 3002)
"""The ports in the guest of the TCP servers of P0, P1 and P2."""
SETTLED: Final = 2.2
"""Seconds in which an answer is final: the two that the gateway takes at most, and its way here."""
STOPPED: Final = 4.5
"""Seconds in which the daemon ends after SIGTERM, whatever its lines do."""
_LOGIN: Final = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
_STATE: Final = "/var/lib/daisyport"
_LOG: Final = "/tmp/daisyport.log"
_CONFIG: Final = "/etc/daisyport.toml"
_START: Final = 60.0
_PATIENCE: Final = 20.0
"""Seconds by the guest's clock ..."""
_OUT_HERE: Final = 60.0
"""... and by this machine's, which may make twenty of one there when it is busy."""
_SILENCE: Final = 1.0
"""Seconds for which no port may be silent, whatever another one's device does."""


class Answer(NamedTuple):
    """An answer to an update: its body, the reason of a refusal, and the seconds that it took by the guest's clock."""

    text: str
    refused: str
    seconds: float


@final
class Client:
    """A TCP client of a port. It hears everything at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def say(self, data: bytes) -> None:
        """Send ``data``, however long it takes the port to read it."""
        self._socket.settimeout(_OUT_HERE)
        self._socket.sendall(data)

    def hear(self, count: int, seconds: float = _OUT_HERE) -> bytes:
        """Return what came, once it is ``count`` bytes or the time is over."""
        heard, until = b"", time.monotonic() + seconds
        while len(heard) < count and (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                more = self._socket.recv(65536)
                if not more:
                    break
                heard += more
        return heard

    def close(self) -> None:
        """Go away."""
        self._socket.close()


@final
class Rig:
    """One daemon, with fresh parameters unless its state outlived another guest, and with fresh adapters."""

    def __init__(self, guest: Guest, fresh: bool = True) -> None:
        self.guest = guest
        self._fresh = fresh
        self._cleanup = contextlib.ExitStack()
        self._daemon: int | None = None

    def __enter__(self) -> Rig:
        self.guest.sh(f"rm -f {_LOG}; touch {_LOG}")
        if self._fresh:
            self.guest.sh(f"rm -rf {_STATE}; cp -r /opt/state {_STATE}; chmod -R go= {_STATE}")
        self.guest.sh(f"install -d -o daisyport -g dialout /run/daisyport; chown -R daisyport {_STATE}")
        return self

    def __exit__(self, *_: object) -> None:
        with self._cleanup, contextlib.suppress(GuestError):  # it may be another since its power was cut
            if self._daemon is not None:
                self.guest.call("ended", self._daemon, SIGKILL, 40)
            print(self.log())  # pytest shows it where the test failed

    def plug(self, chip: Chip, paced: bool = False, guests_time: bool = False) -> Adapter:
        """Plug in an adapter, which is pulled out at the end; it is ready when this returns."""
        adapter = self._cleanup.enter_context(Adapter(self.guest, chip, paced, guests_time))
        adapter.plug()
        return adapter

    # -- the daemon

    def configure(self, *serial: str, more: str = "") -> None:
        """Write the configuration: a TOML body for each line, and more for the top of the file."""
        lines = "".join(f"[[serial]]\n{body}\n" for body in serial)
        self.guest.call(
            "write",
            _CONFIG,
            f'{more}\nstate_dir = "{_STATE}"\nruntime_dir = "/run/daisyport"\nnode_name = "guest"\n'
            f'[http]\nlisten = ["0.0.0.0:{HTTP}"]\n[tcp]\nbind = ["0.0.0.0"]\n{lines}',
        )

    def start(self, *serial: str, up: bool = True, **parameters: object) -> None:
        """Start the daemon with these lines, and wait until it answers and, with ``up``, until all of them are up.

        Each port's TCP server is open. More ``parameters`` have ``_`` for the dots in their names.
        """
        self.configure(*serial)
        stored: dict[str, object] = {"Network.HTTP.AuthenticationPolicy": "basic"}
        for number, port in enumerate(TCP[: len(serial)]):
            server = f"PortManager.P{number}.GenericTCPServer"
            stored |= {f"{server}.Enabled": "yes", f"{server}.Listener.Enabled": "yes", f"{server}.Listener.Port": port}
        stored |= {name.replace("_", "."): value for name, value in parameters.items()}
        text = "".join(f"root.{name}={value}\n" for name, value in stored.items())
        self.guest.call("write", f"{_STATE}/parameters", text)
        self.guest.sh(f"chown daisyport {_STATE}/parameters; chmod 600 {_STATE}/parameters")
        self.restart(up=up)

    def run_unconfigured(self) -> None:
        """Start the daemon as a machine has it that has no configuration. It listens on loopback: see the log."""
        self._daemon = self.guest.call("daemon", ["run"], _LOG, "daisyport")

    def restart(self, up: bool = True) -> None:
        """Start the daemon as it was configured."""
        self._daemon = self.guest.call("daemon", ["run", "--config", _CONFIG], _LOG, "daisyport")
        self.until(self._answers, _START)
        if up:
            self.until(lambda: all(port["state"] == "up" for port in self.ports()))

    def _answers(self) -> bool:
        status, _ = self.guest.call("ended", self._daemon)
        if status is not None:
            self._daemon = None
            raise AssertionError(f"the daemon ended with the status {status}: {self.log()}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.ports()
            return True
        return False

    def stop(self, seconds: float = 40) -> tuple[int | None, float]:
        """Send SIGTERM; return the exit status, None where it did not end in time, and the seconds it took."""
        status, took = self.guest.call("ended", self._daemon, SIGTERM, seconds)
        self._daemon = None if status is not None else self._daemon
        return status, took

    def kill(self) -> None:
        """Kill the daemon as the kernel does when memory runs out."""
        self.guest.call("ended", self._daemon, SIGKILL, 40)
        self._daemon = None

    def cut_power(self) -> None:
        """Cut the guest's power, and boot it again; see ``Guest``."""
        self._daemon = None
        self.guest.cut_power()

    def log(self) -> str:
        """Return what the daemon logged."""
        return str(self.guest.call("read", _LOG))

    # -- HTTP

    def get(self, target: str) -> tuple[http.client.HTTPResponse, str]:
        """GET ``target`` as the admin."""
        connection = http.client.HTTPConnection("127.0.0.1", self.guest.ports[HTTP], timeout=_OUT_HERE)
        with contextlib.closing(connection):
            connection.request("GET", target, headers={"Authorization": _LOGIN})
            response = connection.getresponse()
            return response, response.read().decode()

    def update(self, **assignments: object) -> Answer:
        """Set parameters, whose names have ``_`` for their dots: ``Serial_Ser1_BaudRate=9600``."""
        return self.set({name.replace("_", "."): value for name, value in assignments.items()})

    def set(self, assignments: Mapping[str, object]) -> Answer:
        """Set parameters."""
        query = "&".join(f"{name}={quote(str(value))}" for name, value in assignments.items())
        with Clock(self.guest) as clock:
            began = clock()
            response, text = self.get(f"/axis-cgi/param.cgi?action=update&{query}")
            return Answer(text, response.headers.get("Daisyport-Refused", ""), clock() - began)

    def parameters(self, group: str = "Serial.Ser1") -> dict[str, str]:
        """Return the parameters of a group, by the last part of their names."""
        _, text = self.get(f"/axis-cgi/param.cgi?action=list&group={group}")
        return {line.split("=")[0].rsplit(".", 1)[-1]: line.split("=", 1)[1] for line in text.splitlines()}

    def ports(self) -> list[dict[str, Any]]:
        """Return the status of all ports."""
        ports: list[dict[str, Any]] = json.loads(self.get("/daisyport/status")[1])["ports"]
        return ports

    def status(self, port: int = 0) -> dict[str, Any]:
        """Return the status of one port."""
        return self.ports()[port]

    def until(self, holds: Callable[[], object], seconds: float = _PATIENCE) -> float:
        """Wait until ``holds`` is true; return the seconds it took. Raises AssertionError when time is over.

        Both are by the guest's clock: where the host is busy, two seconds there are twenty here.
        """
        with Clock(self.guest) as clock:
            began = clock()
            while not holds():
                took = clock() - began
                assert took < seconds, f"not so after {took:.1f} s"
                time.sleep(0.05)
            return clock() - began

    def pass_time(self, seconds: float) -> None:
        """Let so many seconds of the guest's clock pass."""
        with Clock(self.guest) as clock:
            until = clock() + seconds
            while (left := until - clock()) > 0:
                time.sleep(left)

    def until_named(self, path: str) -> None:
        """Wait until udev has made the link ``path``."""
        self.until(lambda: self.guest.call("names", path))

    def until_logged(self, text: str) -> None:
        """Wait until the daemon logged ``text``."""
        self.until(lambda: text in self.log())

    def until_status(self, holds: Callable[[dict[str, Any]], object], port: int = 0) -> dict[str, Any]:
        """Wait until ``holds`` is true of the status of a port, and return that."""
        status: dict[str, Any] = {}

        def asked() -> object:
            nonlocal status
            status = self.status(port)
            return holds(status)

        try:
            self.until(asked)
        except AssertionError as error:
            raise AssertionError(f"{error}: {status}") from None
        return status

    # -- clients

    def client(self, port: int = 0) -> Client:
        """Connect to a port's TCP server, and wait until the port has noticed."""
        sock = socket.create_connection(("127.0.0.1", self.guest.ports[TCP[port]]), timeout=_OUT_HERE)
        self._cleanup.callback(sock.close)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.until(lambda: any(each["service"] == "GenericTCPServer" for each in self.status(port)["clients"]))
        return Client(sock)

    def websocket(self, port: int = 0) -> WebSocket:
        """Connect to a port's WebSocket."""
        websocket = WebSocket(self.guest.ports[HTTP], f"/daisyport/ports/P{port}", _LOGIN)
        self._cleanup.callback(websocket.close)
        return websocket

    @contextlib.contextmanager
    def no_silence(self, far_end: Any, port: int = 1) -> Iterator[None]:
        """Hold the daemon to this: in the block, HTTP and the line of another ``port`` answer within a second.

        ``far_end`` is the far end of that other line.
        """
        client = self.client(port)
        worst, stopped = [0.0], threading.Event()

        def watch(clock: Clock) -> None:
            while not stopped.wait(0.2):
                began = clock()
                client.say(b"?")
                if far_end.hear(1) == b"?":
                    far_end.say(b"!")
                assert client.hear(1) == b"!"
                echoed = clock()
                self.get("/daisyport/ports")
                worst[0] = max(worst[0], echoed - began, clock() - echoed)

        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                with Clock(self.guest) as clock:
                    watch(clock)
            except BaseException as error:  # noqa: BLE001 -- it is raised where the test is
                failures.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
            client.close()
        assert not failures, failures
        assert worst[0] < _SILENCE, f"silent for {worst[0]:.2f} s"
