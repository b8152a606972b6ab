"""``daisyport pair``: chain CPUs to a port of this one, or this one to another, confirmed by six digits on both sides.

The command itself listens, and is announced by Bonjour, only while it runs. Nothing is set before both sides have
agreed; then the parameters are set as an admin sets them. Once digits were shown, any other end than an agreement ends
the command, so that an attacker has one try, and a person sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gateway.cli.command import CommandError, add_config_option, configuration
from gateway.cli.control import parameters, update

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from gateway.cli.command import Commands
    from gateway.host.config import Config
    from gateway.state.users import Users
    from protocol.link.advert import Candidate
    from protocol.link.pairing import Event, Pairing, Side

__all__ = ["add_to"]

_PORT: Final = 5554
_HIGHEST_PORT: Final = 65535
_LONGEST: Final = 60
"""The longest wait, in minutes."""
_HANDSHAKE: Final = 10.0
"""Seconds from the connection to the digits."""
_PERSON: Final = 120.0
"""Seconds for the person at the other side to compare the digits after ours has."""
_WORK: Final = 30.0
"""Seconds for the other side to set what it was given."""
_STRANGERS: Final = 20
"""Connections without a pairing after which the command ends, so that a flood does not scroll away what it prints."""
_FAREWELL: Final = 1.0
"""Seconds for the other side to receive our refusal."""
_READ_SIZE: Final = 65536
_Event = TypeVar("_Event", bound="Event")


class _Cut(Exception):
    """The connection ended, or broke the protocol of pairing, before any digits were shown."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("pair", help="chain other CPUs to a port of this one, confirmed by six digits")
    parser.add_argument("port", nargs="?", default="P0", metavar="PORT", help="the port, here or there (default: P0)")
    parser.add_argument(
        "--join",
        nargs="?",
        const="",
        metavar="HOST",
        help="join a CPU where the command waits: one that Bonjour finds, or the one at this name or address",
    )
    parser.add_argument(
        "--users", action="store_true", help="also copy the users who may log in; give this option on both sides"
    )
    parser.add_argument("--minutes", metavar="N", type=int, default=10, help="for how long to wait (default: 10)")
    parser.add_argument(
        "--tcp-port",
        metavar="N",
        type=int,
        default=_PORT,
        help=f"the TCP port to wait on, or of HOST (default: {_PORT})",
    )
    add_config_option(parser)
    parser.set_defaults(command=_pair)


