"""Certificates as hosts really have them: right, wrong, out of date, exchanged while the gateway runs."""

from __future__ import annotations

import datetime
import logging
import socket
import ssl
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.web.self_signed import make_certificate
from gateway.web.tls import Certificate, CertificateError, Tls

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.web.tls_stream import TlsStream

NOW = datetime.datetime.now(datetime.UTC)
YEAR = datetime.timedelta(days=365)
NAMES = ("cpu1", "127.0.0.1", "::1", "not a host name")
PLAIN = NoEncryption()


def pem(begin: datetime.datetime = NOW - YEAR, end: datetime.datetime = NOW + YEAR) -> tuple[bytes, bytes]:
    """A certificate of these dates, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cam")])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("cam")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return signed.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, PLAIN)


def written(path: Path, *pieces: bytes) -> Path:
    path.write_bytes(b"".join(pieces))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a certificate and its key."""
    certificate, key = pem()
    return written(tmp_path / "cam.pem", certificate), written(tmp_path / "cam.key", key)


def error(path: Path, key: Path | None = None) -> str:
    with pytest.raises(CertificateError) as caught:
        Certificate.load(path, key)
    return str(caught.value)


# --- one certificate ---


def test_a_certificate_is_known_by_the_fingerprint_that_openssl_shows(files: tuple[Path, Path]) -> None:
    loaded = Certificate.load(*files)
    der = ssl.PEM_cert_to_DER_cert(files[0].read_text())
    shown = x509.load_der_x509_certificate(der).fingerprint(hashes.SHA256()).hex(":").upper()
    assert (loaded.fingerprint, loaded.out_of_date) == (shown, "")


def test_certificate_and_key_may_be_in_one_file_with_those_that_signed_it(tmp_path: Path) -> None:
    certificate, key = pem()
    issuer, _ = pem()
    one = written(tmp_path / "all.pem", b"# made by hand\n", key, certificate, issuer)
    apart = written(tmp_path / "cam.pem", certificate), written(tmp_path / "cam.key", key)
    assert Certificate.load(one).fingerprint == Certificate.load(*apart).fingerprint


def test_a_certificate_that_others_signed_needs_none_of_theirs(tmp_path: Path) -> None:
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    whose, by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("cam", "our CA"))
    signed = x509.CertificateBuilder(by, whose, key.public_key(), 7, NOW - YEAR, NOW + YEAR)
    certificate = signed.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM)
    one = written(tmp_path / "one.pem", certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, PLAIN))
    assert Certificate.load(one).out_of_date == ""


def test_what_cannot_be_used_is_named_with_its_file(tmp_path: Path, files: tuple[Path, Path]) -> None:
    certificate, key = files
    foreign = written(tmp_path / "foreign.key", pem()[1])
    assert error(certificate, foreign) == f"{certificate}: the key in {foreign} is not that of this certificate"
    assert error(tmp_path / "none.pem") == f"{tmp_path}/none.pem cannot be read: No such file or directory"
    assert error(certificate, tmp_path) == f"{tmp_path} cannot be read: Is a directory"
    assert error(key, key) == f"{key}: no PEM certificate in it (BEGIN CERTIFICATE)"
    assert error(certificate).startswith(f"{certificate}: no PEM key in it (BEGIN PRIVATE KEY)")
    junk = written(tmp_path / "junk.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert error(junk, key).startswith(f"{junk} or {key}: not PEM that OpenSSL can use")
    both = written(tmp_path / "both.pem", junk.read_bytes(), key.read_bytes())
    assert error(both).startswith(f"{both}: not PEM that OpenSSL can use")


def test_a_key_with_a_password_asks_nobody_for_it(tmp_path: Path, files: tuple[Path, Path]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    path = written(tmp_path / "locked.key", locked)
    assert error(files[0], path) == (
        f"{path}: the key has a password, which nobody is there to type; remove it from the key"
    )


def test_a_key_too_weak_for_a_client_is_refused(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cam")])
    signed = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - YEAR, NOW + YEAR).sign(key, hashes.SHA256())
    path = written(
        tmp_path / "weak.pem",
        signed.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, PLAIN),
    )
    assert "small" in error(path).lower()


def test_a_kind_of_key_that_tls_no_longer_knows_is_refused(tmp_path: Path) -> None:
    key = dsa.generate_private_key(2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cam")])
    signed = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - YEAR, NOW + YEAR).sign(key, hashes.SHA256())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, PLAIN)
    path = written(tmp_path / "dsa.pem", signed.public_bytes(Encoding.PEM), secret)
    assert error(path).startswith(f"{path}: no TLS connection can be made with it")


