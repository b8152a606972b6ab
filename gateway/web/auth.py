"""Check a request's login, and the role of its caller.

A refused caller is told how to log in, never whether the name or the password was wrong. Guessing is slowed down
(``protocol.http.login_limit``). But a login on a nonce that has already proved the name is always judged, whatever the
client's neighbours do; and a login in a scheme that is not offered is always answered with that reason.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import field
from typing import TYPE_CHECKING, final

import trio

from gateway.tasks.audit import FirstLogins, audit
from gateway.tasks.event_log import EventLog
from gateway.web.message import Request, Response, explain
from protocol.frozen import frozen
from protocol.http.credentials import Algorithm, parse_credentials
from protocol.http.digest import POLICIES, Authenticator, Verdict, advice
from protocol.http.login_limit import LoginLimit
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.state.store import Published
    from gateway.state.users import User, Users
    from gateway.tasks.watch import Cell
    from gateway.web.bearer import Bearer
    from protocol.http.digest import Scheme

__all__ = ["AccessControl", "Caller", "DeniedError"]

_NO_USERS = (
    "Nobody can log in: there is no user yet. On the gateway's own host run: daisyport user add NAME --role admin"
)


@final
@frozen
class Caller:
    """The caller of a request, after its login; without a name where no login was required."""

    name: str
    role: Role
    user: User | None = field(default=None, compare=False, repr=False)
    """The user as found at the login; None where no login was required, as at the control socket."""

    @property
    def ports(self) -> frozenset[int] | None:
        """The numbers of the ports that the user is bound to; None for all."""
        return None if self.user is None else self.user.ports

    def may_use(self, port: int) -> bool:
        """Return whether the caller may use this port, or see anything of it."""
        return self.ports is None or port in self.ports


@final
class DeniedError(Exception):
    """The caller is not allowed to do this; ``response`` says why, and what is required."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


