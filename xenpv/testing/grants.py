"""The contract of Grants."""

from __future__ import annotations

from xenpv.domain import PAGE_SIZE, Domain
from xenpv.errors import ClosedError, GrantError

from .contract import Check, MakePair, hold, refused, run

_NOBODY = 0x7FEE
"""A domid that no test gives to anybody."""

_NOT_GRANTED, _NO_SUCH_DOMAIN, _NO_SUCH_REFERENCE = -1, -2, -3
"""GNTST_general_error, GNTST_bad_domain, GNTST_bad_gntref (public/grant_table.h)."""

_UNUSED = 0x7FFF_0000
"""A reference that no grant table reaches. Low ones are not free: on Xen a guest's 0 and 1 are its console's and store's."""

_MARK = b"\xa5" * PAGE_SIZE


def shared_pages_are_zero(granter: Domain, foreign: Domain) -> None:
    """Fresh pages are zero, and there is a reference for each."""
    with granter.grants.share(foreign.domid, 3) as shared:
        hold(len(set(shared.refs)) == 3, "three pages have three references")
        hold(bytes(shared.memory) == bytes(3 * PAGE_SIZE), "fresh shared pages are zero")


def both_sides_see_one_memory(granter: Domain, foreign: Domain) -> None:
    """What one side writes, the other reads."""
    with granter.grants.share(foreign.domid, 2) as shared:
        with foreign.grants.map(granter.domid, shared.refs) as mapped:
            shared.memory[PAGE_SIZE - 2:PAGE_SIZE + 2] = b"abcd"
            hold(mapped.read(PAGE_SIZE - 2, 4) == b"abcd", "the foreign domain reads what the granter wrote")
            mapped.write(10, b"xyz")
            hold(bytes(shared.memory[10:13]) == b"xyz", "the granter reads what the foreign domain wrote")


def pages_come_in_the_order_asked(granter: Domain, foreign: Domain) -> None:
    """References in any order, also twice, become contiguous memory in that order."""
    with granter.grants.share(foreign.domid, 3) as shared:
        for page in range(3):
            shared.memory[page * PAGE_SIZE] = page + 1
        order = [2, 0, 2, 1]
        with foreign.grants.map(granter.domid, [shared.refs[page] for page in order]) as mapped:
            found = [mapped.read(page * PAGE_SIZE, 1)[0] - 1 for page in range(len(order))]
            hold(found == order, f"pages asked for as {order} came as {found}")
            mapped.write(2 * PAGE_SIZE + 1, b"!")
            hold(mapped.read(1, 1) == b"!", "one page mapped at two places is one page")


def what_is_not_granted_cannot_be_mapped(granter: Domain, foreign: Domain) -> None:
    """A reference that the granter's table does not reach."""
    with granter.grants.share(foreign.domid) as shared:
        for ref in (_UNUSED, shared.refs[0] + 100_000, 0xFFFF_FFFF):
            with refused(GrantError, f"grant {ref}, which nobody made, was mapped", status=_NO_SUCH_REFERENCE):
                foreign.grants.map(granter.domid, [ref])


def what_has_ended_cannot_be_mapped(granter: Domain, foreign: Domain) -> None:
    """A reference whose grant has ended."""
    shared = granter.grants.share(foreign.domid)
    refs = list(shared.refs)
    foreign.grants.map(granter.domid, refs).close()
    shared.close()
    with refused(GrantError, "a grant that has ended was mapped", status=_NOT_GRANTED):
        foreign.grants.map(granter.domid, refs)


def what_was_granted_to_another_cannot_be_mapped(granter: Domain, foreign: Domain) -> None:
    """Only the domain that a page was granted to may map it."""
    with granter.grants.share(granter.domid) as shared:
        with refused(GrantError, "a page granted to another domain was mapped", status=_NOT_GRANTED):
            foreign.grants.map(granter.domid, shared.refs)


def nobody_has_no_grants(granter: Domain, foreign: Domain) -> None:
    """A domain that is not there has nothing to map."""
    for ref in (0, 1000):
        with refused(GrantError, "a page of a domain that does not exist was mapped", status=_NO_SUCH_DOMAIN):
            foreign.grants.map(_NOBODY, [ref])


