"""Requests on domains: INTRODUCE, RELEASE, RESUME, GET_DOMAIN_PATH, IS_DOMAIN_INTRODUCED, SET_TARGET, features, quotas.

Source: docs/misc/xenstore.txt of Xen, "Domain management and xenstored communications".
"""

from __future__ import annotations

from xenpv.errors import StoreError
from xenpv.wire.xs import DOMID_FIRST_RESERVED, DOMID_SELF

from .quotas import FEATURES, Domain, Quotas
from .request import OK, Request, domid, number


def _text(value: object) -> bytes:
    return f"{value}\0".encode()


def _guest(request: Request, raw: bytes) -> Domain:
    """The record of an introduced domain that is not the control domain. Raises StoreError (EINVAL, ENOENT)."""
    number = domid(raw)
    if number == 0:
        raise StoreError("domain 0 is always there", "EINVAL")
    return _introduced(request, number)


def _introduced(request: Request, number: int) -> Domain:
    domain = request.store.find(number)
    if domain is None or not domain.introduced:
        raise StoreError(f"domain {number} is not introduced", "ENOENT")
    return domain


def introduce(request: Request) -> bytes:
    """INTRODUCE domid gfn port: the domain is there. Domains come by socket here, so page and port are only checked."""
    raw, _, port, *_ = request.strings(3, 4)
    if number(port) == 0:
        raise StoreError("port 0 is no event channel", "EINVAL")
    request.store.introduce(domid(raw))
    return OK


def release(request: Request) -> bytes:
    """RELEASE domid: the domain is gone."""
    request.store.release(_guest(request, request.string()).domid)
    return OK


def resume(request: Request) -> bytes:
    """RESUME domid: its next shutdown is told again. Domains here end by RELEASE alone, so only the id is checked."""
    _guest(request, request.string())
    return OK


def get_domain_path(request: Request) -> bytes:
    """GET_DOMAIN_PATH domid: where its relative paths start."""
    return _text(f"/local/domain/{domid(request.string())}")


def is_domain_introduced(request: Request) -> bytes:
    """IS_DOMAIN_INTRODUCED domid: T or F."""
    number = domid(request.string())
    domain = request.store.find(number)
    return b"T\0" if number == DOMID_SELF or (domain is not None and domain.introduced) else b"F\0"


def set_target(request: Request) -> bytes:
    """SET_TARGET domid target: the first domain has the permissions of the second as well (a device model's)."""
    raw, target = request.strings(2, 2)
    domain = _guest(request, raw)
    domain.target = _introduced(request, domid(target)).domid
    return OK


def get_feature(request: Request) -> bytes:
    """GET_FEATURE [domid]: the caller's features, or, for the control domain, another's."""
    raw = [] if request.packet.payload in (b"", b"\0") else request.strings(1, 1)
    if not raw:
        return _text(int(request.domain.features))
    if not request.domain.privileged:
        raise StoreError("only the control domain may ask for another", "EACCES")
    return _text(int(_known(request, raw[0]).features))


def set_feature(request: Request) -> bytes:
    """SET_FEATURE domid features: what a domain will be offered; before it is introduced."""
    raw, bits = request.strings(2, 2)
    wanted = number(bits)
    if wanted & ~FEATURES:
        raise StoreError("this feature is not known here", "EINVAL")
    domain = _known(request, raw)
    if domain.introduced:
        raise StoreError(f"domain {domain.domid} is introduced already", "EBUSY")
    domain.features = FEATURES & wanted
    return OK


def get_quota(request: Request) -> bytes:
    """GET_QUOTA [[domid] quota]: the names of the quotas, a default, or a domain's own."""
    words = [] if request.packet.payload in (b"", b"\0") else request.strings(1, 2)
    if not words:
        return _text(" ".join(Quotas.names()))
    quotas = request.store.quotas if len(words) == 1 else _known(request, words[0]).quotas
    return _text(quotas.get(words[-1].decode("latin-1")))


def set_quota(request: Request) -> bytes:
    """SET_QUOTA [domid] quota value: change a domain's own, or the default of domains to come."""
    *raw, name, value = request.strings(2, 3)
    if not raw:
        request.store.quotas = request.store.quotas.changed(name.decode("latin-1"), number(value))
    else:
        domain = _known(request, raw[0])
        domain.quotas = domain.quotas.changed(name.decode("latin-1"), number(value))
    return OK


def _known(request: Request, raw: bytes) -> Domain:
    """The record of any real domain, a new one where there is none. Raises StoreError (EINVAL)."""
    number = domid(raw)
    if number >= DOMID_FIRST_RESERVED:
        raise StoreError(f"{number} is not a domain id", "EINVAL")
    return request.store.account(number)