@final
class AccessControl:
    """The one check of logins and roles. The policy is read at each request, so a new one takes effect at once.

    ``algorithms`` are the hashes that Digest offers, the preferred one first.
    """

    def __init__(
        self,
        users: Users,
        published: Cell[Published],
        algorithms: Sequence[Algorithm] = (Algorithm.MD5,),
        limit: LoginLimit | None = None,
        bearer: Bearer | None = None,
    ) -> None:
        self._users = users
        self._published = published
        self._limit = limit or LoginLimit()
        self._bearer = bearer
        self.events = EventLog(audit)
        """The log of wrong logins and lock-outs; the HTTP server runs it."""
        self._seen = FirstLogins()
        self._authenticator = Authenticator(users.realm, os.urandom(32), algorithms)

    def authorize(self, request: Request, role: Role) -> Caller:
        """Return the caller if it has at least this role. Raise DeniedError."""
        if role is Role.OPEN:
            return Caller("", Role.OPEN)
        if request.local is not None:
            caller = Caller(request.local.name, request.local.role)
            self.require_role(request, caller, role)
            return caller
        if not self._users.everyone:
            if why := self._users.unreadable:
                told = f"Nobody can log in now, since the file of the users cannot be read: {why}. Try again."
                raise DeniedError(explain(503, told, ("Retry-After", "1")))
            raise DeniedError(explain(403, _NO_USERS))
        self._authenticator.realm = self._users.realm  # it changes when this CPU takes over the users of a blade
        user = self._authenticated(request)
        caller = Caller(user.name, user.role, user)
        self.require_role(request, caller, role)
        return caller

    def by_token(self, request: Request) -> Caller | None:
        """Return the caller of a request with the scraper's token; None if the request has no token at all.

        Raises DeniedError. Use it only for paths that the token opens: ``authorize`` does not accept the token.
        """
        scheme, _, token = (request.header(b"authorization") or b"").partition(b" ")
        if scheme.lower() != b"bearer" or self._bearer is None:
            return None
        if (why := self._bearer.refusal(request, token.strip())) is not None:
            self.events.log(logging.WARNING, "wrong tokens", "%s: a token for %s refused", request.peer, request.path)
            raise self._denied(request, None, why)
        return Caller("the scraper", Role.VIEWER)

    def revoked(self, caller: Caller) -> str | None:
        """Return why a caller's earlier login is no longer valid; None while it is.

        A temporarily unreadable file revokes no login.
        """
        if caller.user is None:  # a user of this host, whose login lasts as long as its connection
            return None
        found = self._users.find(caller.name)
        if found == caller.user or self._users.unreadable:
            return None
        if found is None:
            return f"the user {caller.name} was removed"
        return f"the role, the password or the ports of {caller.name} were changed"

    def require_login_in_force(self, request: Request, caller: Caller) -> None:
        """Raise DeniedError if the login with which a request began is no longer valid."""
        if (why := self.revoked(caller)) is not None:
            raise self._denied(request, None, f"This was not finished: {why}.")

    def require_role(self, request: Request, caller: Caller, role: Role) -> None:
        """Raise DeniedError if the role of an authorized caller is too low for what its request turned out to be.

        The answer is a 401, not a 403: VAPIX devices give no other, and another login would be accepted.
        """
        if caller.role < role:
            why = f"{caller.name} is {_with_article(caller.role)}, and this requires {_with_article(role)}."
            if request.local is not None:
                raise DeniedError(explain(403, f"{why} [control] in the host's configuration says who has which role."))
            raise self._denied(request, None, why)

    def _authenticated(self, request: Request) -> User:
        authorization = request.header(b"authorization")
        given = parse_credentials(authorization) if authorization is not None else None
        if given is None:
            raise self._denied(request, None, "A login is required.")
        now, network = trio.current_time(), request.peer.network
        schemes = self._schemes(request)
        # A nonce that has proved a login belongs to its holder, so guesses of others in the same network do not lock
        # him out.
        vouched = self._authenticator.vouches(given)
        if self._authenticator.offers(given, schemes) and not vouched:
            wait = math.ceil(self._limit.wait(network, given.name, now))
            # Before the hash is computed, so that a locked-out caller learns nothing from the time of the answer.
            if wait:
                self.events.log(logging.WARNING, "logins refused", "%s is locked out after wrong logins", network)
                why = f"Too many wrong logins from {network}: try again in {wait} s."
                raise DeniedError(explain(429, why, ("Retry-After", str(wait))))
        user = self._users.find(given.name)
        target = request.target.decode("latin-1")
        # An unknown name goes through the same check, so that the time of the answer does not tell which names exist.
        hashes = user.hashes if user else None
        verdict = self._authenticator.check(given, hashes, schemes, request.method, target, now)
        if verdict is Verdict.ACCEPTED and user is not None:
            self._limit.right(network, given.name, now)
            self._seen.note(user.name, user.role.name.lower(), network)
            return user
        if verdict is Verdict.WRONG:
            if not vouched:  # a nonce counts its own wrong proofs
                self._limit.wrong(network, given.name, now)
            # A name that is no user's may be a password, typed in the wrong field.
            whose = "a name that no user has" if user is None else f"{given.name!r:.60}"
            self.events.log(logging.WARNING, "wrong logins", "%s: wrong login for %s", request.peer, whose)
        raise self._denied(request, verdict, f"The login was not accepted: {verdict.value}.")

    def _denied(self, request: Request, verdict: Verdict | None, why: str) -> DeniedError:
        schemes = self._schemes(request)
        challenges = self._authenticator.challenges(schemes, verdict, trio.current_time(), os.urandom(8))
        headers = (("WWW-Authenticate", challenge) for challenge in challenges)
        return DeniedError(explain(401, f"{why}\n{advice(schemes).rstrip()}", *headers))

    def _schemes(self, request: Request) -> Sequence[Scheme]:
        policy = self._published.value.settings.network.http.authentication_policy
        return POLICIES[policy].schemes(secure=request.secure)


def _with_article(role: Role) -> str:
    article = "a" if role is Role.VIEWER else "an"
    return f"{article} {role.name.lower()}"
