from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.http.credentials import Algorithm, BasicCredentials, DigestCredentials, parse_credentials, stored_hash
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


def fresh_nonce(digest: Authenticator, now: float = 0.0, random: bytes = RANDOM) -> str:
    return nonce_of(digest.challenges([Scheme.DIGEST], None, now, random)[0])


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


def judged(digest: Authenticator, header: bytes, *, now: float = 0.0, **request: object) -> Verdict:
    given = parse_credentials(header)
    assert given is not None
    asked = {"stored": stored(), "schemes": EVERY_SCHEME, "method": "GET", "target": TARGET, **request}
    return digest.check(given, now=now, **asked)  # type: ignore[arg-type]  # likewise


# Challenges


def test_a_digest_challenge_reads_as_recorded_from_devices() -> None:
    (challenge,) = authenticator().challenges([Scheme.DIGEST], None, 0.0, RANDOM)
    nonce = nonce_of(challenge)
    assert challenge == f'Digest realm="{REALM}", nonce="{nonce}", algorithm=MD5, qop="auth"'


def test_a_basic_challenge_names_the_realm() -> None:
    assert authenticator().challenges([Scheme.BASIC], None, 0.0, RANDOM) == (f'Basic realm="{REALM}"',)


def test_sha_256_is_an_option_that_comes_first() -> None:
    digest = authenticator(algorithms=(Algorithm.SHA256, Algorithm.MD5))
    first, second, third = digest.challenges([Scheme.DIGEST, Scheme.BASIC], None, 0.0, RANDOM)
    assert "algorithm=SHA-256" in first
    assert "algorithm=MD5" in second
    assert third.startswith("Basic")


def test_a_realm_with_quotes_is_quoted() -> None:
    digest = Authenticator('a"b\\c', secret=b"s")
    assert digest.challenges([Scheme.BASIC], None, 0.0, RANDOM) == ('Basic realm="a\\"b\\\\c"',)


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
    given = parse_credentials(
        f"""Digest username="Mufasa", realm="{realm}", uri="/dir/index.html", algorithm={algorithm},
        nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001,
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, response="{response}",
        opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS" """.encode()
    )
    assert isinstance(given, DigestCredentials)
    digest = Authenticator(realm, secret=b"s", algorithms=tuple(Algorithm))
    hashes = stored("Mufasa", "Circle of Life", realm)
    # right, and stale because the RFC's server made the nonce
    assert digest.check(given, hashes, EVERY_SCHEME, "GET", "/dir/index.html", 0.0) is Verdict.STALE
    assert digest.check(given, hashes, EVERY_SCHEME, "POST", "/dir/index.html", 0.0) is Verdict.WRONG


@given(name=TEXT, password=TEXT, algorithm=st.sampled_from(Algorithm), now=st.floats(0, 1e9))
def test_the_right_password_is_accepted(name: str, password: str, algorithm: Algorithm, now: float) -> None:
    digest = authenticator(algorithms=tuple(Algorithm))
    header = digest_header(fresh_nonce(digest, now), name=name, password=password, algorithm=algorithm)
    given = parse_credentials(header)
    assert given is not None
    assert given.name == name
    verdict = digest.check(given, stored(name, password), EVERY_SCHEME, "GET", TARGET, now)
    assert verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "POST"},
        {"stored": None},
        {"stored": {}},
        {"stored": stored(password="Pass")},
    ],
)
def test_a_proof_of_something_else_is_wrong(changed: dict[str, Any]) -> None:
    digest = authenticator()
    assert judged(digest, digest_header(fresh_nonce(digest)), **changed) is Verdict.WRONG


def test_a_wrong_password_with_a_stale_nonce_is_wrong() -> None:
    digest = authenticator()
    assert judged(digest, digest_header("made up", password="guess")) is Verdict.WRONG


PATH = "/axis-cgi/param.cgi"