def nobody_can_be_granted_pages(granter: Domain, foreign: Domain) -> None:
    """Nobody asks whether the domain that a page is granted to is there; it maps nothing, and the grant ends as any other."""
    with granter.grants.share(_NOBODY) as shared:
        with refused(GrantError, "a page granted to a domain that does not exist was mapped", status=_NOT_GRANTED):
            foreign.grants.map(granter.domid, shared.refs)
    for domid in (0x7FF4, 0x1_0000, 0xFFFF_FFFF):
        with refused(GrantError, f"a page was granted to {domid:#x}, which no domain can be", status=_NO_SUCH_DOMAIN):
            granter.grants.share(domid)


def read_only_pages_can_be_read(granter: Domain, foreign: Domain) -> None:
    """A read-only grant can be mapped for reading, and follows the granter's writes."""
    with granter.grants.share(foreign.domid, writable=False) as shared:
        with foreign.grants.map(granter.domid, shared.refs, writable=False) as mapped:
            hold(not mapped.writable, "a mapping for reading is not writable")
            shared.memory[0:3] = b"new"
            hold(mapped.read(0, 3) == b"new", "the granter writes to its read-only grant, and it is seen")


def read_only_pages_cannot_be_written(granter: Domain, foreign: Domain) -> None:
    """A read-only grant cannot be mapped for writing, and a mapping for reading cannot be written."""
    with granter.grants.share(foreign.domid, writable=False) as shared:
        with refused(GrantError, "a read-only grant was mapped for writing", status=_NOT_GRANTED):
            foreign.grants.map(granter.domid, shared.refs, writable=True)
        with foreign.grants.map(granter.domid, shared.refs, writable=False) as mapped:
            with refused(GrantError, "a mapping for reading was written"):
                mapped.write(0, b"x")
        hold(bytes(shared.memory) == bytes(PAGE_SIZE), "a refused write left something in the page")


def all_or_none_is_mapped(granter: Domain, foreign: Domain) -> None:
    """One bad reference among good ones: nothing is mapped, and the good ones can be ended and used again."""
    with granter.grants.share(foreign.domid, 2) as shared:
        with refused(GrantError, "a map with one bad reference went through", status=_NO_SUCH_REFERENCE):
            foreign.grants.map(granter.domid, [*shared.refs, _UNUSED])
        with foreign.grants.map(granter.domid, shared.refs) as mapped:
            hold(mapped.read(0, 1) == b"\0", "good references still map after a refusal")


def a_page_lives_until_its_last_unmap(granter: Domain, foreign: Domain) -> None:
    """Mapped twice, unmapped once, ended: the page is neither gone nor used again before the second unmap."""
    shared = granter.grants.share(foreign.domid)
    shared.memory[:] = _MARK
    first = foreign.grants.map(granter.domid, shared.refs)
    second = foreign.grants.map(granter.domid, shared.refs)
    first.close()
    shared.close()
    others = [granter.grants.share(foreign.domid, 16) for _ in range(4)]
    try:
        for other in others:
            other.memory[:] = b"\x5a" * 16 * PAGE_SIZE
        hold(second.read(0, PAGE_SIZE) == _MARK, "a page that is still mapped was used again")
    finally:
        second.close()
        for other in others:
            other.close()


def pages_are_zero_before_each_grant(granter: Domain, foreign: Domain) -> None:
    """What the one or the other wrote is gone at the page's next grant."""
    for _ in range(4):
        with granter.grants.share(foreign.domid, 2) as shared:
            hold(bytes(shared.memory) == bytes(2 * PAGE_SIZE), "a page kept what an earlier grant had in it")
            shared.memory[:PAGE_SIZE] = _MARK
            with foreign.grants.map(granter.domid, shared.refs) as mapped:
                mapped.write(PAGE_SIZE, _MARK)


def mapped_memory_has_bounds(granter: Domain, foreign: Domain) -> None:
    """Outside the pages is a ValueError."""
    with granter.grants.share(foreign.domid) as shared:
        with foreign.grants.map(granter.domid, shared.refs) as mapped:
            hold(mapped.read(PAGE_SIZE, 0) == b"", "nothing can be read at the very end")
            for offset, length in ((-1, 1), (PAGE_SIZE, 1), (0, PAGE_SIZE + 1), (1 << 62, 1 << 62), (0, -1)):
                with refused(ValueError, f"{length} bytes at {offset} were read"):
                    mapped.read(offset, length)
            with refused(ValueError, "a write went over the end"):
                mapped.write(PAGE_SIZE - 1, b"12")


