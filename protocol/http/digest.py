"""HTTP authentication: write challenges and judge credentials, for Digest (RFC 7616) and Basic (RFC 7617).

The caller looks up the name that the credentials give, and passes the hashes that are stored for it. Time and random
bytes are arguments.

Theory of operation. A nonce carries its time of issue and our signature, so a challenge costs no memory, however
many strangers ask for one. Only a nonce that proved a password is remembered, with the counts that were used: a
count may come late or out of order, since clients share a nonce among connections, but it is taken once. A second
time, or after its lifetime, or after a restart of the daemon, a right answer is *stale*, not wrong: the client gets
a fresh nonce and tries again by itself, and no password is doubted.

The proof is judged before anything else, and a right one is never called wrong. Between a client and us stand
libraries and proxies that respell a target (%2E for a dot, an absolute form, a doubled slash), so the signed uri and
the request's target are compared by their meaning, in `_same_target`. A right proof of another target is refused in
words of its own, and is no guess; its count is used up, or whoever saw it could send it again with its own target.

An unknown name is checked against a hash that no password has, so it costs the same time as a known one, and a
stranger cannot find out which names exist.
"""

from __future__ import annotations

import enum
import hmac
import re
from typing import TYPE_CHECKING, final
from urllib.parse import unquote_to_bytes

from protocol.frozen import frozen
from protocol.http.credentials import Algorithm, BasicCredentials, DigestCredentials, stored_hash
from protocol.http.nonces import Ledger
from protocol.parameters.settings import AuthenticationPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from protocol.http.credentials import Credentials, StoredHashes

__all__ = ["POLICIES", "Authenticator", "Offer", "Scheme", "Verdict", "advice"]


@final
class Scheme(enum.Enum):
    """A way to prove a password."""

    DIGEST = "Digest"
    BASIC = "Basic"


@final
@frozen
class Offer:
    """The schemes that a policy takes over plain HTTP and over TLS, the preferred one first."""

    plain: tuple[Scheme, ...]
    tls: tuple[Scheme, ...]

    def schemes(self, *, secure: bool) -> tuple[Scheme, ...]:
        """Return the schemes for one connection."""
        return self.tls if secure else self.plain


_DIGEST, _BASIC, _BOTH = (Scheme.DIGEST,), (Scheme.BASIC,), (Scheme.DIGEST, Scheme.BASIC)

POLICIES: Mapping[AuthenticationPolicy, Offer] = {
    AuthenticationPolicy.BASIC: Offer(plain=_BASIC, tls=_BASIC),
    AuthenticationPolicy.DIGEST: Offer(plain=_DIGEST, tls=_DIGEST),
    AuthenticationPolicy.BASIC_DIGEST: Offer(plain=_BOTH, tls=_BOTH),
    AuthenticationPolicy.RECOMMENDED: Offer(plain=_DIGEST, tls=_BASIC),
}
"""The offer of each value of ``Network.HTTP.AuthenticationPolicy``."""


def advice(schemes: Sequence[Scheme]) -> str:
    """Return the help that a 401 gives to a person who called with curl."""
    names = " or ".join(scheme.value for scheme in schemes)
    options = " or ".join(f"curl --{scheme.value.lower()} -u NAME" for scheme in schemes)
    return (
        f"Log in with HTTP {names}, for example {options}; "
        "an administrator can change this by the parameter root.Network.HTTP.AuthenticationPolicy.\n"
    )


@final
class Verdict(enum.Enum):
    """The judgement on credentials; its value is told to the caller."""

    ACCEPTED = "the password is right"
    STALE = "the password is right, the nonce is used up"
    WRONG = "the name or the password is wrong"
    OTHER_TARGET = "the password is right, but the signed uri is another one than the request's path and query"
    UNWANTED = "the scheme or hash was not offered; the password was not looked at, so this was no guess"