@pytest.mark.parametrize(
    ("signed", "sent"),
    [
        (f"{PATH}?group=Serial%2ESer1", f"{PATH}?group=Serial.Ser1"),
        (f"{PATH}?group=%7e", f"{PATH}?group=~"),
        ("/axis%2Dcgi/param.cgi?a=1", "/axis-cgi/param.cgi?a=1"),
        (f"{PATH}?group=caf%C3%A9", f"{PATH}?group=caf%c3%a9"),
        (f"{PATH}?group=caf\u00e9", f"{PATH}?group=caf%C3%A9"),
        (f"{PATH}?a=b%20c", f"{PATH}?a=b c"),
        (f"http://cpu1:8080{PATH}?a=1", f"{PATH}?a=1"),
        (f"HTTPS://[2001:db8::1]{PATH}?a=1", f"{PATH}?a=1"),
        (f"/{PATH}?a=1", f"{PATH}?a=1"),
        (f"{PATH}?a=1", f"/{PATH}?a=1"),
        (f"{PATH}?group=a%2Fb", f"{PATH}?group=a/b"),
        (f"{PATH}?a%2fb=1", f"{PATH}?a/b=1"),
        (f"{PATH}?a", f"{PATH}?a="),
        (f"{PATH}?a=1&&b=2&", f"{PATH}?a=1&b=2"),
        (f"{PATH}?writestring=a%2Bb%0d", f"{PATH}?writestring=a%2Bb%0d"),
    ],
)
def test_a_respelled_target_is_the_target(signed: str, sent: str) -> None:
    for uri, target in ((signed, sent), (sent, signed)):
        digest = authenticator()
        assert judged(digest, digest_header(fresh_nonce(digest), uri=uri), target=target) is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("signed", "sent"),
    [
        (TARGET, f"{PATH}?action=update&PortManager.P0.PortEnabled=no"),
        (PATH, f"{PATH}?action=update&PortManager.P0.PortEnabled=no"),
        (f"{PATH}?a=1&b=2", f"{PATH}?b=2&a=1"),
        (f"{PATH}?a=1", f"{PATH}?a=1&b=2"),
        (f"{PATH}?a=1", f"{PATH}?a=1&a=1"),
        (f"{PATH}?A=1", f"{PATH}?a=1"),
        (f"{PATH}/a=1", f"{PATH}?a=1"),
        (f"{PATH}/?a=1", f"{PATH}?a=1"),
        ("/a/b", "/a?b"),
        ("/axis-cgi%2Fparam.cgi", "/axis-cgi/param.cgi"),
        ("/a%2Fb/c", "/a%2fb/c"),
        (f"{PATH}?a=1%26b=2", f"{PATH}?a=1&b=2"),
        (f"{PATH}?a%3D1=", f"{PATH}?a=1"),
        (f"{PATH}?a=b+c", f"{PATH}?a=b%20c"),
        (f"{PATH}?a=b+c", f"{PATH}?a=b%2Bc"),
        (f"{PATH}?a=b%2bc", f"{PATH}?a=b%2Bc"),
        (f"{PATH}?a=%2523", f"{PATH}?a=%23"),
        (f"{PATH}?a=%2541", f"{PATH}?a=%41"),
        (f"{PATH}?a=x%0dy", f"{PATH}?a=x%0Dy"),
        (f"{PATH}?a=%7F", f"{PATH}?a=%7f"),
        (f"ftp://cam{PATH}", PATH),
    ],
)
def test_a_right_proof_of_another_target_is_told_so_and_its_count_is_used_up(signed: str, sent: str) -> None:
    for uri, target in ((signed, sent), (sent, signed)):
        digest = authenticator()
        header = digest_header(fresh_nonce(digest), uri=uri)
        assert judged(digest, header, target=target) is Verdict.OTHER_TARGET
        assert judged(digest, header, target=uri) is Verdict.STALE


def test_a_wrong_proof_is_wrong_whatever_its_target() -> None:
    digest = authenticator()
    header = digest_header(fresh_nonce(digest), password="guess", uri=PATH)
    assert judged(digest, header) is Verdict.WRONG
    assert judged(digest, header, target=PATH) is Verdict.WRONG


@given(st.text("/?&=+#%.~aA2Ff0\x7f\xe9 :h", max_size=20), st.text("/?&=+#%.~aA2Ff0\x7f\xe9 :h", max_size=20))
def test_any_target_is_compared_with_any_other_the_same_way_both_ways(one: str, other: str) -> None:
    verdicts = []
    for uri, target in ((one, other), (other, one), (one, one)):
        digest = authenticator()
        header = digest_header(fresh_nonce(digest), uri=uri)
        verdicts.append(judged(digest, header, target=target))
    assert verdicts[0] is verdicts[1]
    assert verdicts[2] is Verdict.ACCEPTED


@pytest.mark.parametrize("count", ["1", "0a", "00000001", "ffffffff", "FFFFFFF"])
def test_a_count_has_one_to_eight_digits(count: str) -> None:
    given = parse_credentials(f"Digest username=a, nonce=n, uri=/, response=x, qop=auth, nc={count}, cnonce=c".encode())
    assert isinstance(given, DigestCredentials)
    assert given.count == count


def test_a_proxy_may_have_made_the_target_absolute() -> None:
    digest = authenticator()
    header = digest_header(fresh_nonce(digest))
    assert judged(digest, header, target="http://cpu1:8080" + TARGET) is Verdict.ACCEPTED