def _pair(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.minutes <= _LONGEST:
        arguments.parser.error(f"--minutes must be from 1 to {_LONGEST}")
    if not 0 <= arguments.tcp_port <= _HIGHEST_PORT:
        arguments.parser.error(f"--tcp-port must be from 1 to {_HIGHEST_PORT}")
    config = configuration(arguments.config)
    names = [f"P{index}" for index in range(len(config.managers))]
    if arguments.port not in names:
        raise CommandError(f"no such port; ports: {', '.join(names) or 'none'}")
    if arguments.join in names:
        arguments.parser.error(f"--join takes a host; for the port: daisyport pair {arguments.join} --join")
    index = names.index(arguments.port)
    try:
        return _wait(arguments, config, index) if arguments.join is None else _join(arguments, config, index)
    except KeyboardInterrupt:
        raise CommandError("ended") from None


# -- the CPU that is joined


def _wait(arguments: argparse.Namespace, config: Config, index: int) -> int:
    """Let CPUs join, one after the other, until the time is over; return whether one did."""
    from gateway.discovery.pairing import announced

    _presently(arguments, f"PortManager.P{index}.RemotePortServer")  # fails at once where no gateway runs
    joined = strangers = 0
    until = time.monotonic() + arguments.minutes * 60
    name = config.node_name if config.bonjour.name else ""
    with contextlib.ExitStack() as stack:
        listeners = stack.enter_context(_listeners(config, arguments.tcp_port))
        port = listeners[0].getsockname()[1]
        stack.enter_context(announced(config.tcp.bind, config.chassis, name, index, port))
        where = "" if port == _PORT else f" --tcp-port {port}"
        print(f"{config.node_name} waits for {arguments.minutes} min. On each CPU that is to join it:", flush=True)
        print("  daisyport pair --join", flush=True)
        print("or, where that does not find it, with its name or address:", flush=True)
        print(f"  daisyport pair --join {config.node_name}{where}\nCtrl-C ends this.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while (left := until - time.monotonic()) > 0:
                ready, _, _ = select.select(listeners, [], [], left)
                for listener in ready:
                    sock, peer = listener.accept()
                    try:
                        with sock:
                            _be_joined(arguments, config, index, sock, peer[0])
                        joined += 1
                    except _Cut as exc:
                        print(f"{peer[0]}: {exc}", flush=True)
                        strangers += 1
                        if strangers == _STRANGERS:
                            raise CommandError(f"{strangers} connections were no pairing: try again later") from None
    print(f"{joined} joined." if joined else "Nobody joined; nothing was changed.")
    return 0 if joined else 1


@contextlib.contextmanager
def _listeners(config: Config, port: int) -> Iterator[list[socket.socket]]:
    """Listen where the ports' own listeners do."""
    with contextlib.ExitStack() as stack:
        found: list[socket.socket] = []
        for address in config.tcp.bind:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                sock = socket.create_server((address, port), family=family, backlog=1)
            except OSError as exc:
                raise CommandError(f"{address} port {port}: {exc.strerror}") from None
            found.append(stack.enter_context(sock))
            port = port or sock.getsockname()[1]
        yield found


def _be_joined(arguments: argparse.Namespace, config: Config, index: int, sock: socket.socket, where: str) -> None:
    """Pair with a CPU, and give it the key. Raises _Cut before there are digits, and CommandError after."""
    from gateway.remote_port.keygen import strong_key
    from protocol.link.pairing import Given, Side

    pairing = _made(Side.GIVES, config)
    name = _agreed(sock, pairing, where)
    group = f"PortManager.P{index}.RemotePortServer"
    present = _presently(arguments, group)
    key = present.get(f"{group}.AuthenticationKey") or strong_key()
    wanted = {"Enabled": "yes", "AuthenticationKey": key, "Listener.Enabled": "yes"}
    update(arguments, {f"{group}.{each}": value for each, value in wanted.items()})
    gift: dict[str, object] = {"key": key, "port": int(present[f"{group}.Listener.Port"])}
    if arguments.users:
        gift["users"] = _users(config).shared()
    pairing.give(json.dumps(gift).encode())
    _say(sock, pairing)
    answer = _read(_next(sock, pairing, _WORK, Given).data)
    if not isinstance(answer, dict) or answer.get("done") is not True:
        raise CommandError(f"{name} has the key, and could not use it: see there")
    print(f"{name} has joined: it uses P{index} of {config.node_name}.", flush=True)


# -- the CPU that joins


def _join(arguments: argparse.Namespace, config: Config, index: int) -> int:
    """Join the CPU at ``--join``, or one that is found, and set what it gives."""
    from protocol.link.pairing import Given, Side

    number = config.managers[index].remote_port
    if number is None:
        raise CommandError(f"P{index} of this host has no remote port, so it cannot use the line of another CPU")
    _presently(arguments, f"RemotePort.R{number}")  # fails at once where no gateway runs
    if arguments.join:
        host, sock = _dialled((arguments.join,), arguments.tcp_port)
    else:
        chosen = _chosen(config, index)
        host, sock = _dialled(chosen.addresses, chosen.port)
    with sock:
        pairing = _made(Side.JOINS, config)
        _say(sock, pairing)
        try:
            name = _agreed(sock, pairing, host)
        except _Cut as exc:
            raise CommandError(f"{host}: {exc}; where it is pairing with another CPU, try again then") from None
        gift = _read(_next(sock, pairing, _WORK, Given).data)
        done = False
        try:
            said = _set(arguments, config, index, number, host, gift)
            done = True
        finally:
            pairing.give(json.dumps({"done": done}).encode())
            _say(sock, pairing)
    print(f"P{index} here uses the line of {name} now.")
    if said:
        print(said)
    return 0


def _chosen(config: Config, index: int) -> Candidate:
    """Return the CPU to join, of those that wait: the only one, or the one that is picked. Raises CommandError."""
    from gateway.discovery.pairing import find

    print("Looking for CPUs that wait to be joined.", flush=True)
    seen, state = find(config.chassis, index)
    if not seen:
        why = "" if state == "up" else f" (Bonjour: {state})"
        raise CommandError(
            f"none was found{why}: start daisyport pair at the CPU with the line, on this network, or name it: "
            "daisyport pair --join HOST"
        )
    for number, candidate in enumerate(seen, start=1):
        advert = candidate.advert
        name = advert.name or "a CPU without a name"
        print(f"{number:3}  {name}, at {candidate.addresses[0]}, P{advert.index}, {advert.chassis or 'no chassis'}")
    if len(seen) == 1:
        return seen[0]  # whether it is the right one is what the digits are for
    while True:
        try:
            said = input(f"Which one is to be joined? [1-{len(seen)}] ").strip()
        except (EOFError, UnicodeDecodeError):
            said = ""
        if not said:
            raise CommandError("none was chosen, and nothing was changed")
        if re.fullmatch(r"[0-9]{1,4}", said) and 0 < int(said) <= len(seen):
            return seen[int(said) - 1]


def _dialled(addresses: Sequence[str], port: int) -> tuple[str, socket.socket]:
    """Connect to the first of the addresses that can be, and return which. Raises CommandError of the last."""
    for host in addresses:
        try:
            return host, socket.create_connection((host, port), _HANDSHAKE)
        except (OSError, UnicodeError) as exc:  # the latter of a name that no name can be, as a..b
            told = "no such name" if isinstance(exc, UnicodeError) else exc.strerror or exc
            why = CommandError(f"{host} port {port}: {told}")
    raise why


def _set(arguments: argparse.Namespace, config: Config, index: int, number: int, host: str, gift: Any) -> str:
    """Set what the other CPU gave, which is at ``host``; return what became of its users, in words."""
    from gateway.state.users import UserError

    known = gift if isinstance(gift, dict) else {}
    key, port, users = known.get("key"), known.get("port"), known.get("users")
    if not isinstance(key, str) or not key or type(port) is not int or not isinstance(users, str | None):
        raise CommandError("the other CPU gave what cannot be used; nothing was changed")
    if not key.isprintable():  # half of a character among them, which cannot be sent
        raise CommandError("the other CPU gave what cannot be used; nothing was changed")
    remote = {"AutoConf": "no", "Host": host, "Port": str(port), "AuthenticationKey": key}
    wanted = {f"RemotePort.R{number}.{name}": value for name, value in remote.items()}
    wanted |= {f"PortManager.P{index}.PortType": "RemotePort", f"PortManager.P{index}.PortEnabled": "yes"}
    update(arguments, wanted)
    if users is None:
        return "No users were given: --users on both sides takes them over." if arguments.users else ""
    if not arguments.users:
        return "Users were offered, and not taken: --users takes them over."
    try:
        new = _users(config).adopt(users)
    except UserError as exc:
        return f"Its users were not taken over: {exc}."
    return f"New users who may log in here: {', '.join(new) or 'none, they are all known here'}."


# -- both


def _presently(arguments: argparse.Namespace, group: str) -> dict[str, str]:
    """Return the parameters of a group that has a key, which admins alone are told. Raises CommandError."""
    present = parameters(arguments, group)
    if f"{group}.AuthenticationKey" not in present:
        raise CommandError(
            f"the gateway shows no {group}.AuthenticationKey: pairing is for root, or for whom [control] admins names"
        )
    return present


def _made(side: Side, config: Config) -> Pairing:
    from protocol.link.pairing import Pairing

    return Pairing(side, config.node_name, os.urandom(32), os.urandom(32))


def _agreed(sock: socket.socket, pairing: Pairing, where: str) -> str:
    """Have people compare the digits on both sides; return the other CPU's name. Raises _Cut or CommandError."""
    from protocol.link.pairing import Agreed, Compare

    try:
        compare = _next(sock, pairing, _HANDSHAKE, Compare)
    except CommandError as exc:
        raise _Cut(str(exc)) from None
    name = compare.name or where
    print(f"\n{name}, at {where}: both sides show six digits. Here they are\n", flush=True)
    print(f"    {compare.digits[:3]} {compare.digits[3:]}\n", flush=True)
    try:
        said = input("Are they the same there? [y/N] ").strip().lower()
    except (EOFError, UnicodeDecodeError):
        said = ""
    if said not in ("y", "yes"):
        pairing.refuse()
        _say(sock, pairing)
        # Closing a socket with unread bytes sends a reset, which would destroy the refusal on its way.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(_FAREWELL)
            while sock.recv(_READ_SIZE):
                pass
        raise CommandError(
            "not paired, and nothing was changed. If the digits differed, an attacker may be in between: check "
            "the network before you try again"
        )
    both = pairing.agree()
    _say(sock, pairing)
    if both is None:
        print(f"Waiting for the answer of {name}.", flush=True)
        _next(sock, pairing, _PERSON, Agreed)
    return name


def _say(sock: socket.socket, pairing: Pairing) -> None:
    """Send what is due. An error is left to the next read, which may bring the other side's reason first."""
    if data := pairing.data_to_send():
        with contextlib.suppress(OSError):
            sock.sendall(data)


def _next(sock: socket.socket, pairing: Pairing, seconds: float, wanted: type[_Event]) -> _Event:
    """Return the next event, which must be ``wanted``; send what is due meanwhile. Raises CommandError."""
    from protocol.link.pairing import PairingError

    until = time.monotonic() + seconds
    try:
        while (event := pairing.next_event()) is None:
            _say(sock, pairing)
            sock.settimeout(max(0.01, until - time.monotonic()))
            data = sock.recv(_READ_SIZE)
            if not data or time.monotonic() > until:
                raise CommandError("the connection ended" if not data else f"not done within {seconds:g} s")
            pairing.receive_data(data)
        _say(sock, pairing)
    except PairingError as exc:
        raise CommandError(str(exc)) from None
    except TimeoutError:
        raise CommandError(f"no answer within {seconds:g} s") from None
    except OSError as exc:
        raise CommandError(exc.strerror or str(exc)) from None
    if not isinstance(event, wanted):
        raise CommandError("not paired: the other side says that the digits are not the same; nothing was changed")
    return event


def _read(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise CommandError("the other CPU sent what cannot be read") from None


def _users(config: Config) -> Users:
    from gateway.state.users import Users

    return Users(config.state_dir, config.node_name)
