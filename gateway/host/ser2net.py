"""Translate a configuration of ser2net 4 into ours: a pure function from its text to lines of two files.

Its YAML repeats the key ``connection`` for each connection, which a mapping cannot hold; so the file is read as YAML's
events, and every pair is kept in its order. Aliases stand for text (``*name`` as a value, ``*(name)`` within one).

What has no equivalent here is reported with its connection, and never dropped in silence: the operator has to know of
raw bytes where TLS was spoken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from gateway.host.config_file import RATES
from protocol.endpoint import Endpoint
from protocol.frozen import frozen
from protocol.parameters.settings import DATA_BITS, FAST_RATES, SECONDS, SLOW_RATES, TCP_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Carried", "Ser2netError", "carried"]

_LARGEST: Final = 1 << 20
_LONGEST: Final = 4096
"""Characters of one text with what is defined put in: a few definitions, each of the one before, come to any number."""
_DEEPEST: Final = 20
_SPEED: Final = re.compile(r"([0-9]{1,9})(?:([NEOMSneoms])([5-8])?([12])?)?")
_PORT: Final = re.compile("0*([0-9]{1,5})")
_PARITIES: Final = {"n": "None", "e": "Even", "o": "Odd"}
_ABOUT_BYTES: Final = ("ssl", "certauth", "mux", "conacc", "kiss", "msgdelim", "relpkt", "perf", "trace")
"""Protocols that ser2net can stack on a connection, and that are not spoken here."""

Pairs: TypeAlias = "list[tuple[str, Value]]"


@final
class Ser2netError(Exception):
    """The file cannot be read; the message says why, with the line where that is known."""


@final
@frozen
class Value:
    """A value: text, or the pairs of a mapping, or the items of a list; ``anchor`` is the name it was given."""

    text: str = ""
    pairs: tuple[tuple[str, Value], ...] = ()
    items: tuple[Value, ...] = ()
    anchor: str = ""


@final
@dataclass
class _Line:
    """A serial device, with the first connection to it."""

    device: str
    settings: dict[str, str]
    parameters: list[tuple[str, str]]
    rates: list[int] = field(default_factory=list)
    data_bits: list[int] = field(default_factory=list)
    telnet: tuple[str, ...] = ()
    """Where clients reach it by telnet ..."""
    rfc2217: bool = False
    """... and whether they may set the line by RFC 2217."""
    tls: tuple[str, ...] = ()
    """Where clients reach it by TLS ..."""
    client_ca: str = ""
    """... and the file of the authorities for their certificates."""


@final
@dataclass
class Carried:
    """The configuration and the parameters for a file of ser2net, and what of it could not be carried over."""

    hosts: set[str] = field(default_factory=set)
    """The addresses that its accepters name; empty text for all of them."""
    lines: list[_Line] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    certificate: tuple[str, str] | None = None
    """The files of the certificate by which TLS was spoken, and of its key; the first, where there are several."""

    def leave(self, what: str) -> None:
        """Name what is not carried over: one line, for it stands as a comment in the file that is made of this."""
        self.left.append("".join(character if character.isprintable() else "?" for character in what))

    @property
    def configuration(self) -> Iterator[str]:
        """The lines of daisyport.toml."""
        if self.hosts == {"127.0.0.1"}:
            yield from ("[tcp]", 'bind = ["127.0.0.1"]', "")
        if self.certificate is not None:
            certificate, key = map(_quoted, self.certificate)
            yield from ("[http]", f"tls_certificate = {certificate}", f"tls_key = {key}", "")
        for number, line in enumerate(self.lines, start=1):
            yield f"[[serial]]                         # Ser{number}, PortManager.P{number - 1}"
            yield f"device = {_quoted(line.device)}"
            yield 'modes = ["RS232"]                  # ser2net does not say; RS485 where it is that'
            if line.rates:
                yield f"rates = {line.rates}"
            if line.data_bits:
                yield f"data_bits = {line.data_bits}"
            yield ""
        if any(line.telnet or line.tls for line in self.lines):
            for number, line in enumerate(self.lines, start=1):
                yield from ("[[port_manager]]", f"serial = {number}", "")
                if line.telnet:
                    yield from ("[port_manager.rfc2217]", f"listen = [{', '.join(map(_quoted, line.telnet))}]")
                    yield from (f"configure = {str(line.rfc2217).lower()}", "")
                if line.tls:
                    yield from ("[port_manager.tls]", f"listen = [{', '.join(map(_quoted, line.tls))}]")
                    yield from (f"client_ca = {_quoted(line.client_ca)}", "")

    @property
    def parameters(self) -> Iterator[str]:
        """The lines of the parameter file."""
        for number, line in enumerate(self.lines, start=1):
            for name, value in line.settings.items():
                yield f"root.Serial.Ser{number}.{name}={value}"
            for name, value in line.parameters:
                yield f"root.PortManager.P{number - 1}.{name}={value}"


def carried(text: str) -> Carried:
    """Translate a configuration of ser2net. Raises Ser2netError."""
    result = Carried()
    words: dict[str, str] = {}
    defaults = {"speed": "9600n81", "local": "false", "rtscts": "false", "xonxoff": "false"}
    known: dict[str, _Line] = {}
    for key, value in _pairs(text):
        match key:
            case "define":
                words[value.anchor] = _expanded(value.text, words)
            case "default":
                _take_default(value, defaults, result)
            case "connection":
                _take_connection(value, words, defaults, known, result)
            case _:
                result.leave(f"{key} {value.anchor or value.text}".strip() + ": there is nothing like it here")
    return result


def _take_default(value: Value, defaults: dict[str, str], result: Carried) -> None:
    said = {key: each.text for key, each in value.pairs}
    if said.get("name") in defaults and said.get("class", "serialdev") == "serialdev":
        defaults[said["name"]] = said.get("value", "")
    else:
        result.leave(f"default {said.get('name', '')}: there is nothing like it here")


def _take_connection(
    value: Value, words: dict[str, str], defaults: dict[str, str], known: dict[str, _Line], result: Carried
) -> None:
    """Make a line of the first connection to a serial device; note why any other connection is left out."""
    who = value.anchor or "a connection without a name"
    said = dict(value.pairs)
    accepter = _expanded(_text(said, "accepter"), words)
    kind, _, rest = _expanded(_text(said, "connector"), words).partition(",")
    if kind.strip() not in ("serialdev", "sdev"):
        result.leave(f"{who}: the connector {kind.strip()} is no serial device")
        return
    device, *options = [word for word in re.split(r"[,\s]+", rest) if word] or [""]
    if not _is_path(device):
        result.leave(f"{who}: {device!a:.60} is no device")
        return
    if (first := known.get(device)) is not None:
        port = dict(first.parameters).get("GenericTCPServer.Listener.Port", "none")
        result.leave(f"{who}: {device} has a listener already ({port}); a port has one, at one rate")
        return
    line = known[device] = _Line(device, {}, [])
    result.lines.append(line)
    _set_line(who, line, options, defaults, result)
    wanted = _text(said, "enable").lower() not in ("off", "false", "no")
    enabled = _set_listener(who, line, accepter, result, wanted=wanted) and wanted
    server = "GenericTCPServer"
    line.parameters += [(f"{server}.Enabled", "yes"), (f"{server}.Listener.Enabled", "yes" if enabled else "no")]
    for key, each in value.pairs:
        if key == "timeout":
            seconds = int(each.text) if re.fullmatch("[0-9]{1,9}", each.text) else SECONDS.maximum + 1
            if seconds > SECONDS.maximum:
                result.leave(f"{who}: the timeout {each.text}: 0 to {SECONDS.maximum} seconds are one")
                seconds = 0
            line.parameters.append((f"{server}.Timeout", str(seconds)))
        elif key == "options":
            for option, given in each.pairs:
                if given.text.lower() not in ("", "false"):
                    result.leave(f"{who}: the option {option}")
        elif key not in ("accepter", "connector", "enable"):
            result.leave(f"{who}: {key}")


def _set_line(who: str, line: _Line, options: list[str], defaults: dict[str, str], result: Carried) -> None:
    speed = defaults["speed"]
    switches = {name: defaults[name].lower() in ("true", "yes", "on") for name in ("local", "rtscts", "xonxoff")}
    for option in options:
        name, equals, given = option.partition("=")
        name = {"speed": "speed", "clocal": "local"}.get(name.lower(), name.lower())
        if name == "speed" or _SPEED.fullmatch(option):
            speed = given if equals else option
        elif name in switches:
            switches[name] = given.lower() not in ("false", "no", "off")
        elif name.startswith("-") and name[1:] in switches:
            switches[name[1:]] = False
        else:
            result.leave(f"{who}: the line's option {option}")
    if not switches["local"]:
        result.leave(f"{who}: modem control (no `local`): the line is used whatever DCD says")
    found = _SPEED.fullmatch(speed)
    if found is None or not RATES[0] <= int(found[1]) <= RATES[1]:
        result.leave(f"{who}: the speed {speed}")
        return
    rate, parity, bits, stop = int(found[1]), (found[2] or "n").lower(), int(found[3] or 8), found[4] or "1"
    if parity not in _PARITIES:
        result.leave(f"{who}: the parity {'mark' if parity == 'm' else 'space'}")
        parity = "n"
    if rate not in SLOW_RATES + FAST_RATES:
        line.rates.append(rate)
    if bits not in DATA_BITS:
        line.data_bits.append(bits)
    line.settings |= {"BaudRate": str(rate), "DataBits": str(bits), "Parity": _PARITIES[parity], "StopBits": stop}
    line.settings["FlowControlRTSCTS"] = "yes" if switches["rtscts"] else "no"
    line.settings["FlowControlXONXOFF"] = "yes" if switches["xonxoff"] else "no"


def _set_listener(who: str, line: _Line, accepter: str, result: Carried, *, wanted: bool) -> bool:
    """Take the TCP port from the innermost part of an accepter, and the protocols above it.

    Return whether it may be opened: never to more addresses than before.
    """
    parts = [part.strip() for part in re.split(r",(?![^()]*\))", accepter)]
    telnet = parts.pop(0) if parts[0].partition("(")[0] == "telnet" else ""
    tls = _clients_prove_themselves(parts[0]) if not telnet else None
    if tls is not None:
        parts.pop(0)
    while parts and parts[0].partition("(")[0] in _ABOUT_BYTES:
        result.leave(f"{who}: {parts[0]}: clients of this port find raw bytes over TCP")
        parts.pop(0)
    number = _PORT.fullmatch(parts[-1]) if parts and parts[0].partition("(")[0] == "tcp" else None
    if number is None or not 1 <= int(number[1]) <= TCP_PORT.maximum:
        result.leave(f"{who}: the accepter {accepter}: only TCP can be listened on")
        return False
    port = int(number[1])
    host = parts[1] if len(parts) == 3 else ""
    host = "127.0.0.1" if host == "localhost" else host
    if telnet or tls is not None:
        hosts = [host] if host not in ("", "::") else ["0.0.0.0", "::"]
        listen = tuple(str(Endpoint(each, port)) for each in hosts)
        if not all(_is_address(each) for each in hosts):
            result.leave(f"{who}: the address {host}: only an IP address can be listened on; nothing is opened")
        elif not wanted:
            what = f"{telnet}: it is disabled, so nothing is listened on by telnet" if telnet else "ssl: it is disabled"
            result.leave(f"{who}: {what}")
        elif tls is not None:
            _set_tls(who, line, listen, tls, result)
        else:
            line.rfc2217, line.telnet = "rfc2217" in telnet, listen
        return False
    if port < TCP_PORT.minimum:
        result.leave(f"{who}: the port {port}: a listener has one of {TCP_PORT.minimum} to {TCP_PORT.maximum}")
        return False
    result.hosts.add(host)
    line.parameters.append(("GenericTCPServer.Listener.Port", str(port)))
    if host == "127.0.0.1":
        line.parameters.append(("GenericTCPServer.AllowedIPAddresses", host))
    elif host not in ("", "0.0.0.0", "::"):
        result.leave(f"{who}: the address {host}: [tcp] bind is for all ports; the listener is left closed")
        return False
    return True


def _clients_prove_themselves(part: str) -> dict[str, str] | None:
    """Return the options of a protocol that is TLS with clients' certificates; None where it is anything else."""
    name, _, rest = part.partition("(")
    options = dict(option.strip().partition("=")[::2] for option in rest.rstrip(") ").split(","))
    asked = options.get("clientauth", "false").lower() in ("", "true", "yes", "on", "1")
    return options if name == "ssl" and asked and options.get("CA") else None


