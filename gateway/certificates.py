"""The certificate by which this host proves itself over TLS. Loaded only where TLS is spoken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.web.tls import Tls

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.host.config import Config

__all__ = ["own_certificate"]


def own_certificate(config: Config, port: str = "", client_ca: Path | None = None) -> Tls:
    """Return this host's certificate; a self-signed one is made for every name that the host listens under.

    At ``port`` (``P0``) clients prove who they are by certificates for which the file ``client_ca`` vouches.
    """
    http = config.http
    listen = [*http.listen, *(where for each in config.sharing for where in each.tls.listen)]
    hosts = [host for host, _ in listen if host not in ("0.0.0.0", "::")]
    names = dict.fromkeys([config.node_name, "localhost", "127.0.0.1", "::1", *hosts])
    return Tls(http.tls_certificate, http.tls_key, config.state_dir, tuple(names), port, client_ca)