@final
class Authenticator:
    """The challenges and checks of one realm.

    ``secret`` signs the nonces: 32 random bytes, made anew at each start. ``lifetime`` of a nonce is in seconds.
    """

    def __init__(
        self,
        realm: str,
        secret: bytes,
        algorithms: Sequence[Algorithm] = (Algorithm.MD5,),
        lifetime: float = 300.0,
    ) -> None:
        self.realm = realm
        self.algorithms = tuple(algorithms)
        self.lifetime = lifetime
        self._secret = secret
        self._nobody = self._signature("nobody")
        self._ledger = Ledger()

    def challenges(
        self, schemes: Sequence[Scheme], verdict: Verdict | None, now: float, random: bytes
    ) -> tuple[str, ...]:
        """Return the values of WWW-Authenticate headers, one for each header, in the order of preference.

        ``verdict`` is that on the credentials that are answered, None if there were none. ``now`` is in seconds, from
        any clock that never goes back; ``random`` are 8 bytes that were never used before.
        """
        nonce = self._nonce(now, random)
        stale = ", stale=true" if verdict is Verdict.STALE else ""
        realm = re.sub(r'(["\\])', r"\\\1", self.realm)
        written = {
            Scheme.BASIC: [f'Basic realm="{realm}"'],
            Scheme.DIGEST: [
                f'Digest realm="{realm}", nonce="{nonce}", algorithm={algorithm.value}, qop="auth"{stale}'
                for algorithm in self.algorithms
            ],
        }
        return tuple(challenge for scheme in schemes for challenge in written[scheme])

    def check(
        self,
        given: Credentials,
        stored: StoredHashes | None,
        schemes: Sequence[Scheme],
        method: str,
        target: str,
        now: float,
    ) -> Verdict:
        """Judge credentials against the hashes that are stored for their name (None: the name is unknown).

        ``method`` and ``target`` are the request's, as sent. The comparison takes the same time for all wrong ones.
        """
        if not self.offers(given, schemes):
            return Verdict.UNWANTED
        if isinstance(given, DigestCredentials):
            return self._check_digest(given, stored or {}, method, target, now)
        proof = stored_hash(Algorithm.SHA256, given.name, self.realm, given.password)
        right = _same(proof, (stored or {}).get(Algorithm.SHA256, self._nobody))
        return Verdict.ACCEPTED if right else Verdict.WRONG

    def offers(self, given: Credentials, schemes: Sequence[Scheme]) -> bool:
        """Return whether credentials are of a scheme and hash that is offered."""
        if isinstance(given, BasicCredentials):
            return Scheme.BASIC in schemes
        return Scheme.DIGEST in schemes and given.algorithm in self.algorithms

    def vouches(self, given: Credentials) -> bool:
        """Return whether credentials come on a nonce that has proved the password of their name.

        Only the client that proved it, or somebody who reads its traffic, knows that nonce: a neighbour's guesses say
        nothing about such a client. Eight wrong proofs on the nonce end this.
        """
        return isinstance(given, DigestCredentials) and self._ledger.vouches(given.nonce, given.name)

    def _check_digest(
        self, given: DigestCredentials, stored: StoredHashes, method: str, target: str, now: float
    ) -> Verdict:
        # A wrong proof uses up no count: a stranger who saw a nonce could use up all that its client has left.
        if not _same(given.response, _proof(given, stored.get(given.algorithm, self._nobody), method)):
            self._ledger.wrong(given.nonce)
            return Verdict.WRONG
        issued = self._issued(given.nonce)
        if issued is None or not 0 <= _milliseconds(now) - issued <= _milliseconds(self.lifetime):
            return Verdict.STALE
        # A client that sends no count may use each nonce once, so that its credentials cannot be replayed either.
        if not self._ledger.take(given.nonce, issued, int(given.count or "1", 16), given.name):
            return Verdict.STALE
        return Verdict.ACCEPTED if _same_target(given.uri, target) else Verdict.OTHER_TARGET

    def _nonce(self, now: float, random: bytes) -> str:
        issued = f"{_milliseconds(now):012x}{random.hex()}"
        return issued + self._signature(issued)

    def _issued(self, nonce: str) -> int | None:
        """Return when we issued a nonce, in milliseconds; None if we did not."""
        issued, signature = nonce[:-_SIGNATURE_DIGITS], nonce[-_SIGNATURE_DIGITS:]
        return int(issued[:12], 16) if _same(signature, self._signature(issued)) else None

    def _signature(self, signed: str) -> str:
        return hmac.new(self._secret, signed.encode(), "sha256").hexdigest()[:_SIGNATURE_DIGITS]


_SIGNATURE_DIGITS = 32


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _proof(given: DigestCredentials, stored: str, method: str) -> str:
    """Return the right ``response`` for this uri (RFC 7616, 3.4.1; without a count RFC 2069, 2.1.2)."""
    hashed, request = given.algorithm.of, given.algorithm.of(method, given.uri)
    if given.count is None or given.client_nonce is None:
        return hashed(stored, given.nonce, request)
    return hashed(stored, given.nonce, given.count, given.client_nonce, "auth", request)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _same_target(uri: str, target: str) -> bool:
    """Return whether a signed uri and a request's target mean the same path and arguments, in the same order.

    Either may have the absolute form. Names and values are compared percent-decoded, once. Where decoding gives a
    character that separates or escapes (``& = + # %``, in a path ``/``) or a control character, readers disagree on
    what the two spellings mean, so only the same spelling is the same.
    """
    if uri == target:
        return True
    (path, query), (other_path, other_query) = _components(uri), _components(target)
    return _same_components(path, other_path, _SEGMENT) and _same_components(query, other_query, _VALUE)


_VALUE = re.compile(rb"[^&=+#%\x00-\x1f\x7f]*")
_SEGMENT = re.compile(rb"[^&=+#%/\x00-\x1f\x7f]*")
"""What may be spelled otherwise, decoded."""


def _same_components(ours: list[str], theirs: list[str], plain: re.Pattern[bytes]) -> bool:
    return len(ours) == len(theirs) and all(
        one == other or (unquote_to_bytes(one) == unquote_to_bytes(other) and plain.fullmatch(unquote_to_bytes(one)))
        for one, other in zip(ours, theirs, strict=True)
    )


def _components(target: str) -> tuple[list[str], list[str]]:
    """Split a target into its path's segments, and each argument's name and value."""
    path, _, query = re.sub(r"\A(?i:https?)://[^/?]*", "", target).partition("?")
    arguments = (piece.partition("=") for piece in query.split("&") if piece)
    return re.sub("/+", "/", path).split("/"), [part for name, _, value in arguments for part in (name, value)]