def test_a_certificate_for_clients_only_is_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cam")])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - YEAR, NOW + YEAR)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, PLAIN)
    path = written(tmp_path / "client.pem", signed.public_bytes(Encoding.PEM), secret)
    assert error(path).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("begin", "end", "why"),
    [
        (NOW - 2 * YEAR, NOW - YEAR, "certificate has expired"),
        (NOW + YEAR, NOW + 2 * YEAR, "certificate is not yet valid"),
    ],
)
def test_a_certificate_that_is_out_of_date_says_so(
    tmp_path: Path, begin: datetime.datetime, end: datetime.datetime, why: str
) -> None:
    assert Certificate.load(written(tmp_path / "old.pem", *pem(begin, end))).out_of_date == why


def test_it_is_known_when_a_certificate_ends(tmp_path: Path) -> None:
    end = (NOW + YEAR).replace(microsecond=0)
    loaded = Certificate.load(written(tmp_path / "new.pem", *pem(NOW - YEAR, end)))
    assert loaded.ends == end.timestamp()
    assert Certificate.load(written(tmp_path / "old.pem", *pem(NOW - 2 * YEAR, NOW - YEAR))).ends is None
    assert Certificate.load(written(tmp_path / "own.pem", make_certificate(("cpu1",)))).ends is None


# --- the one in force ---


def configured(path: Path, key: Path | None = None) -> Tls:
    return Tls(path, key, path.parent, NAMES)


def test_a_new_certificate_takes_the_place_of_the_old_one(files: tuple[Path, Path]) -> None:
    tls = configured(*files)
    tls.load()
    before = tls.status
    for path, content in zip(files, pem(), strict=True):
        path.write_bytes(content)
    tls.load()
    assert tls.status["fingerprint_sha256"] != before["fingerprint_sha256"]
    assert tls.status["complaint"] == before["complaint"] == ""


@pytest.mark.parametrize("new", [b"", b"".join(pem(NOW - 2 * YEAR, NOW - YEAR)), pem()[0] + pem()[1]])
def test_a_new_certificate_that_cannot_be_used_leaves_the_old_one(
    tmp_path: Path, new: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "cam.pem", *pem())
    tls = configured(path)
    tls.load()
    before = tls.certificate
    path.write_bytes(new)
    tls.load()
    assert tls.certificate is before
    assert str(path) in tls.error
    assert "the one in force stays" in caplog.text


def test_at_the_start_a_certificate_that_is_out_of_date_is_better_than_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "old.pem", *pem(NOW - 2 * YEAR, NOW - YEAR))
    tls = configured(path)
    tls.load()
    assert tls.certificate is not None
    assert tls.error == "certificate has expired"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    path.write_bytes(b"".join(pem(NOW - 3 * YEAR, NOW - YEAR)))
    before = tls.certificate.fingerprint
    tls.load()
    assert tls.certificate.fingerprint != before, "one that is out of date may replace another"


async def test_without_a_certificate_tls_is_refused_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = configured(tmp_path / "none.pem")
    tls.load()
    assert tls.status == {
        "certificate": "",
        "fingerprint_sha256": "",
        "complaint": f"{tmp_path}/none.pem cannot be read: No such file or directory",
        "certificate_ends": None,
    }
    assert "only plain HTTP is served" in caplog.text
    near, far = trio.testing.memory_stream_pair()
    with pytest.raises(trio.BrokenResourceError, match="no certificate"):
        await tls.secure(near)
    await far.aclose()


# --- one of our own ---


def test_our_own_certificate_is_made_once_and_only_its_owner_can_read_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = (Tls(None, None, tmp_path, NAMES) for _ in range(2))
    first.load()
    second.load()
    assert first.status == second.status
    assert str(first.status["fingerprint_sha256"]) in caplog.text
    path = tmp_path / "tls.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (certificate,) = x509.load_pem_x509_certificates(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["cpu1"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert certificate.not_valid_before_utc.year == 2000
    assert certificate.not_valid_after_utc.year == 9999


