"""Read the [[port_manager]] tables: what each port is made of, and how its clients share it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.host.config import (
    ChainedConfig,
    LogConfig,
    ModbusTcpConfig,
    PortConfig,
    Rfc2217Config,
    TlsConfig,
    TtyConfig,
    one_for_each,
)
from gateway.host.toml_table import (
    Table,
    Wrong,
    listed,
    listen_address,
    one_of,
    refuse_duplicates,
    shown,
    text,
    truth,
    whole,
)
from protocol.endpoint import Endpoint
from protocol.parameters.hardware import ManagerHardware
from protocol.sharing.message_rule import MAX_GAP, MAX_MESSAGE_END, MessageRule
from protocol.sharing.turn_rule import KINDS, MAX_END, MAX_REPLY, MAX_TIME, TurnRule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from protocol.sharing.turn_rule import ReplyKind, ReplyTo

__all__ = ["port_managers"]

MOST_LINGER = 60_000
MOST_CHAR_GAP = 100
MOST_HISTORY = 65_536  # far less than a client may leave unread, or its first bytes would cut it
MOST_LOG = 4096  # MiB
_OF_THE_OWNER = ("char_gap_ms", "message_end", "message_gap_ms", "remote", "turn")
"""Keys that only the CPU with the line has; chained CPUs learn them over their links."""


def port_managers(tables: Sequence[Table], serials: int) -> tuple[tuple[ManagerHardware, ...], tuple[PortConfig, ...]]:
    """Return the port managers of a host with ``serials`` lines, and how each is shared; empty without any table."""
    managers = tuple(_manager(table, index, serials) for index, table in enumerate(tables))
    ports = tuple(_port(table) for table in tables)
    refuse_duplicates(tables, "serial", [manager.serial for manager in managers])
    named: dict[str, Table] = {}
    taken: dict[tuple[str, int], str] = {}
    for table, manager, port in zip(tables, managers, ports, strict=True):
        for key in _OF_THE_OWNER:
            if key in table and manager.serial is None:
                table.add_error(key, "requires serial, because the CPU with the line decides it for the others")
        for path in port.tty.paths:
            if (first := named.setdefault(path, table)) is not table:
                table.add_error("tty.path", f"{shown(path)} is already used by {first.where}")
        if port.log.file is not None:
            file = str(port.log.file)
            if (first := named.setdefault(file, table)) is not table or file in port.tty.paths:
                table.add_error("log.file", f"{shown(file)} is already used by {first.where}")
        for key, listen in (
            ("listen_only", port.listen_only),
            ("modbus_tcp.listen", port.modbus_tcp.listen),
            ("rfc2217.listen", port.rfc2217.listen),
            ("tls.listen", port.tls.listen),
        ):
            for address, number in listen:
                here = f"{table.where}.{key}"
                if (other := taken.setdefault((address, number), here)) != here:
                    table.add_error(key, f"{Endpoint(address, number)} is already used by {other}")
    return managers or one_for_each(serials), ports


def _manager(table: Table, index: int, serials: int) -> ManagerHardware:
    def existing(found: object) -> int:
        number = whole(1, 65535)(found)
        if number > serials:
            raise Wrong.found(found, f"the number of a [[serial]] table; there are {serials}")
        return number

    return ManagerHardware(
        serial=table.take("serial", existing, None),
        remote_port=table.take("remote_port", whole(0, 255), index),
    )


def _port(table: Table) -> PortConfig:
    default = PortConfig()
    turn = table.table("turn")
    port = PortConfig(
        writers=table.take("writers", one_of("all", "first", "last"), default.writers),
        max_clients=table.take("max_clients", whole(1, 256), default.max_clients),
        listen_only=table.take("listen_only", listed(listen_address), default.listen_only),
        linger=table.take("linger_ms", whole(0, MOST_LINGER), round(default.linger * 1000)) / 1000,
        slow_reader=table.take("slow_reader", one_of("cut", "drop_oldest"), default.slow_reader),
        history_bytes=table.take("history_bytes", whole(0, MOST_HISTORY), default.history_bytes),
        char_gap=table.take("char_gap_ms", whole(0, MOST_CHAR_GAP), round(default.char_gap * 1000)) / 1000,
        turn=_turn(turn) if "turn" in table else None,
        message=_message(table),
        log=_log(table.table("log")),
        tty=_tty(table.table("tty")),
        modbus_tcp=_modbus_tcp(table.table("modbus_tcp")),
        rfc2217=_rfc2217(table.table("rfc2217")),
        tls=_tls(table.table("tls")),
        remote=_remote(table.table("remote")),
    )
    if port.turn is not None and port.turn.has_requests and port.message is not None:
        key = "message_end" if "message_end" in table else "message_gap_ms"
        table.add_error(
            key, f'has no place beside turn.reply = "{port.turn.reply}", which itself finds the ends of messages'
        )
    table.refuse_the_rest()
    return port


def _log(table: Table) -> LogConfig:
    default = LogConfig()
    log = LogConfig(
        file=table.take("file", _file_path, default.file),
        rotate=table.take("rotate", whole(1, MOST_LOG), default.rotate >> 20) << 20,
    )
    if "rotate" in table and "file" not in table:
        table.add_error("rotate", 'requires file; name it, for example "/var/log/daisyport/P0.log"')
    table.refuse_the_rest()
    return log


def _file_path(found: object) -> Path:
    return Path(_absolute_path(found))


def _tty(table: Table) -> TtyConfig:
    default = TtyConfig()
    tty = TtyConfig(
        paths=table.take("path", _tty_paths, default.paths),
        mode=table.take("mode", _file_mode, default.mode),
        group=table.take("group", text, default.group),
        configure=table.take("configure", truth, default=default.configure),
    )
    for key in ("mode", "group", "configure"):
        if key in table and "path" not in table:
            table.add_error(key, 'requires path; name the tty, for example "/run/daisyport/tty-P0"')
    table.refuse_the_rest()
    return tty


def _tty_paths(found: object) -> tuple[str, ...]:
    return listed(_absolute_path)(found if isinstance(found, list) else [found])


def _absolute_path(found: object) -> str:
    path = text(found)
    if not path.startswith("/"):
        raise Wrong.found(found, "an absolute path")
    return os.path.normpath(path)


def _file_mode(found: object) -> int:
    try:
        return whole(0, 0o777)(found)
    except Wrong:
        raise Wrong.found(found, "a mode in octal digits, for example 0o660") from None


def _turn(table: Table) -> TurnRule | None:
    """Read [port_manager.turn]; None where it has an error."""
    end = table.take("reply_end", _hex(MAX_END), b"")
    length = table.take("reply_length", whole(1, MAX_REPLY), 0)
    implied: ReplyKind | None = "line" if "reply_end" in table else "length" if "reply_length" in table else None
    reply = table.take("reply", one_of(*KINDS), implied)
    default = TurnRule("none")

    def seconds(key: str, otherwise: float) -> float:
        return table.take(key, whole(1, round(MAX_TIME * 1000)), otherwise * 1000) / 1000

    timeout = seconds("reply_timeout_ms", default.reply_timeout)
    silence = seconds("reply_silence_ms", default.reply_silence)
    quiet = table.take("gap_ms", whole(0, round(MAX_TIME * 1000)), None)
    gap = None if quiet is None else quiet / 1000
    longest_wait = seconds("max_wait_ms", default.max_wait)
    reply_to: ReplyTo = table.take("reply_to", one_of("sender", "all"), default.reply_to)
    echo = table.take("echo", truth, default=False)
    table.refuse_the_rest()
    if reply is None:
        if "reply" not in table:
            table.add_error("reply", f"missing; how the end of a reply is known: one of {', '.join(KINDS)}")
        return None
    if ("reply_end" in table) != (reply == "line"):
        table.add_error("reply_end", 'the bytes that end a reply belong to reply = "line", and to no other')
        return None
    if ("reply_length" in table) != (reply == "length"):
        table.add_error("reply_length", 'the length of a reply belongs to reply = "length", and to no other')
        return None
    if (reply == "line" and not end) or (reply == "length" and not length):
        return None  # the error was added to the table's list
    return TurnRule(reply, end, length, timeout, silence, gap, longest_wait, reply_to, echo)


def _modbus_tcp(table: Table) -> ModbusTcpConfig:
    modbus_tcp = ModbusTcpConfig(
        listen=table.take("listen", listed(listen_address), ()), units=table.take("units", listed(whole(0, 255)), ())
    )
    table.refuse_the_rest()
    return modbus_tcp


def _rfc2217(table: Table) -> Rfc2217Config:
    rfc2217 = Rfc2217Config(
        listen=table.take("listen", listed(listen_address), ()),
        lines=table.take("lines", truth, default=True),
        configure=table.take("configure", truth, default=False),
    )
    table.refuse_the_rest()
    return rfc2217


def _tls(table: Table) -> TlsConfig:
    tls = TlsConfig(
        listen=table.take("listen", listed(listen_address), ()), client_ca=table.take("client_ca", _file_path, None)
    )
    if tls.listen and "client_ca" not in table:
        table.add_error("listen", "requires client_ca, whose certificates vouch for the clients' own")
    table.refuse_the_rest()
    return tls


def _remote(table: Table) -> ChainedConfig:
    remote = ChainedConfig(
        lines=table.take("lines", truth, default=False),
        configure=table.take("configure", truth, default=False),
    )
    table.refuse_the_rest()
    return remote


def _message(table: Table) -> MessageRule | None:
    end = table.take("message_end", _hex(MAX_MESSAGE_END), None)
    gap = table.take("message_gap_ms", whole(1, round(MAX_GAP * 1000)), None)
    if end is None and gap is None:
        return None
    return MessageRule(end, None if gap is None else gap / 1000)


def _hex(longest: int) -> Callable[[object], bytes]:
    """Return a rule that accepts 1 to ``longest`` bytes in hexadecimal digits."""

    def rule(found: object) -> bytes:
        try:
            data = bytes.fromhex(text(found))
        except ValueError:
            data = b""
        if not 0 < len(data) <= longest:
            raise Wrong.found(found, f'1 to {longest} bytes in hexadecimal digits, for example "0d0a"')
        return data

    return rule
