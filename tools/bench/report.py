"""The tables for people. What they show is what the JSON holds; nothing is computed here but ratios and units."""

from __future__ import annotations

from typing import Any

from ..output import table
from .compare import ratio
from .guest_compare import best_ratio
from .guest_disks import OWN

_RIGHT = ("IOPS", "MB/s", "p50 us", "p99 us", "CPU us/IO", "dom0 us/IO", "guest us/IO", "x best", "x nbdkit", "x qemu",
          "x raw", "per 1,000", "sleeps", "rescues")


def _figure(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def _times(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def comparison(found: dict[str, Any]) -> str:
    """The answer of compare.compare."""
    results, rows = found["results"], []
    for row in results:
        own = row["system"] == "xenpv"
        rows.append([
            row["storage"], row["case"], row["system"], _figure(row["iops"]), _figure(row["bytes_per_second"] / 1e6),
            _figure(row["p50_us"], 1), _figure(row["p99_us"], 1), _figure(row["cpu_us_per_io"], 2),
            _times(ratio(results, row["case"], row["storage"], "nbdkit")) if own else "",
            _times(ratio(results, row["case"], row["storage"], "qemu-storage-daemon")) if own else "",
            _times(ratio(results, row["case"], row["storage"], "raw")) if own else "",
            row["options"]["setup"],
        ])
    header = ["storage", "case", "system", "IOPS", "MB/s", "p50 us", "p99 us", "CPU us/IO", "x nbdkit", "x qemu",
              "x raw", "setup"]
    parts = [table(header, rows, _RIGHT)] if rows else []
    parts += [_not_run(found["not_run"])] if found["not_run"] else []
    parts += [text] if (text := _as_run(results)) else []
    queues = found["options"]["queues"]
    several = f"\nQueues: {queues}: {found['how']['queues']}." if queues > 1 else ""
    return "\n\n".join([*parts, f"{_circumstances(found)}\n{_how(found['how'])}{several}"])


def _as_run(results: list[dict[str, Any]]) -> str:
    """fio's job of each peer, and the server's command line, as they were run."""
    lines = []
    for row in results:
        if job := row["options"].get("fio_job"):
            lines.append(f"{row['storage']}, {row['case']}, {row['system']}: fio: {' '.join(job.split())}")
            lines += [f"    served by: {row['options']['server']}"] if row["options"]["server"] else []
    return "\n".join(lines)


def guest(found: dict[str, Any]) -> str:
    """The answer of guest_compare.compare_in_guest."""
    results, rows = found["results"], []
    for row in results:
        own = row["options"]["backend"] == OWN
        rows.append([
            row["case"], row["system"], _figure(row["iops"]), _figure(row["bytes_per_second"] / 1e6, 1),
            _figure(row["p50_us"]), _figure(row["p99_us"]), _figure(row["cpu_us_per_io"], 1),
            _figure(row["guest_cpu_us_per_io"], 1),
            _times(best_ratio(results, row["case"], row["system"])) if own else "", row["options"]["setup"]])
    header = ["case", "system", "IOPS", "MB/s", "p50 us", "p99 us", "dom0 us/IO", "guest us/IO", "x best", "setup"]
    parts = [table(header, rows, _RIGHT)] if rows else []
    parts += [_not_run(found["not_run"])] if found["not_run"] else []
    guest, how, load, options = found["guest"], found["how"], found["load_average"], found["options"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n\n".join([*parts, "\n".join([
        f"x best: IOPS to those of the better of blkback and qdisk. Runs: {how['runs']} ({options['runs']} of "
        f"{options['seconds']:g} s), disks of {options['size'] >> 20} MiB.",
        f"Guest: {guest['cpus']} vCPU, kernel {guest['kernel']}, fio {guest['fio']}. dom0: {versions}; "
        f"{found['processors']['count']} x {found['processors']['model']}; pinning: {options['pinning']}.",
        f"Load average of dom0 {load['before'][0]} before, {load['after'][0]} after: figures count only when nothing else "
        "ran.",
        f"Latency: {how['latency']}.", f"dom0 us/IO: {how['cpu']}.", f"guest us/IO: {how['guest_cpu']}.",
        *(f"The first job: {' '.join(row['options']['fio_job'].split())}" for row in results[:1])])])


def _not_run(entries: list[dict[str, str]]) -> str:
    return "\n".join(f"{entry['storage']}, {entry['case']}, {entry['system']}: not run: {entry['reason']}"
                     for entry in entries)


def _circumstances(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in found["versions"].items())
    load, options = found["load_average"], found["options"]
    return (f"Medians of {options['runs']} runs of {options['seconds']:g} s, file of {options['size'] >> 20} MiB; "
            f"{versions}; {found['processors']['count']} x {found['processors']['model']}; "
            f"pinning: {options['pinning']}.\n"
            f"Load average {load['before'][0]} before, {load['after'][0]} after: figures count only when nothing else "
            "ran.")


def _how(how: dict[str, Any]) -> str:
    """Of the systems' explanations of latency, equal ones once."""
    latency: dict[str, list[str]] = {}
    for system, text in how["latency"].items():
        latency.setdefault(text, []).append(system)
    return "\n".join([*(f"Latency of {' and '.join(systems)}: {text}." for text, systems in latency.items()),
                      f"CPU: {how['cpu']}."])


