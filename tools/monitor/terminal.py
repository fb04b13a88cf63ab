"""The user's terminal, taken for a live display and given back as it was.

RULES

- Whatever ends the display (a key, Ctrl-C, SIGTERM, an error) gives the terminal back: settings, screen and cursor.
- A stopped display (Ctrl-Z) gives it back too, and takes it again when it goes on.
- A frame is one write, over the frame before: nothing is cleared first, so nothing flickers.

Sequences are those of ECMA-48 and xterm's ctlseqs (private modes 1049 and 25), which every terminal of today knows.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Final

from xenpv.closing import Closing
from xenpv.errors import UsageError
from xenpv.signals import handled, signal_pipe

__all__ = ["BOLD", "REVERSE", "Terminal", "styled"]

_ENTER: Final = b"\033[?1049h\033[?25l"
_LEAVE: Final = b"\033[0m\033[?25h\033[?1049l"

REVERSE: Final = "7"
BOLD: Final = "1"

_KEYS: Final = {b"\033[A": "up", b"\033[B": "down", b"\033[C": "right", b"\033[D": "left", b"\033[5~": "page-up",
                b"\033[6~": "page-down", b"\033[H": "home", b"\033[F": "end", b"\033OA": "up", b"\033OB": "down",
                b"\033OC": "right", b"\033OD": "left", b"\x04": "eof", b"\r": "enter", b"\n": "enter", b"\x0c": "redraw"}
_ESCAPE_SECONDS: Final = 0.05
"""How long the rest of an escape sequence may take to come."""


def styled(text: str, style: str) -> str:
    """`text` in a style of SGR, such as REVERSE."""
    return f"\033[{style}m{text}\033[0m"


class Terminal(Closing):
    """The terminal on stdin and stdout. Made in the main thread, for signals are its business.

    Raises UsageError when there is none, or none that can move its cursor.
    """

    def __init__(self, stdin: int | None = None, stdout: int | None = None) -> None:
        self._in = sys.stdin.fileno() if stdin is None else stdin
        self._out = sys.stdout.fileno() if stdout is None else stdout
        if not (os.isatty(self._in) and os.isatty(self._out)):
            raise UsageError("this is no terminal: --batch writes lines instead")
        if os.environ.get("TERM", "dumb") == "dumb":
            raise UsageError("TERM says that this terminal cannot move its cursor: --batch writes lines instead")
        self._before = termios.tcgetattr(self._in)
        self._pending = b""
        self._stack = ExitStack()
        with ExitStack() as made:
            self._woken = made.enter_context(signal_pipe())
            for number, handler in ((signal.SIGWINCH, self._resized), (signal.SIGTSTP, self._stopped)):
                made.enter_context(handled(handler, number))
            made.callback(self._leave)
            self._enter()
            self._stack = made.pop_all()

    def close(self) -> None:
        """Give the terminal back."""
        self._stack.close()

    def _enter(self) -> None:
        settings = termios.tcgetattr(self._in)
        settings[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(self._in, termios.TCSADRAIN, settings)
        self._write(_ENTER)

    def _leave(self) -> None:
        with suppress(OSError, termios.error):  # a terminal that has gone has nothing to be given back
            self._write(_LEAVE)
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)

    def _resized(self, number: int, frame: FrameType | None) -> None:
        """That the handler is there makes the signal wake key()."""

    def _stopped(self, number: int, frame: FrameType | None) -> None:
        self._leave()
        ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, ours)
        self._enter()

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._out, data):]
            except BlockingIOError:  # whoever had the terminal before us left it so
                select.select([], [self._out], [])

    def size(self) -> tuple[int, int]:
        """Columns and lines now; 80 and 24 where the terminal does not say."""
        found = os.get_terminal_size(self._out)
        return found.columns or 80, found.lines or 24

    def draw(self, lines: Sequence[str]) -> None:
        """One frame: `lines` from the top, each shorter than the terminal is wide, and nothing below them."""
        text = "\r\n".join(f"{line}\033[K" for line in lines)
        self._write(f"\033[H{text}\033[J".encode())

    def key(self, timeout: float) -> str | None:
        """The next key within `timeout` seconds: a character, or one of `_KEYS`' names.

        None when none came, or when the terminal has another size now. "eof" when there will be none any more.
        """
        if not self._pending:
            ready, _, _ = select.select([self._in, self._woken], [], [], max(timeout, 0))
            if self._woken in ready:
                with suppress(BlockingIOError):
                    os.read(self._woken, 4096)
            if self._in not in ready:
                return None
            self._pending = self._read()
            if not self._pending:
                return "eof"
        return self._next()

    def _read(self) -> bytes:
        try:
            return os.read(self._in, 64)
        except OSError:  # the other end of a pseudo-terminal has gone
            return b""

    def _next(self) -> str | None:
        if self._pending == b"\033" and select.select([self._in], [], [], _ESCAPE_SECONDS)[0]:
            self._pending += self._read()
        for sequence, name in _KEYS.items():
            if self._pending.startswith(sequence):
                self._pending = self._pending[len(sequence):]
                return name
        if self._pending.startswith(b"\033"):  # some other key of a keyboard: all of it is that one
            self._pending = b""
            return None
        char, self._pending = self._pending[:1], self._pending[1:]
        return char.decode("ascii", "ignore") or None
