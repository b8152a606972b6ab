from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.http.credentials import Algorithm, BasicClaim, DigestClaim, claim, stored_hash
from protocol.http.digest import POLICIES, Authenticator, Scheme, Verdict, advice
from protocol.parameters.settings import AuthenticationPolicy

REALM = "Daisyport 00408C000001"
TARGET = "/axis-cgi/param.cgi?action=list&group=Serial"
EVERY_SCHEME = tuple(Scheme)
RANDOM = bytes(8)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


def authenticator(**changes: object) -> Authenticator:
    return Authenticator(REALM, secret=b"s" * 32, **changes)  # type: ignore[arg-type]  # a case's own words


def stored(name: str = "root", password: str = "pass", realm: str = REALM) -> dict[Algorithm, str]:
    return {algorithm: stored_hash(algorithm, name, realm, password) for algorithm in Algorithm}


def nonce_of(challenge: str) -> str:
    return challenge.split('nonce="')[1].split('"')[0]


def fresh_nonce(door: Authenticator, now: float = 0.0, random: bytes = RANDOM) -> str:
    return nonce_of(door.challenges([Scheme.DIGEST], None, now, random)[0])


def digest_header(
    nonce: str,
    *,
    name: str = "root",
    password: str = "pass",
    count: int | None = 1,
    uri: str = TARGET,
    algorithm: Algorithm = Algorithm.MD5,
    method: str = "GET",
) -> bytes:
    """What a client sends, computed here a second time and not by the code under test."""
    new = {Algorithm.MD5: hashlib.md5, Algorithm.SHA256: hashlib.sha256}[algorithm]

    def hashed(*parts: str) -> str:
        return new(":".join(parts).encode()).hexdigest()

    counted = [] if count is None else [f"{count:08x}", "0a4f113b", "auth"]
    response = hashed(hashed(name, REALM, password), nonce, *counted, hashed(method, uri))
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    header = f'Digest username="{quoted}", realm="{REALM}", nonce="{nonce}", uri="{uri}", response="{response}"'
    header += f", algorithm={algorithm.value}"
    if count is not None:
        header += f', qop=auth, nc={count:08x}, cnonce="0a4f113b"'
    return header.encode()


def judged(door: Authenticator, header: bytes, *, now: float = 0.0, **request: object) -> Verdict:
    claimed = claim(header)
    assert claimed is not None
    given = {"stored": stored(), "schemes": EVERY_SCHEME, "method": "GET", "target": TARGET, **request}
    return door.check(claimed, now=now, **given)  # type: ignore[arg-type]  # likewise


# Challenges


def test_a_digest_challenge_reads_as_recorded_from_devices() -> None:
    (challenge,) = authenticator().challenges([Scheme.DIGEST], None, 0.0, RANDOM)
    nonce = nonce_of(challenge)
    assert challenge == f'Digest realm="{REALM}", nonce="{nonce}", algorithm=MD5, qop="auth"'


def test_a_basic_challenge_names_the_realm() -> None:
    assert authenticator().challenges([Scheme.BASIC], None, 0.0, RANDOM) == (f'Basic realm="{REALM}"',)


def test_sha_256_is_an_option_that_comes_first() -> None:
    door = authenticator(algorithms=(Algorithm.SHA256, Algorithm.MD5))
    first, second, third = door.challenges([Scheme.DIGEST, Scheme.BASIC], None, 0.0, RANDOM)
    assert "algorithm=SHA-256" in first
    assert "algorithm=MD5" in second
    assert third.startswith("Basic")


def test_a_realm_with_quotes_is_quoted() -> None:
    door = Authenticator('a"b\\c', secret=b"s")
    assert door.challenges([Scheme.BASIC], None, 0.0, RANDOM) == ('Basic realm="a\\"b\\\\c"',)


