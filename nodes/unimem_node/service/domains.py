"""Protection domains open on this node, and the sessions that may post for them.

The coordinator opens a domain here before any client hears of it, with the token of the client's session;
a `Transfer` stream shows both. A token says who may ask; what may be touched is decided by page tables.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Protocol

import grpc

from unimem_node.service.rpc import Refusal

if TYPE_CHECKING:
    from unimem_node.service.model import Model

_LARGEST_PDID = 0xFFFF


class Endable(Protocol):
    """A stream that can be told to end."""

    def end(self, why: Refusal) -> None:
        """End with `why` as the status; later calls do nothing."""


class Domain:
    """One protection domain: its ASID and its sessions' streams by token."""

    __slots__ = ("asid", "closed", "pdid", "sessions")

    def __init__(self, pdid: int, asid: int) -> None:
        self.pdid, self.asid = pdid, asid
        self.sessions: dict[str, set[Endable]] = {}
        self.closed = False


class Domains:
    """The table of open domains."""

    def __init__(self, node: Model) -> None:
        self._node = node
        self._open: dict[int, Domain] = {}

    def pdids(self) -> list[int]:
        """Those open, ascending."""
        return sorted(self._open)

    def open(self, pdid: int, token: str) -> Domain:
        """Open domain `pdid`, or add a session to it. Idempotent."""
        if not 0 < pdid <= _LARGEST_PDID:
            raise ValueError(f"protection domain {pdid} is not in 1..{_LARGEST_PDID}")
        domain = self._open.get(pdid)
        if domain is None:
            domain = self._open[pdid] = Domain(pdid, self._node.open_domain(pdid))
        if token:
            domain.sessions.setdefault(token, set())
        return domain

    def close(self, pdid: int, token: str) -> None:
        """End one session (`token`), or the domain with its memory. Idempotent."""
        domain = self._open.get(pdid)
        if domain is None:
            return
        why = Refusal(grpc.StatusCode.UNAUTHENTICATED, "SESSION_EXPIRED", "the session was closed", pdid=pdid)
        if token:
            streams = list(domain.sessions.pop(token, ()))
        else:
            del self._open[pdid]
            domain.closed = True
            streams = [stream for session in domain.sessions.values() for stream in session]
        for stream in streams:
            stream.end(why)
        if domain.closed:
            self._node.close_domain(pdid)

    def require(self, pdid: int) -> Domain:
        """The open domain `pdid`; refuses NOT_FOUND."""
        domain = self._open.get(pdid)
        if domain is None:
            raise Refusal(
                grpc.StatusCode.NOT_FOUND,
                "UNKNOWN_DOMAIN",
                f"protection domain {pdid} is not open on node {self._node.name}",
                pdid=pdid,
                node=self._node.name,
            )
        return domain

    def admit(self, metadata: dict[str, str]) -> tuple[Domain, set[Endable]]:
        """The domain and the session that a stream's metadata names; refuses what does not match."""
        pdid_text, token = metadata.get("unimem-pdid", ""), metadata.get("unimem-token", "")
        if not pdid_text.isdecimal() or not token:
            raise Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                "MISSING_CREDENTIALS",
                "metadata unimem-pdid (decimal) and unimem-token, both from OpenSession, are needed",
            )
        domain = self._open.get(int(pdid_text))
        if domain is None:
            # After a restart of the node its sessions are gone: the client has to open a new one.
            raise Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                "SESSION_EXPIRED",
                f"protection domain {pdid_text} is not open on node {self._node.name}",
                pdid=pdid_text,
                node=self._node.name,
            )
        for known, streams in domain.sessions.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                return domain, streams
        raise Refusal(
            grpc.StatusCode.PERMISSION_DENIED,
            "BAD_TOKEN",
            f"this token is of no session of protection domain {pdid_text} on node {self._node.name}",
            pdid=pdid_text,
            node=self._node.name,
        )

    def end_all(self, why: Refusal) -> None:
        """End every stream; the domains stay."""
        for domain in self._open.values():
            for session in domain.sessions.values():
                for stream in list(session):
                    stream.end(why)
