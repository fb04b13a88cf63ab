"""xenpv ring: the shared ring of a disk, decoded."""

from __future__ import annotations

import click

from .. import toolstack
from ..output import pairs, table
from ..ring_view import Ring, read_rings
from ..session import Session, verb


@click.group("ring")
def command() -> None:
    """The shared ring of a disk, decoded. It is mapped read-only, and neither end notices."""


@command.command()
@click.argument("domain")
@click.argument("device")
@click.option("-a", "--all", "everything", is_flag=True, help="Also the slots that were answered.")
@verb(json=True, changes=False)
def show(session: Session, domain: str, device: str, everything: bool) -> None:
    """A disk's rings: indices, words, slots.

    Slots are requests while they are unanswered. The words are the notify-suppression flag's: even is
    SLEEPING, odd RUNNING.
    """
    domid = session.domains().find(domain).domid
    with session.open_domain() as dom0:
        rings = read_rings(dom0, toolstack.find_vbd(dom0.store, domid, device))
    text = "\n\n".join(_text(number, ring, everything) for number, ring in enumerate(rings))
    session.show([ring.to_json() for ring in rings], text)


def _word(value: int) -> str:
    return f"{value} ({'RUNNING' if value & 1 else 'SLEEPING'})"


def _text(number: int, ring: Ring, everything: bool) -> str:
    values = ring.to_json()
    head = {"queue": number, "entries": ring.entries, "protocol": ring.protocol,
            **{name: values[name] for name in ("req_prod", "req_event", "rsp_prod", "rsp_event")},
            "backend_word": _word(values["backend_word"]), "frontend_word": _word(values["frontend_word"]),
            "unanswered": ring.unanswered if ring.possible else f"{ring.unanswered}: impossible, the ring is broken"}
    rows = []
    for slot in values["slots"]:
        if slot["kind"] == "request" or everything and slot["kind"] == "response":
            rest = " ".join(f"{name}={','.join(value) if isinstance(value, list) and name != 'grefs' else value}"
                            for name, value in slot.items() if name not in ("slot", "kind", "id", "operation"))
            rows.append((slot["slot"], slot["kind"], slot["id"], slot["operation"], rest))
    return pairs(head) + ("\n\n" + table(("Slot", "Kind", "Id", "Operation", ""), rows, ("Slot", "Id")) if rows else "")