def a_byte_is_cleared_when_pages_end(granter: Domain, foreign: Domain) -> None:
    """The one that was asked for, for a peer that has read-only pages mapped; the later of two for a page."""
    shared = granter.grants.share(foreign.domid, 2, writable=False)
    for byte in (5, 9, PAGE_SIZE + 7):
        shared.memory[byte] = 1
        shared.on_unmap(clear=byte)
    with refused(ValueError, "a byte outside the pages was taken"):
        shared.on_unmap(clear=2 * PAGE_SIZE)
    with foreign.grants.map(granter.domid, shared.refs, writable=False) as mapped:
        hold(mapped.read(9, 1) + mapped.read(PAGE_SIZE + 7, 1) == b"\1\1", "nothing is cleared while the pages are ours")
        shared.close()
        hold(mapped.read(9, 1) + mapped.read(PAGE_SIZE + 7, 1) == b"\0\0", "a byte is cleared when the pages end")
        hold(mapped.read(5, 1) == b"\1", "a later byte of a page replaces the earlier")


def closed_objects_say_so(granter: Domain, foreign: Domain) -> None:
    """After close(): ClosedError; a second close() does nothing."""
    shared = granter.grants.share(foreign.domid)
    mapped = foreign.grants.map(granter.domid, shared.refs)
    for _ in range(2):
        mapped.close()
        shared.close()
    with refused(ClosedError, "a closed mapping was read"):
        mapped.read(0, 1)
    with refused(ClosedError, "a closed mapping was written"):
        mapped.write(0, b"x")
    with refused(ClosedError, "closed shared pages gave their memory"):
        _ = shared.memory


def many_pages_are_one_memory(granter: Domain, foreign: Domain) -> None:
    """The pages of a large share stand side by side, here and there."""
    count = 300
    with granter.grants.share(foreign.domid, count) as shared:
        hold(len(set(shared.refs)) == count and shared.memory.nbytes == count * PAGE_SIZE, f"{count} pages at once")
        content = b"".join(page.to_bytes(2, "little") * (PAGE_SIZE // 2) for page in range(count))
        shared.memory[:] = content
        with foreign.grants.map(granter.domid, shared.refs) as mapped:
            hold(mapped.read(0, count * PAGE_SIZE) == content, "the pages came in another order")


def a_closed_domain_ends_its_mappings(granter: Domain, foreign: Domain) -> None:
    """Closing a domain ends what it had mapped."""
    with granter.grants.share(foreign.domid) as shared:
        mapped = foreign.grants.map(granter.domid, shared.refs)
        foreign.close()
        with refused(ClosedError, "a mapping outlived its domain"):
            mapped.read(0, 1)


def the_core_has_handles(granter: Domain, foreign: Domain) -> None:
    """A handle of the core can be closed, also twice; a closed one cannot be handed over."""
    handle = foreign.open_core()
    handle.close()
    handle.close()
    with refused(ClosedError, "a closed handle of the core was handed over"):
        handle.detach()


GRANT_CHECKS: tuple[Check, ...] = (
    shared_pages_are_zero, both_sides_see_one_memory, pages_come_in_the_order_asked,
    what_is_not_granted_cannot_be_mapped, what_has_ended_cannot_be_mapped,
    what_was_granted_to_another_cannot_be_mapped, nobody_has_no_grants, nobody_can_be_granted_pages,
    read_only_pages_can_be_read, read_only_pages_cannot_be_written, all_or_none_is_mapped, a_page_lives_until_its_last_unmap,
    pages_are_zero_before_each_grant, mapped_memory_has_bounds,
    a_byte_is_cleared_when_pages_end, closed_objects_say_so,
    many_pages_are_one_memory, a_closed_domain_ends_its_mappings, the_core_has_handles,
)


def check_grants(make_pair: MakePair) -> None:
    """Every claim about grants. Raises ContractError."""
    run(GRANT_CHECKS, make_pair)
