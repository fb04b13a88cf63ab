"""`with` for what has close()."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from .errors import LocalProtocolError


class Closing:
    """A context manager that ends with the class's own close(), whatever happened inside."""

    def close(self) -> None:
        """Give back what is owned. A second call does nothing."""
        raise TypeError(f"{type(self).__name__} has no close() of its own")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        """An exception that passes here may itself hold, by its frames, slices of what is to be closed.

        It goes on with a note then; the domain's close() ends what is left.
        """
        try:
            self.close()
        except LocalProtocolError as error:
            if value is None:
                raise
            value.add_note(str(error))