@pytest.mark.parametrize(
    ("policy", "secure", "schemes"),
    [
        ("basic", False, ["Basic"]),
        ("basic", True, ["Basic"]),
        ("digest", False, ["Digest"]),
        ("digest", True, ["Digest"]),
        ("basic_digest", False, ["Digest", "Basic"]),
        ("basic_digest", True, ["Digest", "Basic"]),
        ("recommended", False, ["Digest"]),
        ("recommended", True, ["Basic"]),
    ],
)
def test_a_policy_says_what_is_offered(policy: str, secure: bool, schemes: list[str]) -> None:
    assert [scheme.value for scheme in POLICIES[AuthenticationPolicy(policy)].schemes(secure=secure)] == schemes


def test_every_policy_has_its_offer() -> None:
    assert set(POLICIES) == set(AuthenticationPolicy)


def test_the_advice_names_the_option_of_curl_and_the_parameter() -> None:
    assert "curl --digest -u NAME;" in advice([Scheme.DIGEST])
    assert "curl --digest -u NAME or curl --basic -u NAME;" in advice([Scheme.DIGEST, Scheme.BASIC])
    assert "root.Network.HTTP.AuthenticationPolicy" in advice([Scheme.BASIC])


# Digest


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_example_of_rfc_7616_proves_its_password(algorithm: str, response: str) -> None:
    realm = "http-auth@example.org"
    claimed = claim(
        f"""Digest username="Mufasa", realm="{realm}", uri="/dir/index.html", algorithm={algorithm},
        nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001,
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, response="{response}",
        opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS" """.encode()
    )
    assert isinstance(claimed, DigestClaim)
    door = Authenticator(realm, secret=b"s", algorithms=tuple(Algorithm))
    hashes = stored("Mufasa", "Circle of Life", realm)
    # right, and stale because the RFC's server made the nonce
    assert door.check(claimed, hashes, EVERY_SCHEME, "GET", "/dir/index.html", 0.0) is Verdict.STALE
    assert door.check(claimed, hashes, EVERY_SCHEME, "POST", "/dir/index.html", 0.0) is Verdict.WRONG


@given(name=TEXT, password=TEXT, algorithm=st.sampled_from(Algorithm), now=st.floats(0, 1e9))
def test_whoever_knows_the_password_is_let_in(name: str, password: str, algorithm: Algorithm, now: float) -> None:
    door = authenticator(algorithms=tuple(Algorithm))
    header = digest_header(fresh_nonce(door, now), name=name, password=password, algorithm=algorithm)
    claimed = claim(header)
    assert claimed is not None
    assert claimed.name == name
    verdict = door.check(claimed, stored(name, password), EVERY_SCHEME, "GET", TARGET, now)
    assert verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    "changed",
    [
        {"target": "/axis-cgi/param.cgi?action=update&PortManager.P0.PortEnabled=no"},
        {"method": "POST"},
        {"stored": None},
        {"stored": {}},
        {"stored": stored(password="Pass")},
    ],
)
def test_a_proof_of_something_else_is_wrong(changed: dict[str, Any]) -> None:
    door = authenticator()
    assert judged(door, digest_header(fresh_nonce(door)), **changed) is Verdict.WRONG


def test_a_wrong_password_with_a_stale_nonce_is_wrong() -> None:
    door = authenticator()
    assert judged(door, digest_header("made up", password="guess")) is Verdict.WRONG


def test_a_proxy_may_have_made_the_target_absolute() -> None:
    door = authenticator()
    header = digest_header(fresh_nonce(door))
    assert judged(door, header, target="http://cpu1:8080" + TARGET) is Verdict.ACCEPTED


def test_a_hash_or_scheme_that_was_not_offered_is_no_guess() -> None:
    door = authenticator()
    header = digest_header(fresh_nonce(door), algorithm=Algorithm.SHA256)
    assert judged(door, header) is Verdict.UNWANTED
    assert judged(door, digest_header(fresh_nonce(door)), schemes=[Scheme.BASIC]) is Verdict.UNWANTED
    assert judged(door, b"Basic cm9vdDpwYXNz", schemes=[Scheme.DIGEST]) is Verdict.UNWANTED


