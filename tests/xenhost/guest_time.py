"""In a guest: reads dom0's time page whenever dom0 asks through the store, and answers what came of it."""

from __future__ import annotations

import json

from xenpv.errors import TimePageError
from xenpv.hypervisors import open_domain
from xenpv.timepage import Reader, open_reader


def reading(reader: Reader) -> dict[str, object]:
    """One reading, or the name of the error."""
    try:
        found = reader.read()
    except TimePageError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"tick": found.tick, "tick_ns": found.tick_ns, "ns": found.ns, "missed": found.missed,
            "generation": found.epoch.generation}


def main() -> None:
    """Until dom0 asks for the end."""
    with open_domain("xen:") as domain, open_reader(domain, timeout=120) as reader:
        reader.settle(20)
        view = reader.view
        assert view is not None
        cost = view.measure(10_000)
        costs = [cost.tick, cost.monotonic, cost.coarse]
        domain.store.write("data/time-answer", json.dumps({"ask": "ready", "cost_ns": costs}))
        with domain.store.watch("data/time-ask") as watch:
            last = ""
            while watch.wait(120) is not None:
                if not domain.store.exists("data/time-ask"):
                    continue
                ask = domain.store.read("data/time-ask").decode()
                if ask == last:
                    continue
                if ask == "end":
                    return
                last = ask
                domain.store.write("data/time-answer", json.dumps({"ask": ask} | reading(reader)))


main()
