"""``daisyport status --watch``: show the gateway again and again, with rates, until Ctrl-C.

What is shown is made as plain tables first (``screen``), then drawn: with rich where it is installed and there is a
terminal, else as columns of text. While a gateway restarts, the picture says so and goes on.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, final

from gateway.cli.command import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console, Group

__all__ = ["Table", "in_words", "screen", "watch"]

Status: TypeAlias = "Mapping[str, Any]"

_WIDTH = 80
_EACH = 1.0


@final
class Table(NamedTuple):
    """Rows under headings; ``widths`` are those of the columns, negative where numbers stand to the right."""

    headings: Sequence[str]
    widths: Sequence[int]
    rows: Sequence[Sequence[str]]

    def lines(self) -> Iterator[str]:
        """Write it as columns of text, at most 80 characters wide."""
        for row in (self.headings, *self.rows):
            cells = (
                f"{cell[:width]:{width}}" if width > 0 else f"{cell[:-width]:>{-width}}"
                for cell, width in zip(row, self.widths, strict=True)
            )
            yield " ".join(cells).rstrip()


def watch(ask: Callable[[], Status]) -> int:
    """Show what ``ask`` returns each second until Ctrl-C."""
    console = _console()
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        show = _plainly if console is None else stack.enter_context(_live(console))
        before: Status | None = None
        asked_before = 0.0
        while True:
            now = time.monotonic()
            try:
                status = ask()
            except CommandError as exc:
                before = None
                first, *rest = _folded(str(exc))
                show(time.strftime("%H:%M:%S"), [Table(first, [_WIDTH], rest)])
            else:
                about = f": Daisyport {status['version']}  {time.strftime('%H:%M:%S')}"
                heading = f"{status['node'][: _WIDTH - len(about)]}{about}"
                show(heading, list(screen(status, before, now - asked_before, time.time())))
                before, asked_before = status, now
            time.sleep(_EACH)
    return 0


def screen(status: Status, before: Status | None, seconds: float, clock: float) -> Iterator[Table]:
    """Make the tables of one moment; rates are since ``before``, ``seconds`` ago. ``clock`` is the time of day."""
    known = {port["name"]: port for port in before["ports"]} if before is not None else {}
    rows, refused = [], []
    for port in status["ports"]:
        old = known.get(port["name"], {})
        rates = [_rate(port, old, key, seconds) for key in ("bytes_from_line", "bytes_to_line")]
        device = port.get("device") or f"R{port['remote_port']}"
        rows.append([port["name"], port["state"], in_words(port.get("settings_in_force")), device[-24:], *rates])
        if port["reason"]:
            refused += _folded(f"{port['name']}: {port['reason']}")
        for name, why in port.get("settings_refused", {}).items():
            refused += _folded(f"{port['name']}: {name} is not as it is wanted: {why}")
    yield Table(["PORT", "STATE", "LINE", "DEVICE", "FROM LINE", "TO LINE"], [4, 6, 17, 24, -11, -11], rows)
    if refused:
        yield Table(["WHAT IS WRONG"], [_WIDTH], refused)
    turns = [row for port in status["ports"] for row in _turns(port)]
    if turns:
        headings = ["PORT", "AS CONFIGURED", "TURN RULE", "HOLDER OF THE TURN", "WAITING"]
        yield Table(headings, [4, 17, 11, 36, -8], turns)
    clients = [row for port in status["ports"] for row in _clients(port, known.get(port["name"], {}), seconds, clock)]
    if clients:
        headings = ["PORT", "CLIENT", "SERVICE", "MAY", "SINCE", "TO LINE", "TO CLIENT", "QUEUE"]
        yield Table(headings, [4, 22, 11, 5, -8, -8, -9, -6], clients)
    links = [row for port in status["ports"] for row in _links(port)]
    if links:
        headings = ["PORT", "LINK", "STATE", "KEY", "TRIP", "RESUMED", "RESENT", "LOST", "GAPS"]
        yield Table(headings, [4, 24, 5, 4, -7, -7, -6, -6, -6], links)
    candidates = [row for port in status["ports"] for row in _candidates(port)]
    if candidates:
        yield Table(["PORT", "MAY BE DIALLED", "IN", "LAST ANSWER"], [4, 26, -5, 42], candidates)


def _turns(port: Status) -> Iterator[list[str]]:
    """Describe how the parameters set a line of our own, and who holds it."""
    if (sharing := port.get("sharing")) is None:
        return
    holder = sharing.get("holder")
    held = "" if holder is None else f"{holder} for {sharing['held_ms']} ms"
    waiting = str(sharing.get("waiting") or "")
    yield [port["name"], port.get("settings_configured", ""), sharing["rule"] or "none", held, waiting]


def _clients(port: Status, old: Status, seconds: float, clock: float) -> Iterator[list[str]]:
    known = {(client["holder"], client["since"]): client for client in old.get("clients", ())}
    for client in port["clients"]:
        earlier = known.get((client["holder"], client["since"]), {})
        yield [
            port["name"],
            client["holder"],
            client["service"],
            "write" if client["writes"] else "read",
            _age(clock - client["since"]),
            _rate(client, earlier, "written", seconds),
            _rate(client, earlier, "bytes_out", seconds),
            _short(client["queue"]),
        ]


def _links(port: Status) -> Iterator[list[str]]:
    """Describe the links. LOST are bytes towards the line; GAPS are places in the line above us, but bytes below us."""
    if (link := port.get("remote_port_client")) is not None:
        who = f"to {link['server_name'] or link['server_node'][:8]} {link['server_port']}"
        lost = _short(sum(link["bytes_lost"].values()))
        yield [port["name"], who, *_state(link, "none" if "warning" in link else "yes"), lost, str(port["gaps"])]
    server = port.get("remote_port_server", {})
    for link in server.get("links", ()):
        who = f"from {link['name'] or link['node'][:8]} {link['remote_port']}"
        key = "none" if "warning" in server else "old" if link["old_key"] else "yes"
        yield [port["name"], who, *_state(link, key), _short(link["dropped"]), _short(link["bytes_never_sent"])]


def _candidates(port: Status) -> Iterator[list[str]]:
    for each in port.get("remote_port_candidates", ()):
        who = each["name"] or each["address"]
        yield [port["name"], who, f"{each['next_try_seconds']:.0f} s", each["last_answer"] or "not tried yet"]


def _state(link: Status, key: str) -> tuple[str, ...]:
    trip = "" if link["round_trip_ms"] is None else f"{link['round_trip_ms']} ms"
    state = "up" if link["linked"] else "down"
    return state, key, trip, str(link["resumes"]), _short(link["bytes_resent"])


def _folded(text: str) -> list[list[str]]:
    """Return the rows of a table of one column, with all of a text: its end says what to do."""
    return [[line] for line in textwrap.wrap(text, _WIDTH, subsequent_indent="  ")]


def in_words(settings: Status | None) -> str:
    """Write line settings as people do: ``RS232 9600 8N1``."""
    if not settings:
        return ""
    frame = f"{settings['DataBits']}{settings['Parity'][0]}{settings['StopBits']}"
    return f"{settings['PortMode']} {settings['BaudRate']} {frame}"


def _rate(now: Status, before: Status, key: str, seconds: float) -> str:
    """Return bytes a second since ``before``; nothing where it is not known, or the counter began anew."""
    if key not in now or key not in before or now[key] < before[key] or seconds <= 0:
        return ""
    return f"{_short((now[key] - before[key]) / seconds)}/s"


def _short(count: float) -> str:
    """Write a number of bytes in at most five characters."""
    for unit in ("B", "K", "M", "G"):
        if count < 1000:
            return f"{count:.0f}{unit}" if unit == "B" or count >= 10 else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.0f}T"


def _age(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h"


def _console() -> Console | None:
    """Return rich's console; None without a terminal, or without rich."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(highlight=False)
    return console if console.is_terminal else None


@contextlib.contextmanager
def _live(console: Console) -> Iterator[Callable[[str, Sequence[Table]], None]]:
    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda heading, tables: live.update(_drawn(heading, tables), refresh=True)


def _drawn(heading: str, tables: Sequence[Table]) -> Group:
    from rich import box
    from rich.console import Group
    from rich.table import Table as Drawing
    from rich.text import Text

    drawings = []
    for table in tables:
        drawing = Drawing(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=False)
        for name, width in zip(table.headings, table.widths, strict=True):
            drawing.add_column(name, justify="left" if width > 0 else "right", no_wrap=True, max_width=abs(width))
        for row in table.rows:
            # As Text, since a peer's name must not be read as markup.
            drawing.add_row(*map(Text, row), style="bold red" if "down" in row else "")
        drawings.append(drawing)
    return Group(Text(heading, style="bold"), *drawings)


def _plainly(heading: str, tables: Sequence[Table]) -> None:
    if sys.stdout.isatty():
        print("\x1b[H\x1b[2J", end="")
    print("\n\n".join([heading, *("\n".join(table.lines()) for table in tables)]) + "\n", flush=True)