def test_a_nonce_lives_as_long_as_it_was_told_to() -> None:
    door = authenticator(lifetime=60.0)
    nonce = fresh_nonce(door, now=1000.0)
    assert judged(door, digest_header(nonce, count=1), now=1060.0) is Verdict.ACCEPTED
    assert judged(door, digest_header(nonce, count=2), now=1060.1) is Verdict.STALE


def test_a_nonce_from_before_a_restart_is_stale() -> None:
    before = Authenticator(REALM, secret=b"before")
    assert judged(authenticator(), digest_header(fresh_nonce(before))) is Verdict.STALE


def test_a_nonce_whose_time_was_altered_is_stale() -> None:
    door = authenticator()
    nonce = fresh_nonce(door)
    assert judged(door, digest_header("00000000f" + nonce[9:])) is Verdict.STALE


def test_stale_is_said_with_a_new_nonce() -> None:
    door = authenticator()
    (challenge,) = door.challenges([Scheme.DIGEST], Verdict.STALE, 1.0, b"another1")
    assert challenge.endswith(", stale=true")
    assert nonce_of(challenge) != fresh_nonce(door)
    assert "stale" not in door.challenges([Scheme.DIGEST], Verdict.WRONG, 1.0, b"another2")[0]


@given(st.permutations(range(20)))
def test_counts_may_come_in_any_order_but_each_once(order: list[int]) -> None:
    door = authenticator()
    nonce = fresh_nonce(door)
    first = [judged(door, digest_header(nonce, count=count)) for count in order]
    again = [judged(door, digest_header(nonce, count=count)) for count in order]
    assert set(first) == {Verdict.ACCEPTED}
    assert set(again) == {Verdict.STALE}


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 300)))
@example([0, 128, 0, 1, 129, 1, 2])
def test_no_count_is_ever_taken_twice(counts: list[int]) -> None:
    door = authenticator()
    nonce = fresh_nonce(door)
    taken = [count for count in counts if judged(door, digest_header(nonce, count=count)) is Verdict.ACCEPTED]
    assert len(taken) == len(set(taken))
    assert all(count in taken for count in counts if count > max(counts) - 128 and count >= counts[0])


def test_a_wrong_answer_uses_up_no_count() -> None:
    door = authenticator()
    nonce = fresh_nonce(door)
    assert judged(door, digest_header(nonce, password="guess")) is Verdict.WRONG
    assert judged(door, digest_header(nonce)) is Verdict.ACCEPTED


def test_a_client_that_does_not_count_may_use_a_nonce_once() -> None:
    door = authenticator()
    header = digest_header(fresh_nonce(door), count=None)
    assert judged(door, header) is Verdict.ACCEPTED
    assert judged(door, header) is Verdict.STALE


def test_a_flood_of_nonces_is_forgotten_oldest_first_and_never_replayed() -> None:
    door = authenticator()
    nonces = [fresh_nonce(door, now=float(second)) for second in range(1, 1100)]
    headers = [digest_header(nonce) for nonce in nonces]
    for header in headers:
        assert judged(door, header, now=1100.0, stored=stored()) in {Verdict.STALE, Verdict.ACCEPTED}
    assert {judged(door, header, now=1100.0) for header in headers} == {Verdict.STALE}
    assert judged(door, digest_header(nonces[-1], count=2), now=1100.0) is Verdict.ACCEPTED


def test_a_forgotten_nonce_takes_no_further_count() -> None:
    door = authenticator(lifetime=1e6)
    nonces = [fresh_nonce(door, now=float(second)) for second in range(1, 1026)]
    for nonce in nonces:
        assert judged(door, digest_header(nonce), now=2000.0) is Verdict.ACCEPTED
    assert judged(door, digest_header(nonces[0], count=2), now=2000.0) is Verdict.STALE
    assert judged(door, digest_header(nonces[1], count=2), now=2000.0) is Verdict.ACCEPTED


# Basic