def profiling(found: dict[str, Any]) -> str:
    """The answer of profiling.measure_profiling."""
    header = ["case", "profiling", "pairs", "IOPS off", "IOPS on", "time on / off", "95 % interval", "below 1.05"]
    rows = [[row["case"], row["mode"], row["pairs"], _figure(row["iops_off"]), _figure(row["iops_on"]),
             _figure(row["ratio"], 3), " .. ".join(_figure(end, 3) for end in row["interval"]),
             "yes" if row["below"] else "no"] for row in found["profiling"]]
    parts = [table(header, rows, ["pairs", "IOPS off", "IOPS on", "time on / off"])]
    parts += [_totals(each) for each in found["totals"]]
    parts.append("Ratios are those of the pairs, their median with the interval of order statistics; IOPS are the medians of "
                 f"all runs.\nStorage {found['storage']}. " + _circumstances(found))
    return "\n\n".join(parts)


def _totals(totals: dict[str, Any]) -> str:
    """An answer of totals.check_totals."""
    ticks, within = totals["unit"] == "tick", f"{totals['within_us']:,.0f} us"
    if ticks:
        within += f" (a tick, and {totals['missed']} that dom0's page missed)" if totals["missed"] else " (a tick)"
    text = (f"Of {totals['requests']:,} single reads with stamps in {'ticks' if ticks else 'us'}, the stages of "
            f"{totals['close']:,} ({100 * totals['close'] / totals['requests']:.2f} %) add up to what the load's own clock "
            f"around the core's call said, within {within}; {totals['more']} to more than it, {totals['unknown']} are "
            "unknown. ")
    if ticks:
        return text + (f"Together they are {totals['stages_us'] / 1000:,.1f} ms, and {totals['outside_us'] / 1000:,.1f} ms by "
                       "that clock: the calls themselves are in it.")
    return text + (f"It said more by {totals['p50_us']:g} us (p50), {totals['p99_us']:g} us (p99), {totals['p999_us']:g} us "
                   "(p99.9): the call itself is in it.")


def notifications(found: dict[str, Any]) -> str:
    """The answer of notifications.count_notifications."""
    header = ["load", "spin us", "mode", "per 1,000", "to backend", "to frontend", "sleeps", "rescues", "IOPS", "CPU us/IO"]
    rows = [[row["load"], row["spin_us"], row["mode"], _figure(row["notifications_per_1000"], 2),
             _figure(row["to_backend_per_1000"], 2), _figure(row["to_frontend_per_1000"], 2),
             _figure(row["sleeps_per_1000"], 2), row["rescues"], _figure(row["iops"]),
             _figure(row["cpu_us_per_io"], 2)] for row in found["loads"]]
    return "\n\n".join([
        table(header, rows, [*_RIGHT, "spin us", "to backend", "to frontend"]),
        "Notifications (both directions, and each) and both sides' sleeps are per 1,000 requests of the ring.\n"
        "Rescues: the most of any run.\n" + _circumstances(found),
    ])


def many(found: dict[str, Any]) -> str:
    """The answer of many.measure_many."""
    header = ["case", "vbds", "IOPS", "MB/s", "x one", "slowest", "fastest", "p50 us", "worst p99", "CPU us/IO",
              "backend's", "per 1,000", "sleeps", "switches", "rescues"]
    one = {row["case"]: row["iops"] for row in found["rows"] if row["vbds"] == 1}
    rows = [[row["case"], row["vbds"], _figure(row["iops"]), _figure(row["bytes_per_second"] / 1e6),
             _times(row["iops"] / one[row["case"]]) if row["vbds"] > 1 and one[row["case"]] else "",
             _figure(row["slowest_to_mean"], 2), _figure(row["fastest_to_mean"], 2), _figure(row["p50_us"], 1),
             _figure(row["p99_us"], 1), _figure(row["cpu_us_per_io"], 2), _figure(row["backend_cpu_us_per_io"], 2),
             _figure(row["notifications_per_1000"], 2), _figure(row["backend_sleeps_per_1000"], 2),
             _figure(row["backend_switches_per_1000"], 2), row["rescues"]]
            for row in found["rows"]]
    memory, idle = found["memory"], found["idle"]
    quiet = [[row["quiet"], _figure(row["iops_each"]), _figure(row["worst_p50_us"], 1), _figure(row["worst_p99_us"], 1),
              _figure(row["cpu_us_per_io"], 2), _figure(row["greedy_bytes_per_second"] / 1e6)] for row in found["neighbour"]]
    return "\n\n".join([
        table(header, rows, [*header[1:]]),
        table(["two vbds, one 4 KiB read each", "IOPS each", "p50 us", "p99 us", "CPU us/IO", "the greedy one's MB/s"],
              quiet, ["IOPS each", "p50 us", "p99 us", "CPU us/IO", "the greedy one's MB/s"]),
        f"{found['vbds']} vbds of {found['domains']} domains and the one, {found['queues']} queue"
        f"{'s' if found['queues'] > 1 else ''} each, on {found['storage']}, spin {found['options']['spin_us']} us; a load "
        "process each. Slowest and fastest are of the mean.\n"
        "Notifications (both directions), the backend's sleeps and its threads' context switches are per 1,000 requests "
        "of the ring.\n"
        f"Idle, all connected: {idle['wakeups_per_second']:g} wake-ups and {idle['cpu_ms_per_second']:g} ms of CPU time a "
        "second, of the whole backend.\n"
        f"The backend's own memory for each vbd: {memory['per_vbd_connected'] / 1024:,.0f} KiB connected, "
        f"{memory['per_vbd_after_load'] / 1024:,.0f} KiB after the loads.\n" + _circumstances(found),
    ])
