"""The ring's three verbs in plain Python over a bytearray: one process, no memory order, for comparison with the
core.

RULES (source: xen/include/public/io/ring.h; bytes 32 and 36 are the notify-suppression flag's)
1. Header, u32 little-endian: req_prod @0, req_event @4, rsp_prod @8, rsp_event @12, backend word @32, frontend word
   @36; entries from @64. A front consumes responses and produces requests, a back the reverse.
2. Every difference is taken modulo 2^32.
3. A producer index that the peer cannot have reached is -EPROTO.
"""

from errno import EPROTO

__all__ = ["HEADER", "ReferenceRing", "entries_of", "init"]

HEADER = 64
REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT, BACKEND_WORD, FRONTEND_WORD = 0, 4, 8, 12, 32, 36
MASK = 0xffffffff


def init(shared: bytearray) -> None:
    """What a front does to a fresh page: producer indices 0, event indices 1, the rest of the header 0."""
    shared[:HEADER] = bytes(HEADER)
    for offset in (REQ_EVENT, RSP_EVENT):
        shared[offset:offset + 4] = (1).to_bytes(4, "little")


def entries_of(size: int, entry_size: int) -> int:
    """The largest power of two of entries of `entry_size` bytes that fit behind the header of `size` bytes."""
    return 1 << ((size - HEADER) // entry_size).bit_length() - 1


class ReferenceRing:
    """One end. `attach` first; then the verbs; whoever consumes entries adds to `consumed` himself."""

    def __init__(self, shared: bytearray, entry_size: int, back: bool, flag: bool) -> None:
        self.shared = shared
        self.entries = entries_of(len(shared), entry_size)
        self.back = back
        self.flag = flag
        self.produced = self.consumed = self.word = self.notified_for = 0
        self.notified_any = False
        self.notifications = self.saved = 0

    def attach(self) -> int:
        """Take the indices as they stand; attaching counts as an event. 0, or -EPROTO when no ring can stand so."""
        request, response = self._load(REQ_PROD), self._load(RSP_PROD)
        if request - response & MASK > self.entries:
            return -EPROTO
        self.produced = response if self.back else request
        self.consumed = response
        self.word = self._load(self._own_word)
        self.notified_any = False
        self.run()
        return 0

    def available(self) -> int:
        """Entries published and not consumed, or -EPROTO."""
        index = self._load(REQ_PROD if self.back else RSP_PROD)
        waiting = index - self.consumed & MASK
        outstanding = self.consumed - self.produced & MASK
        if self.back:
            if index - self.produced & MASK > self.entries:
                return -EPROTO
            return min(waiting, self.entries - outstanding)
        return -EPROTO if waiting > (-outstanding & MASK) else waiting

    def publish(self, produced: int) -> int:
        """Make entries up to `produced` visible. 1: notify the peer."""
        old, self.produced = self.produced, produced
        self._store(RSP_PROD if self.back else REQ_PROD, produced)
        if self.flag:
            word = self._load(FRONTEND_WORD if self.back else BACKEND_WORD)
            wanted = not word & 1 and not (self.notified_any and word == self.notified_for)
            if wanted:
                self.notified_any, self.notified_for = True, word
        else:
            event = self._load(RSP_EVENT if self.back else REQ_EVENT)
            wanted = (produced - event & MASK) < (produced - old & MASK)
        self.notifications += wanted
        self.saved += not wanted
        return int(wanted)

    def arm(self) -> int:
        """Ask for an event and look again. Above 0: do not sleep."""
        if not self.flag:
            self._store(REQ_EVENT if self.back else RSP_EVENT, self.consumed + 1 & MASK)
        elif self.word & 1:
            self._next_word()
        return self.available()

    def run(self) -> None:
        """Promise to look again unprompted; standard mode has no word for it."""
        if self.flag and not self.word & 1:
            self._next_word()

    @property
    def _own_word(self) -> int:
        return BACKEND_WORD if self.back else FRONTEND_WORD

    def _next_word(self) -> None:
        self.word = self.word + 1 & MASK
        self._store(self._own_word, self.word)

    def _load(self, offset: int) -> int:
        return int.from_bytes(self.shared[offset:offset + 4], "little")

    def _store(self, offset: int, value: int) -> None:
        self.shared[offset:offset + 4] = value.to_bytes(4, "little")
