"""Who is asking: a request's login is proven, and weighed against the role that something takes.

It must not know what is asked for. A caller that may not is told how to log in, never whether it was the name or
the password that was wrong; and guessing is slowed down for each network that it comes from.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import trio

from gateway.web.message import Request, Response, explain
from protocol.http.credentials import Algorithm, parse_credentials
from protocol.http.digest import POLICIES, Authenticator, Verdict, advice
from protocol.parameters.roles import Role
from protocol.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.state.users import User, Users
    from protocol.http.digest import Scheme
    from protocol.parameters.settings import AuthenticationPolicy

__all__ = ["Access", "Caller", "DeniedError", "Guesses"]

logger = logging.getLogger(__name__)

_NO_USERS = (
    "Nobody can log in, since there is no user yet. On the gateway's own host run: daisyport user add NAME --role admin"
)


@final
@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who proved who it is; without a name, somebody who did not have to."""

    name: str
    role: Role


@final
class DeniedError(Exception):
    """The caller may not; ``response`` tells it why, and what would be right."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


@final
@dataclass(slots=True)
class Guesses:
    """How many wrong passwords a network may still try: ``burst`` at once, then one each ``pause`` seconds.

    At most ``networks`` are remembered; the one that guessed longest ago is forgotten first.
    """

    burst: int = 10
    pause: float = 6.0
    networks: int = 1024
    _buckets: dict[str, TokenBucket] = field(default_factory=dict)
    """In the order of the last guess."""

    def wait(self, network: str, now: float) -> float:
        """Seconds until the next guess is looked at; 0 where it is at once."""
        bucket = self._buckets.get(network)
        return 0.0 if bucket is None else bucket.wait(now)

    def wrong(self, network: str, now: float) -> None:
        """Count a wrong guess."""
        bucket = self._buckets.pop(network, None) or TokenBucket(self.burst, self.pause, now)
        bucket.take(now)
        self._buckets[network] = bucket
        if len(self._buckets) > self.networks:
            del self._buckets[next(iter(self._buckets))]


@final
class Access:
    """The one check of who may: ``policy`` is asked at each request, so a new one holds at once.

    ``algorithms`` are the hashes that Digest takes, the preferred one first.
    """

    def __init__(
        self,
        users: Users,
        policy: Callable[[], AuthenticationPolicy],
        algorithms: Sequence[Algorithm] = (Algorithm.MD5,),
        guesses: Guesses | None = None,
    ) -> None:
        self._users = users
        self._policy = policy
        self._guesses = guesses or Guesses()
        self._authenticator = Authenticator(users.realm, os.urandom(32), algorithms)

    def admit(self, request: Request, role: Role) -> Caller:
        """The caller, who has at least this role; DeniedError for anybody else."""
        if role is Role.OPEN:
            return Caller("", Role.OPEN)
        if not self._users.everyone:
            raise DeniedError(explain(403, _NO_USERS))
        user = self._proven(request)
        caller = Caller(user.name, user.role)
        self.require(request, caller, role)
        return caller

    def require(self, request: Request, caller: Caller, role: Role) -> None:
        """DeniedError where an admitted caller's role is too low for what it turned out to ask.

        That is a 401, not a 403: VAPIX clients know no other, and another login would do.
        """
        if caller.role < role:
            needs = f"{caller.name} is {_named(caller.role)}, and this takes {_named(role)}."
            raise self._denied(request, None, needs)

    def _proven(self, request: Request) -> User:
        authorization = request.header(b"authorization")
        claimed = parse_credentials(authorization) if authorization is not None else None
        if claimed is None:
            raise self._denied(request, None, "This takes a login.")
        now, network = trio.current_time(), request.peer.network
        if wait := math.ceil(self._guesses.wait(network, now)):
            why = f"Too many wrong logins came from {network}: the next one is looked at in {wait} s."
            raise DeniedError(explain(429, why, ("Retry-After", str(wait))))
        user = self._users.find(claimed.name)
        target = request.target.decode("latin-1")
        hashes = user.hashes if user else None
        verdict = self._authenticator.check(claimed, hashes, self._schemes(request), request.method, target, now)
        if verdict is Verdict.ACCEPTED and user is not None:
            return user
        if verdict is Verdict.WRONG:
            self._guesses.wrong(network, now)
            logger.warning("%s: wrong name or password for %.60r", request.peer, claimed.name)
        raise self._denied(request, verdict, f"The login was not accepted: {verdict.value}.")

    def _denied(self, request: Request, verdict: Verdict | None, why: str) -> DeniedError:
        schemes = self._schemes(request)
        challenges = self._authenticator.challenges(schemes, verdict, trio.current_time(), os.urandom(8))
        headers = (("WWW-Authenticate", challenge) for challenge in challenges)
        return DeniedError(explain(401, f"{why}\n{advice(schemes).rstrip()}", *headers))

    def _schemes(self, request: Request) -> Sequence[Scheme]:
        return POLICIES[self._policy()].schemes(secure=request.secure)


def _named(role: Role) -> str:
    article = "a" if role is Role.VIEWER else "an"
    return f"{article} {role.name.lower()}"
