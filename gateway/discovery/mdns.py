"""Multicast DNS by the zeroconf package: blocking calls, for a thread of the caller.

The package costs 5 MB and a tenth of a second, so it is imported at its first use. It reports what it hears on a thread
of its own.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Final, final

from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zeroconf import ServiceInfo, ServiceStateChange

__all__ = ["SERVICE", "MdnsError", "Responder", "ServiceRecord"]

SERVICE: Final = "_daisyport._tcp.local."


class MdnsError(Exception):
    """The network, the host or the package refuses something; the message is one sentence."""


@final
@frozen
class ServiceRecord:
    """A service as multicast DNS has it: ``name`` is the instance's, ``host`` that of the SRV record, without domain.

    Addresses are numeric; a link-local one that was heard has its zone.
    """

    name: str
    host: str
    port: int
    text: bytes
    addresses: tuple[str, ...]


@final
class Responder:
    """Speaks and listens on the link ``device`` from ``address``, one of this host's there. Raises MdnsError.

    It announces and finds services of the type ``service``.

    Every method may block for about half a second, and raises MdnsError.
    """

    def __init__(self, device: str, address: str, service: str = SERVICE) -> None:
        from zeroconf import Zeroconf

        # It logs malformed packets and lost links with tracebacks: nothing that an operator could mend.
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
        self._service = service
        self._announced: dict[str, ServiceInfo] = {}
        with _translated():
            self._zeroconf = Zeroconf(interfaces=[address])
        self._bind(device)

    def _bind(self, device: str) -> None:
        """Bind the sockets to this link, or questions from other links would be answered with addresses of this one.

        A socket that listens on port 5353 hears every link on which any process of the host has joined the group.
        """
        engine = self._zeroconf.engine
        for transport in (*engine.readers, *engine.senders):
            # Kernels before 5.7 let only root do that. There it stays as it was: no address of another link is told.
            with contextlib.suppress(OSError):
                transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")

    def announce(self, service: ServiceRecord) -> None:
        """Announce a service, or what is new about it.

        The name must be unique by construction, because it is not probed for: that would take more than a second.
        """
        from zeroconf import ServiceInfo

        info = ServiceInfo(
            self._service,
            f"{service.name}.{self._service}",
            port=service.port,
            properties=service.text,
            server=f"{service.host}.local.",
            parsed_addresses=list(service.addresses),
        )
        with _translated():
            if service.name in self._announced:
                self._zeroconf.update_service(info)
            else:
                self._zeroconf.register_service(info, cooperating_responders=True)
        self._announced[service.name] = info

    def withdraw(self, name: str) -> None:
        """Say goodbye to a service that was announced."""
        with _translated():
            self._zeroconf.unregister_service(self._announced.pop(name))

    def look(self, told: Callable[[str, bool], None]) -> Callable[[], None]:
        """Ask for services until the function that is returned is called, which waits for its thread.

        ``told`` is called on that thread with the full name of a service and whether it is there, whenever that may
        have changed. Neither is certain.
        """
        from zeroconf import ServiceBrowser
        from zeroconf import ServiceStateChange as Change

        def changed(*, name: str, state_change: ServiceStateChange, **_: object) -> None:
            told(name, state_change is not Change.Removed)

        with _translated():
            return ServiceBrowser(self._zeroconf, self._service, handlers=[changed]).cancel

    def resolve(self, name: str, seconds: float) -> ServiceRecord | None:
        """Ask where the service with this full name is; None if nobody says so in time. Most have said it already."""
        with _translated():
            info = self._zeroconf.get_service_info(self._service, name, int(seconds * 1000))
        if info is None:
            return None
        addresses = tuple(info.parsed_scoped_addresses())
        return ServiceRecord(name, info.server or "", info.port or 0, info.text or b"", addresses)

    def close(self) -> None:
        """Say goodbye to all that was announced, and end the threads."""
        with _translated():
            self._zeroconf.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    from zeroconf import Error

    try:
        yield
    # RuntimeError: no thread, no interface, a loop that has ended. None of these may end the gateway.
    except (Error, OSError, RuntimeError) as exc:
        raise MdnsError(f"multicast DNS: {str(exc) or type(exc).__name__}") from exc
