"""What an unprivileged domain may use, and what it uses.

Source: the defaults of C xenstored (tools/xenstored/domain.c of Xen); names as GET_QUOTA and SET_QUOTA have them.

RULES
- A limit is the greatest value allowed; 0 means none. Domain 0 has no limit.
- A domain that is gone leaves nothing behind: its record, its usage and its own limits go together (XSA-483).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from xenpv.errors import StoreError
from xenpv.wire.xs import Feature

FEATURES = Feature.WATCH_DEPTH | Feature.DOMID_ANY
"""What is offered to every domain, unless SET_FEATURE takes it away. The others are about the shared ring."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits of one unprivileged domain."""

    nodes: int = 1000
    watches: int = 128
    outstanding: int = 20
    """Requests whose answer, or whose watch events, have not left yet."""
    memory: int = 2_621_440
    """Bytes of nodes, watches, open transactions and unread events."""
    transactions: int = 10
    transaction_nodes: int = 1024
    """Nodes that one transaction may touch."""
    node_permissions: int = 5
    path_max: int = 2048
    node_size: int = 2048
    """Bytes of one node: value, names of children, permissions."""

    @staticmethod
    def names() -> list[str]:
        """The names on the wire."""
        return [item.name.replace("_", "-") for item in fields(Quotas)]

    def get(self, name: str) -> int:
        """The limit with this name on the wire. Raises StoreError (EINVAL)."""
        value: int = getattr(self, _attribute(name))
        return value

    def changed(self, name: str, value: int) -> Quotas:
        """The same with one limit changed. Raises StoreError (EINVAL)."""
        return replace(self, **{_attribute(name): value})


def _attribute(name: str) -> str:
    if name not in Quotas.names():
        raise StoreError("there is no such quota", "EINVAL")
    return name.replace("-", "_")


@dataclass(slots=True)
class Usage:
    """What one domain uses now. Memory is in bytes."""

    nodes: int = 0
    watches: int = 0
    transactions: int = 0
    outstanding: int = 0
    memory: int = 0


@dataclass(slots=True)
class Domain:
    """One domain as the store knows it: from its first connection or INTRODUCE until it is released."""

    domid: int
    quotas: Quotas
    features: Feature = FEATURES
    introduced: bool = False
    target: int | None = None
    """The domain whose permissions it has as well (SET_TARGET)."""
    usage: Usage = field(default_factory=Usage)

    @property
    def privileged(self) -> bool:
        return self.domid == 0

    @property
    def offers_domid_any(self) -> bool:
        """Whether it may use entries for DOMID_ANY."""
        return bool(self.features & Feature.DOMID_ANY)

    @property
    def base(self) -> str:
        """Where its relative paths start."""
        return f"/local/domain/{self.domid}"

    @property
    def identities(self) -> tuple[int, ...]:
        """Whose permissions it has."""
        return (self.domid,) if self.target is None else (self.domid, self.target)

    def exceeds(self, quota: str, value: int) -> bool:
        """Whether `value` is more than this domain's quota (a name of `Quotas`) allows."""
        limit: int = getattr(self.quotas, quota)
        return not self.privileged and limit != 0 and value > limit

    def demand(self, quota: str, value: int, code: str = "ENOSPC") -> None:
        """Raise StoreError with `code` if `value` is more than the quota allows."""
        if self.exceeds(quota, value):
            raise StoreError(f"domain {self.domid} has used up its quota of {quota}", code)
