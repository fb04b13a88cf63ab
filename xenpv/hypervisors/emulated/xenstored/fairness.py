"""A limit on how often one domain may disturb the transactions of others (XSA-206).

Source: the write rate limit of C xenstored (tools/xenstored/domain.c of Xen, WRL_RATE and WRL_DBURST), simplified.

RULES
- A commit of an unprivileged domain costs one credit while somebody else has a transaction open.
- A domain without credit is not read until it has some again; domain 0 is always read.
- All domains share RATE credits a second, so that a transaction of one gets its turn soon.
- Time is told from outside. While it was never told, there is no limit: nobody would ever get credit back.
"""

from __future__ import annotations

RATE = 200.0
"""Credits a second, for all domains together."""

BURST = 10.0
"""Credits that a domain may save."""


class Credits:
    """The credit of every unprivileged domain that has disturbed somebody."""

    def __init__(self) -> None:
        self._now: float | None = None
        self._credits: dict[int, float] = {}

    def spend(self, domid: int) -> None:
        """Take one credit."""
        if self._now is not None:
            self._credits[domid] = self._credits.get(domid, BURST) - 1

    def blocked(self, domid: int) -> bool:
        """Whether the domain has to wait."""
        return self._credits.get(domid, BURST) < 0

    def forget(self, domid: int) -> None:
        """The domain is gone."""
        self._credits.pop(domid, None)

    def tick(self, now: float) -> tuple[list[int], float | None]:
        """It is `now` (seconds, any monotonic clock). Gives who may go on, and when the next one may."""
        if self._now is None or not self._credits:
            self._now = now
            return [], None
        share = RATE / len(self._credits)
        earned, self._now = max(0.0, now - self._now) * share, now
        freed: list[int] = []
        for domid, credit in list(self._credits.items()):
            self._credits[domid] = credit + earned
            if credit < 0 <= credit + earned:
                freed.append(domid)
            if credit + earned >= BURST:
                del self._credits[domid]
        waits = [-credit / share for credit in self._credits.values() if credit < 0]
        return freed, now + min(waits) if waits else None