def test_a_hash_or_scheme_that_was_not_offered_is_no_guess() -> None:
    digest = authenticator()
    header = digest_header(fresh_nonce(digest), algorithm=Algorithm.SHA256)
    assert judged(digest, header) is Verdict.UNWANTED
    assert judged(digest, digest_header(fresh_nonce(digest)), schemes=[Scheme.BASIC]) is Verdict.UNWANTED
    assert judged(digest, b"Basic cm9vdDpwYXNz", schemes=[Scheme.DIGEST]) is Verdict.UNWANTED


def test_a_nonce_lives_as_long_as_it_was_told_to() -> None:
    digest = authenticator(lifetime=60.0)
    nonce = fresh_nonce(digest, now=1000.0)
    assert judged(digest, digest_header(nonce, count=1), now=1060.0) is Verdict.ACCEPTED
    assert judged(digest, digest_header(nonce, count=2), now=1060.1) is Verdict.STALE


def test_a_nonce_from_before_a_restart_is_stale() -> None:
    before = Authenticator(REALM, secret=b"before")
    assert judged(authenticator(), digest_header(fresh_nonce(before))) is Verdict.STALE


def test_a_nonce_whose_time_was_altered_is_stale() -> None:
    digest = authenticator()
    nonce = fresh_nonce(digest)
    assert judged(digest, digest_header("00000000f" + nonce[9:])) is Verdict.STALE


def test_stale_is_said_with_a_new_nonce() -> None:
    digest = authenticator()
    (challenge,) = digest.challenges([Scheme.DIGEST], Verdict.STALE, 1.0, b"another1")
    assert challenge.endswith(", stale=true")
    assert nonce_of(challenge) != fresh_nonce(digest)
    assert "stale" not in digest.challenges([Scheme.DIGEST], Verdict.WRONG, 1.0, b"another2")[0]


@given(st.permutations(range(20)))
def test_counts_may_come_in_any_order_but_each_once(order: list[int]) -> None:
    digest = authenticator()
    nonce = fresh_nonce(digest)
    first = [judged(digest, digest_header(nonce, count=count)) for count in order]
    again = [judged(digest, digest_header(nonce, count=count)) for count in order]
    assert set(first) == {Verdict.ACCEPTED}
    assert set(again) == {Verdict.STALE}


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 300)))
@example([0, 128, 0, 1, 129, 1, 2])
def test_no_count_is_ever_taken_twice(counts: list[int]) -> None:
    digest = authenticator()
    nonce = fresh_nonce(digest)
    taken = [count for count in counts if judged(digest, digest_header(nonce, count=count)) is Verdict.ACCEPTED]
    assert len(taken) == len(set(taken))
    assert all(count in taken for count in counts if count > max(counts) - 128 and count >= counts[0])


def test_a_wrong_answer_uses_up_no_count() -> None:
    digest = authenticator()
    nonce = fresh_nonce(digest)
    assert judged(digest, digest_header(nonce, password="guess")) is Verdict.WRONG
    assert judged(digest, digest_header(nonce)) is Verdict.ACCEPTED


def test_a_client_that_does_not_count_may_use_a_nonce_once() -> None:
    digest = authenticator()
    header = digest_header(fresh_nonce(digest), count=None)
    assert judged(digest, header) is Verdict.ACCEPTED
    assert judged(digest, header) is Verdict.STALE


def test_a_flood_of_nonces_is_forgotten_oldest_first_and_never_replayed() -> None:
    digest = authenticator()
    nonces = [fresh_nonce(digest, now=float(second)) for second in range(1, 1100)]
    headers = [digest_header(nonce) for nonce in nonces]
    for header in headers:
        assert judged(digest, header, now=1100.0, stored=stored()) in {Verdict.STALE, Verdict.ACCEPTED}
    assert {judged(digest, header, now=1100.0) for header in headers} == {Verdict.STALE}
    assert judged(digest, digest_header(nonces[-1], count=2), now=1100.0) is Verdict.ACCEPTED


def test_a_forgotten_nonce_takes_no_further_count() -> None:
    digest = authenticator(lifetime=1e6)
    nonces = [fresh_nonce(digest, now=float(second)) for second in range(1, 1026)]
    for nonce in nonces:
        assert judged(digest, digest_header(nonce), now=2000.0) is Verdict.ACCEPTED
    assert judged(digest, digest_header(nonces[0], count=2), now=2000.0) is Verdict.STALE
    assert judged(digest, digest_header(nonces[1], count=2), now=2000.0) is Verdict.ACCEPTED


# Basic


