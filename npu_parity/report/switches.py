"""What each setting of a device costs and gains: one table over all systems.

It compares the measured runs of one backend: HF32 or TF32 on and off, 16 bits, autocast.
"""

from typing import Any

import pandas as pd

from npu_parity.numerics.formats import Numerics
from npu_parity.report.results import System
from npu_parity.report.tables import NONE, markdown, metric, number, precision, spread

HEADING = "What each setting costs and gains:"
NOTE = (
    "*Error* is the relative L2 error of all outputs; it is the cost. *Times faster* compares the "
    "mean time of one image, and the throughput of the largest batch, with the device of the same "
    "backend that rounds nothing; it is the gain. *Probe* is what the device did to operands "
    "of convolutions and of matrix products."
)


def table(systems: list[System]) -> str:
    """Return the table as Markdown with its heading; empty if no two measured devices compare."""
    rows = [row for system in systems for row in _rows(system)]
    if not rows:
        return ""
    return f"{HEADING}\n\n{markdown(pd.DataFrame(rows))}\n\n{NOTE}"


def _rows(system: System) -> list[dict[str, str]]:
    """Return a row for each measured run whose backend has another measured run."""
    rows = []
    for backend in dict.fromkeys(system.run[run]["backend"] for run in system.latency):
        runs = [run for run in system.latency if system.run[run]["backend"] == backend]
        plain = next((run for run in runs if _is_plain(system.run[run])), None)
        if len(runs) > 1:
            rows += [_row(system, run, plain) for run in runs]
    return rows


def _row(system: System, run: str, plain: str | None) -> dict[str, str]:
    device = run.partition("/")[0]
    found = system.metrics.get(run, {})
    predicted = system.metrics.get(f"{device}/predicted", {})
    timed = system.latency[run]["batch_sizes"]
    base = system.latency[plain]["batch_sizes"] if plain else {}
    probe = system.numerics[run]["probe"] if run in system.numerics else None
    return {
        "System": system.name,
        "Device": device,
        "Setting": _setting(system.run[run]),
        "Error, predicted": number(predicted.get("relative_l2_error")),
        "Error, measured": number(found.get("relative_l2_error")),
        "Explained": metric("explained", found.get("explained")),
        "Probe": _probed(probe),
        "Verdict": found.get("verdict", "reference"),
        "Time of one image (ms)": spread(timed.get("1", {})),
        "Times faster": number(_ratio(base, timed, min)),
        "Times faster, largest batch": number(_ratio(base, timed, max)),
    }


def _is_plain(stated: dict[str, Any]) -> bool:
    """Return whether a run rounds nothing, neither operands nor results."""
    return Numerics.from_dict(stated["numerics"]).is_exact and not precision(stated)


def _setting(stated: dict[str, Any]) -> str:
    formats = stated["numerics"]
    operands = f"conv {formats['conv']}, matmul {formats['matmul']}"
    narrow = precision(stated)
    return f"{narrow}: {operands}" if narrow else operands


def _probed(probe: dict[str, Any] | None) -> str:
    """Return the formats that the probe found; the number of bits if a format has no name."""
    if probe is None:
        return NONE
    formats = (
        f"{kind} {found['format'] or str(found['mantissa_bits']) + ' bits'}"
        for kind, found in probe.items()
    )
    return ", ".join(formats)


def _ratio(base: dict[str, Any], timed: dict[str, Any], choose: Any) -> float | None:
    """Return the throughput as a multiple of the base's, with the batch size that is chosen."""
    sizes = [size for size in timed if size in base]
    if not sizes:
        return None
    size = choose(sizes, key=int)
    return float(timed[size]["throughput"] / base[size]["throughput"])
