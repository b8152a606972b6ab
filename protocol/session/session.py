"""The session of a remote-port link: what outlives its connections, and what both its ends have in common.

``protocol.link.connection.Connection`` turns frames into sealed bytes and back; whoever has a clock passes it as
``now``, in milliseconds of any origin, one a process.

Streams
    Up, towards the line, one for each traffic class (PTZ, TCP, CGI); down one, LINE. Offsets are bytes from
    the session's start and go on through every resumption. A side that sends a stream keeps whole frames in
    a ring until they are settled; the other tells how far it has received, and what became of it.

The two ends
    ``client.ClientSession`` (A) is the device behind a port manager; it lives as long as that, and holds one session
    after another, its offsets going on from one to the next. ``server.ServerSession`` (B) is one session of one
    client; a ``register.Register`` keeps those of a port.

        number = client.attach()                        A: a connection is there (after its Peer event)
        admitted = register.admit(peer, open, id, port) B: the connection's first frame, OPEN, has come
        events = session.receive(number, frame, now)    for each frame out of Connection.next_event()
        frame = session.next_frame(number, now)         when the socket can take one: Connection.send(frame)
        client.detach(), session.detach(now)            the connection has gone

    ``number`` names the connection (OPEN carries it). What a replaced connection still brings is not looked
    at, and it is given nothing to send: ``receive`` returns no events and ``next_frame`` None, however late
    its task wakes up. ``next_frame`` is asked again after every call that may have given it something to
    say. It gives answers and numbers first, then the line's bytes, then PTZ, CGI, TCP.

Errors
    ``receive`` raises RemoteProtocolError where the peer broke the rules behind a good tag: send
    CLOSE(PROTOCOL) and end the session. LocalProtocolError is a bug of the caller.

A client writes
    offset = client.write(channel, data, accepted, turn)    None: no room now, try again after a Settled
    offset = client.control(channel, request, accepted)     the same for what is asked of the line beside its bytes
    settled = client.withdraw(channel, offset)              whoever asked has gone
    settled = client.expire(now); client.next_expiry(now)   what is too old and not on its way is dropped
    settled = client.abandon(reason)                        the resume window is over, the key is wrong

    Every byte that was written has exactly one outcome, told in order on its channel: ``Settled`` with reason
    None (in the owner's tty), lost for a Reason, or Reason.UNCERTAIN. Whoever waits for the message at
    ``offset`` has the whole answer when ``Settled.end`` reaches the message's end.

A client hears
    ``Resumed`` (a session goes on, or a new one began), ``DownData`` (to the bus: where it names an asker, to the
    writer of that message and to monitors alone; OTHERS is nobody here), ``Gap`` in its place
    among them (reason RESTARTED: at least ``count`` bytes, nobody knows how many), ``Turn``, ``Port``,
    ``LineReport`` (before the outcome of whatever it tells of), ``Settled``, ``Close`` (the session is over; by the
    peer's word, or by ours after a LOOP was found).

A server hears
    ``Message``, whole, to be written in one turn of the owner's bus, unless it is older by then than its class may
    be. Then ``session.handed(channel, end)`` as far as the tty took it, ``session.lost(channel, message.end,
    reason)`` for what it will not take. Both move one position for each channel, in order. ``Gap``: what
    the client will not send after all (to be counted). ``Look``: whether anybody below wants to know of the modem
    lines; a new question in it is answered by a ``report`` with its number, once they were looked at. ``Close``: the
    session is over. A Message with a ``control`` is carried out in place of written, and settled whole.

A server says
    ``line(data, asker)``, ``gap(count, reason)``, ``turn(channel, offset, phase, status)``, ``port(state)``,
    ``report(report)``; and for itself ``window(channel, size)``.

A CPU in the middle
    has a ServerSession for each link below it and one ClientSession above. Message -> ``client.write`` with
    the same ``accepted``; each Settled of that range -> ``session.handed`` or ``session.lost`` with the same
    reason, so that ACK means the owner's tty at every hop. DownData, Gap and Turn -> ``line``, ``gap`` and ``turn``
    of the sessions below: the offset of a message is translated back for the session that it came from, and for all
    others the asker is OTHERS, who have no Turn. While ``write`` says None the message
    waits: credit keeps that short. Before it ends the sessions below it loses what it wrote and has no outcome
    for as UNCERTAIN (``client.abandon`` first does just that).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias, final

from protocol.frozen import frozen
from protocol.link.message_rules import AGE_LIMIT, PTZ_AGE_LIMIT
from protocol.link.stream_frames import Channel

if TYPE_CHECKING:
    from protocol.link.port_state import PortState

__all__ = ["CLASSES", "NO_SESSION", "SEND_ORDER", "AgeLimits", "Resumed", "SessionLimits"]

NO_SESSION: Final = bytes(16)
"""The session id of whoever has none."""

CLASSES: Final = (Channel.PTZ, Channel.TCP, Channel.CGI)
"""The up streams in the order of their channels."""

SEND_ORDER: Final = (Channel.PTZ, Channel.CGI, Channel.TCP)
"""The order in which the classes go on a link: no transfer in front of a command."""

AgeLimits: TypeAlias = Mapping[Channel, int]
"""The age limit of each class in milliseconds."""

_AGE_LIMITS: Final[AgeLimits] = MappingProxyType(
    {Channel.PTZ: PTZ_AGE_LIMIT, Channel.TCP: AGE_LIMIT, Channel.CGI: AGE_LIMIT}
)


@final
@frozen
class SessionLimits:
    """The bounds of what a session holds, and for how long.

    ``ring_bytes`` and ``ring_frames`` bound each ring of what this side sends, ``window`` the bytes that may be under
    way to it on each stream that it receives, ``age`` the milliseconds that a message may wait.
    """

    ring_bytes: int = 64 * 1024
    ring_frames: int = 4096
    window: int = 64 * 1024
    age: AgeLimits = field(default_factory=lambda: _AGE_LIMITS)


@final
@frozen
class Resumed:
    """A connection's session goes on, or a new one has begun on it; ``port`` is the state of the server's port."""

    port: PortState
