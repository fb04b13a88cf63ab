"""Memory with a store buffer for each process.

RULES
1. A store goes to the end of its process's buffer and reaches memory at any later time.
2. A load sees the newest store to that cell in its own buffer, else memory; it never sees another process's buffer.
3. TSO (x86): stores reach memory in program order. PSO: a plain store may overtake earlier ones to other cells; a
   store-release overtakes nothing. Under both, loads happen in program order.
4. A fence passes when the buffer is empty.

Memory is a tuple of u32 cells; a buffer a tuple of (cell, value, is it a release), oldest first. Nothing is changed
in place.
"""

from enum import Enum

__all__ = ["Buffer", "Cells", "Order", "drain", "drainable", "read", "write"]

Cells = tuple[int, ...]
Buffer = tuple[tuple[int, int, bool], ...]


class Order(Enum):
    """In which order buffered stores may reach memory."""

    TSO = "TSO"
    PSO = "PSO"


def read(cells: Cells, buffer: Buffer, address: int) -> int:
    """What a load sees: store-to-load forwarding, then memory."""
    for stored, value, _ in reversed(buffer):
        if stored == address:
            return value
    return cells[address]


def write(cells: Cells, address: int, value: int) -> Cells:
    """Memory with one cell changed."""
    return cells[:address] + (value,) + cells[address + 1:]


def drainable(buffer: Buffer, order: Order) -> list[int]:
    """Positions in the buffer whose store may be the next to reach memory."""
    if not buffer:
        return []
    ready = [0]
    if order is Order.PSO:
        seen = {buffer[0][0]}
        for position in range(1, len(buffer)):
            address, _, is_release = buffer[position]
            if not is_release and address not in seen:
                ready.append(position)
            seen.add(address)
    return ready


def drain(cells: Cells, buffer: Buffer, position: int) -> tuple[Cells, Buffer]:
    """Memory and buffer after the store at `position` has reached memory."""
    address, value, _ = buffer[position]
    return write(cells, address, value), buffer[:position] + buffer[position + 1:]
