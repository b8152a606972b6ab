"""HTTP authentication: Digest with MD5 and SHA-256 (RFC 7616) and Basic (RFC 7617), challenges out, claims judged.

It must not know users, roles or requests: the caller looks the claimed name up and says which hashes are stored.
Time and random bytes are arguments.

Theory of operation. A nonce carries its time of issue and our signature, so a challenge costs no memory, however
many strangers ask for one. Only a nonce that proved a password is remembered, with the counts that were used: a
count may come late or out of order, since clients share a nonce among connections, but it is taken once. A second
time, or after its lifetime, or after a restart of the daemon, a right answer is *stale*, not wrong: the client gets
a fresh nonce and tries again by itself, and no password is doubted.
"""

from __future__ import annotations

import enum
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from protocol.http.credentials import Algorithm, BasicClaim, DigestClaim, stored_hash
from protocol.http.nonces import Ledger
from protocol.parameters.settings import AuthenticationPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from protocol.http.credentials import Claim, StoredHashes

__all__ = ["POLICIES", "Authenticator", "Offer", "Scheme", "Verdict", "advice"]


@final
class Scheme(enum.Enum):
    """A way to prove a password."""

    DIGEST = "Digest"
    BASIC = "Basic"


@final
@dataclass(frozen=True, slots=True)
class Offer:
    """The schemes that a policy takes over plain HTTP and over TLS, the preferred one first."""

    plain: tuple[Scheme, ...]
    tls: tuple[Scheme, ...]

    def schemes(self, *, secure: bool) -> tuple[Scheme, ...]:
        """The schemes for one connection."""
        return self.tls if secure else self.plain


_DIGEST, _BASIC, _BOTH = (Scheme.DIGEST,), (Scheme.BASIC,), (Scheme.DIGEST, Scheme.BASIC)

POLICIES: Mapping[AuthenticationPolicy, Offer] = {
    AuthenticationPolicy.BASIC: Offer(plain=_BASIC, tls=_BASIC),
    AuthenticationPolicy.DIGEST: Offer(plain=_DIGEST, tls=_DIGEST),
    AuthenticationPolicy.BASIC_DIGEST: Offer(plain=_BOTH, tls=_BOTH),
    AuthenticationPolicy.RECOMMENDED: Offer(plain=_DIGEST, tls=_BASIC),
}
"""What each value of ``Network.HTTP.AuthenticationPolicy`` offers."""


def advice(schemes: Sequence[Scheme]) -> str:
    """What a 401 tells a person who called with curl."""
    names = " or ".join(scheme.value for scheme in schemes)
    options = " or ".join(f"curl --{scheme.value.lower()} -u NAME" for scheme in schemes)
    return (
        f"Log in with HTTP {names}, for example {options}; "
        "an administrator may choose otherwise in the parameter root.Network.HTTP.AuthenticationPolicy.\n"
    )


@final
class Verdict(enum.Enum):
    """What a claim is worth."""

    ACCEPTED = "the password is right"
    STALE = "the password is right, the nonce is used up"
    WRONG = "the name or the password is wrong"
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
        # What an unknown name is checked against, so that it costs the time of a known one and never matches.
        self._nobody = self._signature("nobody")
        self._ledger = Ledger()

    def challenges(
        self, schemes: Sequence[Scheme], verdict: Verdict | None, now: float, random: bytes
    ) -> tuple[str, ...]:
        """The values of WWW-Authenticate headers, one a header, in the order of preference.

        ``verdict`` is that on the claim that is answered, None if there was none. ``now`` is in seconds, from any
        clock that never goes back; ``random`` 8 bytes that were never used before.
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
        claimed: Claim,
        stored: StoredHashes | None,
        schemes: Sequence[Scheme],
        method: str,
        target: str,
        now: float,
    ) -> Verdict:
        """Judge a claim against the hashes that are stored for its name (None: the name is unknown).

        ``method`` and ``target`` are the request's, as sent. Comparison takes the same time for every wrong claim.
        """
        match claimed:
            case BasicClaim() if Scheme.BASIC in schemes:
                return self._check_basic(claimed, stored or {})
            case DigestClaim() if Scheme.DIGEST in schemes and claimed.algorithm in self.algorithms:
                return self._check_digest(claimed, stored or {}, method, target, now)
            case _:
                return Verdict.UNWANTED

    def _check_basic(self, claimed: BasicClaim, stored: StoredHashes) -> Verdict:
        proof = stored_hash(Algorithm.SHA256, claimed.name, self.realm, claimed.password)
        right = _same(proof, stored.get(Algorithm.SHA256, self._nobody))
        return Verdict.ACCEPTED if right else Verdict.WRONG

    def _check_digest(
        self, claimed: DigestClaim, stored: StoredHashes, method: str, target: str, now: float
    ) -> Verdict:
        expected = _response(claimed, stored.get(claimed.algorithm, self._nobody), method)
        if not _same(claimed.response, expected) or _path(claimed.uri) != _path(target):
            return Verdict.WRONG
        issued = self._issued(claimed.nonce)
        if issued is None or not 0 <= _milliseconds(now) - issued <= _milliseconds(self.lifetime):
            return Verdict.STALE
        # A client that counts nothing has one use of each nonce, so that its claims cannot be replayed either.
        taken = self._ledger.take(claimed.nonce, issued, int(claimed.count or "1", 16))
        return Verdict.ACCEPTED if taken else Verdict.STALE

    def _nonce(self, now: float, random: bytes) -> str:
        issued = f"{_milliseconds(now):012x}{random.hex()}"
        return issued + self._signature(issued)

    def _issued(self, nonce: str) -> int | None:
        """When we issued a nonce, in milliseconds; None if we did not."""
        issued, signature = nonce[:-_SIGNATURE_DIGITS], nonce[-_SIGNATURE_DIGITS:]
        return int(issued[:12], 16) if _same(signature, self._signature(issued)) else None

    def _signature(self, signed: str) -> str:
        return hmac.new(self._secret, signed.encode(), "sha256").hexdigest()[:_SIGNATURE_DIGITS]


_SIGNATURE_DIGITS = 32


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _response(claimed: DigestClaim, stored: str, method: str) -> str:
    """The proof that the claim should hold (RFC 7616, 3.4.1; without a count RFC 2069, 2.1.2)."""
    hashed, request = claimed.algorithm.of, claimed.algorithm.of(method, claimed.uri)
    if claimed.count is None or claimed.client_nonce is None:
        return hashed(stored, claimed.nonce, request)
    return hashed(stored, claimed.nonce, claimed.count, claimed.client_nonce, "auth", request)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _path(target: str) -> str:
    """The path and query of a target: one side may hold the absolute form where the other does not."""
    return re.sub(r"\Ahttps?://[^/?]*", "", target)