@given(name=TEXT.filter(lambda name: ":" not in name), password=TEXT)
def test_basic_carries_any_name_and_password(name: str, password: str) -> None:
    header = b"Basic " + base64.b64encode(f"{name}:{password}".encode())
    assert claim(header) == BasicClaim(name, password)
    assert judged(authenticator(), header, stored=stored(name, password)) is Verdict.ACCEPTED
    assert judged(authenticator(), header, stored=stored(name, password + "!")) is Verdict.WRONG
    assert judged(authenticator(), header, stored=None) is Verdict.WRONG


def test_basic_in_latin_1_is_understood() -> None:
    header = b"Basic " + base64.b64encode("josé:señor".encode("latin-1"))
    assert judged(authenticator(), header, stored=stored("josé", "señor")) is Verdict.ACCEPTED


def test_a_name_without_the_hash_that_basic_needs_is_wrong() -> None:
    assert judged(authenticator(), b"Basic cm9vdDpwYXNz", stored={}) is Verdict.WRONG


# What clients send


def test_a_header_is_read_in_every_legal_spelling() -> None:
    spelled = b'DIGEST  Username="a\\"b" ,NONCE = "n",uri="/", ,response=ABC,algorithm="sha-256",'
    assert claim(spelled) == DigestClaim('a"b', "n", "/", "abc", Algorithm.SHA256, None, None)


def test_a_name_may_be_percent_encoded() -> None:
    name = quote("Järvi")
    claimed = claim(f"Digest username*=UTF-8''{name}, nonce=n, uri=/, response=x".encode())
    assert claimed is not None
    assert claimed.name == "Järvi"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer token",
        b"Basic",
        b"Basic !!!!",
        b"Basic \xff\xfe",
        b"Basic " + base64.b64encode(b"nocolon"),
        b"Digest",
        b'Digest username="root"',
        b"Digest username=a, nonce=n, uri=/, response=x, username=b",
        b"Digest username=a, nonce=n, uri=/, response=x rubbish",
        b'Digest username="a, nonce=n, uri=/, response=x',
        b"Digest username*=latin-1''a, nonce=n, uri=/, response=x",
        b"Digest username=a, nonce=n, uri=/, response=x, algorithm=MD5-sess",
        b"Digest username=a, nonce=n, uri=/, response=x, qop=auth-int, nc=00000001, cnonce=c",
        b"Digest username=a, nonce=n, uri=/, response=x, qop=auth, nc=1, cnonce=c",
        b"Digest username=a, nonce=n, uri=/, response=x, qop=auth, cnonce=c",
        b"Digest username=a, nonce=n, uri=/, response=x, qop=auth, nc=00000001",
    ],
)
def test_what_is_no_claim_is_none(header: bytes) -> None:
    assert claim(header) is None


PIECES = [
    b"Basic ", b"Digest ", b"username=", b"username*=UTF-8''", b"nonce=", b"uri=/", b"response=", b"algorithm=", b"MD5",
    b"SHA-256", b"qop=auth", b"nc=00000001", b"cnonce=c", b",", b'"', b"\\", b"=", b"%", b" ", b"cm9vdDo=", b"\xc3\xa9",
]  # fmt: skip
wild = st.lists(st.sampled_from(PIECES) | st.binary(max_size=10), max_size=24).map(b"".join)


@given(st.sampled_from([b"", b"Basic ", b"Digest username=a, nonce=n, uri=/, response=x,"]), wild)
@example(b"Digest username=a,nonce=\xc3\xa9,uri=/,response=\xff", b"")
def test_any_bytes_are_a_claim_that_is_not_accepted_or_none(head: bytes, header: bytes) -> None:
    claimed = claim(head + header)
    if claimed is not None:
        door = authenticator(algorithms=tuple(Algorithm))
        verdict = door.check(claimed, stored(), EVERY_SCHEME, "GET", TARGET, 0.0)
        assert verdict is Verdict.WRONG


def test_a_claim_that_is_printed_shows_no_secret() -> None:
    assert "hunter2" not in repr(BasicClaim("root", "hunter2"))
    assert "abc" not in repr(DigestClaim("root", "n", "/", "abc", Algorithm.MD5, None, None))
