"""Is every system right on the stand-in for an NPU? ``make standin`` runs them, and this looks.

The stand-in rounds as documented. So each of its runs must pass, its outputs must point to the
numerics that it was asked for, and a prediction must explain the difference. The table goes to
docs/standin-totals.md.
"""

import sys
from pathlib import Path

from tabulate import tabulate

from npu_parity import evidence
from npu_parity.report.tables import NONE, metric

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "standin-totals.md"
EXPLAINED = 0.9  # the least share of the difference
HEADER = ("System", "Device", "Verdict", "Explained", "Numerics asked for", "Numerics found")


def main(results: Path) -> None:
    """Write the table of all runs on the stand-in; exit code 1 if one of them is not right."""
    rows, wrong = [], []
    for file in sorted(results.glob("*/npu*/measured/metrics.json")):
        found, (system, device) = evidence.read_json(file), file.parts[-4:-2]
        asked, explained = found["numerics"]["conv"], found.get("explained")
        cells = (system, device, found["verdict_line"], metric("explained", explained), asked)
        rows.append((*cells, found.get("numerics_found", NONE)))
        if (
            found["verdict"] != "PASS"
            or found.get("numerics_found") != asked
            or (explained is not None and explained <= EXPLAINED)
        ):
            wrong.append(f"{system} on {device}")
    table = tabulate(rows, HEADER, "github", disable_numparse=True)
    print(table)
    if wrong or not rows:
        sys.exit(f"error: not right on the stand-in: {', '.join(wrong) or 'nothing was measured'}")
    evidence.write_text(PAGE, table + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