def _set_tls(who: str, line: _Line, listen: tuple[str, ...], options: dict[str, str], result: Carried) -> None:
    """Have a line served over TLS to the users that certificates name. The gateway has one certificate for all."""
    authorities, certificate = options["CA"], options.get("cert", options.get("key", ""))
    if not _is_path(authorities) or authorities.endswith("/"):
        result.leave(f"{who}: ssl: CA={authorities}: client_ca is the absolute path of one file; nothing is opened")
        return
    line.tls, line.client_ca = listen, authorities
    result.leave(f"{who}: ssl: the common name (CN) of each client's certificate has to be a user's here")
    own = certificate, options.get("key", certificate)
    if not all(map(_is_path, own)) or result.certificate not in (None, own):
        result.leave(f"{who}: ssl: its certificate {certificate}: [http] tls_certificate is for all ports")
    else:
        result.certificate = own


def _is_path(text: str) -> bool:
    return text.startswith("/") and text.isprintable()


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return text.isprintable()


def _quoted(text: str) -> str:
    """Write a TOML string of printable characters."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(said: dict[str, Value], key: str) -> str:
    return said[key].text.strip() if key in said else ""


def _expanded(text: str, words: dict[str, str]) -> str:
    """Put in what was defined for ``*(name)``. Raises Ser2netError."""
    if len(text) <= _LONGEST:
        text = re.sub(r"\*\(([^()]*)\)", lambda found: words.get(found[1], found[0]), text)
    if len(text) > _LONGEST:
        raise Ser2netError(f"{text[:20]!a}... comes to more than {_LONGEST} characters")
    return text


# YAML ------------------------------------------------------------------------------------------------------------


def _pairs(text: str) -> Iterator[tuple[str, Value]]:
    """Yield the pairs of the file's mapping. Raises Ser2netError."""
    import yaml

    if len(text) > _LARGEST:
        raise Ser2netError("larger than 1 MiB: this cannot be a configuration file")
    try:
        # One by one: the scanner takes time by the square of the depth, and depth is refused where it is met.
        events = (event for event in yaml.parse(text, Loader=yaml.SafeLoader) if not _is_frame(event))
        first = next(events, None)
        if not isinstance(first, yaml.MappingStartEvent):
            raise Ser2netError("it is no configuration of ser2net 4: it has no `connection:`")
        found = _read(first, events, {}, 0)
        if (more := next(events, None)) is not None:
            raise Ser2netError(f"line {more.start_mark.line + 1}: a second document begins; make one of them")
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise Ser2netError(f"{where}not YAML: {getattr(exc, 'problem', None) or exc}") from None
    yield from found.pairs


def _is_frame(event: Any) -> bool:
    import yaml

    frames = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)
    return isinstance(event, frames)


def _read(event: Any, events: Iterator[Any], anchors: dict[str, Value], depth: int) -> Value:
    """Read the value that begins with an event."""
    import yaml

    if depth > _DEEPEST:
        raise Ser2netError("it is nested too deep")
    if isinstance(event, yaml.AliasEvent):
        # A reference to a connection, as rotators have, is told by its name alone.
        return anchors.get(event.anchor, Value(event.anchor))
    anchor = event.anchor or ""
    if isinstance(event, yaml.ScalarEvent):
        value = Value(event.value, anchor=anchor)
    elif isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_read(event, events, anchors, depth + 1))
        value = Value(items=tuple(items), anchor=anchor)
    else:
        pairs = []
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = _read(event, events, anchors, depth + 1)
            pairs.append((key.text, _read(next(events), events, anchors, depth + 1)))
        value = Value(pairs=tuple(pairs), anchor=anchor)
    if anchor and not value.pairs:
        anchors[anchor] = value
    return value