@given(name=TEXT.filter(lambda name: ":" not in name), password=TEXT)
def test_basic_carries_any_name_and_password(name: str, password: str) -> None:
    header = b"Basic " + base64.b64encode(f"{name}:{password}".encode())
    assert parse_credentials(header) == BasicCredentials(name, password)
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
    assert parse_credentials(spelled) == DigestCredentials('a"b', "n", "/", "abc", Algorithm.SHA256, None, None)


@pytest.mark.parametrize("language", ["", "fi"])
def test_a_name_may_be_percent_encoded_in_a_language(language: str) -> None:
    name = quote("Järvi")
    given = parse_credentials(f"Digest username*=UTF-8'{language}'{name}, nonce=n, uri=/, response=x".encode())
    assert given is not None
    assert given.name == "Järvi"


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
        b"Digest username*=UTF-8'a, nonce=n, uri=/, response=x",
        b"Digest username=a, nonce=n, uri=/, response=x, algorithm=MD5-sess",
        b"Digest username=a, nonce=n, uri=/, response=x, qop=auth-int, nc=00000001, cnonce=c",
        b"Digest username=a, nonce=n, uri=/, response=x, qop=auth, nc=, cnonce=c",
        b"Digest username=a, nonce=n, uri=/, response=x, qop=auth, nc=000000001, cnonce=c",
        b"Digest username=a, nonce=n, uri=/, response=x, qop=auth, nc=0x1, cnonce=c",
        b"Digest username=a, nonce=n, uri=/, response=x, qop=auth, cnonce=c",
        b"Digest username=a, nonce=n, uri=/, response=x, qop=auth, nc=00000001",
        b"Digest username=a, nonce=n, uri=/, response=x, " + b", ".join(b"x%d=y" % number for number in range(2000)),
    ],
)
def test_what_holds_no_credentials_is_none(header: bytes) -> None:
    assert parse_credentials(header) is None


PIECES = [
    b"Basic ", b"Digest ", b"username=", b"username*=UTF-8''", b"nonce=", b"uri=/", b"response=", b"algorithm=", b"MD5",
    b"SHA-256", b"qop=auth", b"nc=00000001", b"cnonce=c", b",", b'"', b"\\", b"=", b"%", b" ", b"cm9vdDo=", b"\xc3\xa9",
]  # fmt: skip
wild = st.lists(st.sampled_from(PIECES) | st.binary(max_size=10), max_size=24).map(b"".join)


@given(st.sampled_from([b"", b"Basic ", b"Digest username=a, nonce=n, uri=/, response=x,"]), wild)
@example(b"Digest username=a,nonce=\xc3\xa9,uri=/,response=\xff", b"")
def test_any_bytes_are_credentials_that_are_not_accepted_or_none(head: bytes, header: bytes) -> None:
    given = parse_credentials(head + header)
    if given is not None:
        digest = authenticator(algorithms=tuple(Algorithm))
        verdict = digest.check(given, stored(), EVERY_SCHEME, "GET", TARGET, 0.0)
        assert verdict is Verdict.WRONG


def test_credentials_that_are_printed_show_no_secret() -> None:
    assert "hunter2" not in repr(BasicCredentials("root", "hunter2"))
    assert "abc" not in repr(DigestCredentials("root", "n", "/", "abc", Algorithm.MD5, None, None))


# A nonce that vouches


def credentials(nonce: str, **more: Any) -> BasicCredentials | DigestCredentials:
    given = parse_credentials(digest_header(nonce, **more))
    assert given is not None
    return given


def test_a_nonce_vouches_for_the_name_that_it_proved_and_for_no_other() -> None:
    digest = authenticator()
    nonce = fresh_nonce(digest)
    assert not digest.vouches(credentials(nonce))
    assert judged(digest, digest_header(nonce)) is Verdict.ACCEPTED
    assert digest.vouches(credentials(nonce, count=2))
    assert not digest.vouches(credentials(nonce, name="other"))
    assert not digest.vouches(credentials(fresh_nonce(digest, random=b"another1")))
    assert not digest.vouches(BasicCredentials("root", "pass"))


def test_eight_wrong_proofs_end_a_nonce_s_vouching_and_its_counts_go_on() -> None:
    digest = authenticator()
    nonce = fresh_nonce(digest)
    assert judged(digest, digest_header(nonce)) is Verdict.ACCEPTED
    for _ in range(8):
        assert digest.vouches(credentials(nonce))
        assert judged(digest, digest_header(nonce, password="guess")) is Verdict.WRONG
    assert not digest.vouches(credentials(nonce))
    assert judged(digest, digest_header(nonce, count=2)) is Verdict.ACCEPTED
    assert not digest.vouches(credentials(nonce))
