"""One CPU of the demo's chain: its configuration, and the state that it finds at its start."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, final

from gateway.host.config import Config, HttpConfig, SerialConfig, TcpConfig
from gateway.state.users import Users
from protocol.frozen import frozen
from protocol.parameters.hardware import ManagerHardware

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Cpu", "Login"]

_HOST: Final = "127.0.0.1"


@final
@frozen
class Login:
    """The user who may log in at every CPU, and the key of the links between them."""

    user: str
    password: str
    key: str


@final
@frozen(kw_only=True)
class Cpu:
    """A CPU with a port manager for each of ``tcp_ports``, on which its TCP clients connect.

    The lines are ``devices``; if that is empty, they are those of the remote-port servers on the TCP ports ``servers``.
    The CPU's own remote-port servers listen on ``served``, if that is not empty.
    """

    host: ClassVar[str] = _HOST
    name: str
    directory: Path
    login: Login
    http_port: int
    tcp_ports: tuple[int, ...]
    devices: tuple[str, ...] = ()
    servers: tuple[int, ...] = ()
    served: tuple[int, ...] = ()

    @property
    def config(self) -> Config:
        """The configuration, with every listener on loopback."""
        own = tuple(ManagerHardware(serial=number) for number in range(1, len(self.devices) + 1))
        return Config(
            state_dir=self.directory / "state",
            runtime_dir=self.directory,  # the address of a Unix socket must be short
            node_name=self.name,
            http=HttpConfig(listen=((self.host, self.http_port),)),
            tcp=TcpConfig(bind=(self.host,)),
            serial=tuple(SerialConfig(device) for device in self.devices),
            managers=own or tuple(ManagerHardware(remote_port=index) for index in range(len(self.servers))),
        )

    @property
    def ptz_socket(self) -> Path:
        """The Unix socket for PTZ drivers of P0."""
        return self.directory / "ptz-P0.sock"

    @property
    def parameters(self) -> str:
        """The content of the parameter file: every service is enabled."""
        lines = [
            *(_services(index, port) for index, port in enumerate(self.tcp_ports)),
            *(_server(index, port, self.login.key) for index, port in enumerate(self.served)),
            *(_client(index, port, self.login.key) for index, port in enumerate(self.servers)),
        ]
        return "".join(lines)

    def prepare(self) -> None:
        """Make the directory, the user and the parameter file, before the gateway starts."""
        self.directory.mkdir()
        Users(self.config.state_dir, self.name).add(self.login.user, "admin", self.login.password)
        parameters = self.config.state_dir / "parameters"
        parameters.touch(mode=0o600)
        parameters.write_text(self.parameters)


def _services(index: int, port: int) -> str:
    return f"""\
root.PortManager.P{index}.SerialCGI.Enabled=yes
root.PortManager.P{index}.PTZServer.Enabled=yes
root.PortManager.P{index}.GenericTCPServer.Enabled=yes
root.PortManager.P{index}.GenericTCPServer.Listener.Enabled=yes
root.PortManager.P{index}.GenericTCPServer.Listener.Port={port}
"""


def _server(index: int, port: int, key: str) -> str:
    return f"""\
root.PortManager.P{index}.RemotePortServer.Enabled=yes
root.PortManager.P{index}.RemotePortServer.AuthenticationKey={key}
root.PortManager.P{index}.RemotePortServer.Listener.Enabled=yes
root.PortManager.P{index}.RemotePortServer.Listener.Port={port}
"""


def _client(index: int, port: int, key: str) -> str:
    return f"""\
root.RemotePort.R{index}.AutoConf=no
root.RemotePort.R{index}.AuthenticationKey={key}
root.RemotePort.R{index}.Host={_HOST}
root.RemotePort.R{index}.Port={port}
"""
