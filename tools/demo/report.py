"""What the demo tells people."""

from __future__ import annotations

from typing import Any

from ..bench.files import MIB
from ..output import table


def _speed(count: int, seconds: float) -> str:
    return f"{count / MIB / max(seconds, 1e-9):,.0f} MiB/s"


def _judged(found: str, expected: str) -> str:
    return f"{found[:16]}… {'equal' if found == expected else 'DIFFERS from ' + expected[:16] + '…'}"


def report(found: dict[str, Any]) -> str:
    """The result of run.run_demo as text."""
    image = found["image"]
    rows = []
    for guest in found["guests"]:
        rows.append((guest["name"], "xvda (r)", "read", f"{guest['bytes'] / MIB:,.0f} MiB",
                     _speed(guest["bytes"], guest["read_seconds"]), _judged(guest["sha256"], guest["expected_sha256"])))
        rows.append((guest["name"], "xvdb (w)", "written", f"{guest['written_bytes'] / MIB:,.0f} MiB",
                     _speed(guest["written_bytes"], guest["write_seconds"]),
                     _judged(guest["written_sha256"], guest["expected_written_sha256"])))
    load, notes = found["load"], found["notifications_per_1000"]
    counts = [(f"spin {found['spin_us']} us", f"{notes['flag']:.2f}", f"{notes['event_index']:.2f}"),
              ("spin off", f"{notes['flag_no_spin']:.2f}", f"{notes['event_index_no_spin']:.2f}")]
    return "\n".join([
        f"image: {image['content']}, {image['bytes'] / MIB:,.0f} MiB",
        "",
        table(("Guest", "Disk", "", "Bytes", "Speed", "SHA-256, guest and domain 0"), rows, ("Bytes", "Speed")),
        "",
        f"random reads of 4 KiB, 32 in flight, holes of the image too: {load['iops']:,.0f} IOPS, "
        f"{load['bytes_per_second'] / MIB:,.0f} MiB/s, "
        f"p50 {load['p50_us']:.0f} us, p99 {load['p99_us']:.0f} us",
        "",
        "notifications per 1,000 requests, 32 in flight, both directions:",
        table(("", "flag", "event index"), counts, ("flag", "event index")),
        "",
        f"lost wake-ups that had to be mended: {found['rescues']}",
        "every byte is right" if found["ok"] else "FAILED: see the lines above",
    ])
