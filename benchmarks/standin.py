"""Is every system right on the stand-in for an NPU? ``make standin`` runs them, and this looks.

The stand-in rounds as documented. So each of its runs must pass, its outputs must point to the
numerics that it was asked for, and a prediction must explain the difference. The table goes to
docs/standin-totals.md.
"""

import sys
from pathlib import Path

from tabulate import tabulate

from npu_parity import evidence

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "standin-totals.md"
EXPLAINED = 0.9  # the least share of the difference
HEADER = ("System", "Device", "Verdict", "Explained", "Numerics asked for", "Numerics found")


def main(results: Path) -> None:
    """Write the table of all runs on the stand-in; exit code 1 if one of them is not right."""
    rows, wrong = [], []
    for row in evidence.read_json(results / "summary.json")["rows"]:
        if not row["device"].startswith("npu") or row["run"] != "measured":
            continue
        found = evidence.read_json(
            results / row["system"] / row["device"] / "measured/metrics.json"
        )
        asked, explained = found["numerics"]["conv"], found.get("explained")
        shown = "—" if explained is None else f"{explained:.3g}"
        cells = (row["system"], row["device"], found["verdict_line"], shown, asked)
        rows.append((*cells, found.get("numerics_found", "—")))
        if (
            found["verdict"] != "PASS"
            or found.get("numerics_found") != asked
            or (explained is not None and explained <= EXPLAINED)
        ):
            wrong.append(f"{row['system']} on {row['device']}")
    table = tabulate(rows, HEADER, "github", disable_numparse=True)
    print(table)
    if wrong or not rows:
        sys.exit(f"error: not right on the stand-in: {', '.join(wrong) or 'nothing was measured'}")
    evidence.write_text(PAGE, table + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
