"""A backend that moves no data: it answers the toolstack's states, or does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from xenpv.errors import NoEntryError
from xenpv.hypervisors import open_domain


@contextmanager
def backend_double(uri: str, answers: dict[str, str], error: str | None = None) -> Iterator[None]:
    """While it runs, a state of a vbd of domain 0's backend is answered with the state `answers` has for it.

    With `error`, it is left where Linux's drivers leave it, before the answer.
    """
    ready, end = threading.Event(), threading.Event()

    def serve() -> None:
        with open_domain(uri) as domain, domain.store.watch("/local/domain/0/backend/vbd") as watch:
            ready.set()
            while not end.is_set():
                path = watch.wait(0.05)
                if path is None or not path.endswith("/state"):
                    continue
                try:
                    state = domain.store.read(path).decode()
                except NoEntryError:
                    continue
                if state in answers:
                    if error is not None:
                        where = path.replace("/backend/", "/error/backend/").replace("/state", "/error")
                        domain.store.write(where, error)
                    domain.store.write(path, answers[state])

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait(10)
    try:
        yield
    finally:
        end.set()
        thread.join()