def test_our_own_certificate_is_not_replaced_because_it_was_damaged(tmp_path: Path) -> None:
    written(tmp_path / "tls.pem", b"half of i")
    tls = Tls(None, None, tmp_path, NAMES)
    tls.load()
    assert tls.certificate is None
    assert (tmp_path / "tls.pem").read_bytes() == b"half of i"


def test_a_state_directory_that_takes_no_file_is_told(tmp_path: Path) -> None:
    tls = Tls(None, None, tmp_path / "none", NAMES)
    tls.load()
    assert tls.error == f"{tmp_path}/none/tls.pem: No such file or directory"


@pytest.mark.parametrize("name", ["Kamera Süd", "x" * 300, "ü" * 64, "a..b"])
def test_any_node_name_can_have_a_certificate(tmp_path: Path, name: str) -> None:
    Certificate.load(written(tmp_path / "x.pem", make_certificate((name, "localhost"))))


def test_cryptography_is_loaded_only_where_a_certificate_has_to_be_made(files: tuple[Path, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from gateway.web.tls import Certificate;"
        f"Certificate.load(Path({str(files[0])!r}), Path({str(files[1])!r})); sys.exit('cryptography' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


# --- the stream ---


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    tls = Tls(None, None, tmp_path, NAMES)
    tls.load()
    return tls


def trusting(tls: Tls) -> ssl.SSLContext:
    """A client that knows our certificate, and that the address is the one in it."""
    assert tls.certificate is not None
    return ssl.create_default_context(cafile=str(tls.certificate.path))


async def pair(tls: Tls, *protocols: str) -> tuple[TlsStream, trio.SSLStream[trio.SocketStream]]:
    """Both ends of a connection, over real sockets, of a client that offers these protocols (RFC 7301)."""
    ours, theirs = socket.socketpair()
    near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (ours, theirs))
    context = trusting(tls)
    if protocols:
        context.set_alpn_protocols(protocols)
    client = trio.SSLStream(far, context, server_hostname="127.0.0.1")
    made: list[TlsStream] = []

    async def secure() -> None:
        made.append(await tls.secure(near))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(secure)
        nursery.start_soon(client.do_handshake)
    return made[0], client


async def test_a_client_that_trusts_our_certificate_exchanges_bytes(tls: Tls) -> None:
    with trio.fail_after(5):
        near, client = await pair(tls)
        await client.send_all(b"question")
        assert await near.receive_some(100) == b"question"
        await near.wait_send_all_might_not_block()
        await near.send_all(b"answer")
        assert await client.receive_some(100) == b"answer"
        await near.aclose()
        await client.aclose()


async def test_of_the_protocols_that_a_browser_offers_http_1_is_chosen(tls: Tls) -> None:
    with trio.fail_after(5):
        near, client = await pair(tls, "h2", "http/1.1")
        assert client.selected_alpn_protocol() == "http/1.1"
        await near.aclose()
        await client.aclose()


async def test_the_end_is_said_in_tls_first_and_the_client_s_own_end_is_waited_for(tls: Tls) -> None:
    with trio.fail_after(5):
        near, client = await pair(tls)
        await near.send_all(b"last words")
        await near.send_eof()
        assert await client.receive_some(100) == b"last words"
        assert await client.receive_some(100) == b""  # and not an end that anybody in between could have made
        await client.aclose()
        while await near.receive_some(100):
            pass
        await near.aclose()


async def test_bytes_that_came_after_the_last_request_do_not_keep_the_end_from_being_said(tls: Tls) -> None:
    with trio.fail_after(5):
        near, client = await pair(tls)
        await client.send_all(b"one")
        assert await near.receive_some(100) == b"one"
        await client.send_all(b"two" * 1000)
        assert await near.receive_some(3) == b"two"
        await near.send_all(b"answer")
        await near.send_eof()
        assert await client.receive_some(100) == b"answer"
        assert await client.receive_some(100) == b""
        await near.aclose()
        await trio.aclose_forcefully(client)


async def test_what_is_no_handshake_breaks_the_connection(tls: Tls) -> None:
    with trio.fail_after(5):
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(b"\x16\x03\x01\x00\x05hello" * 10)
        with pytest.raises(trio.BrokenResourceError):
            await tls.secure(near)
