"""Does the main job run on the weights of every hub? ``make hubs`` runs it, and this looks.

A server on this machine answers as ModelScope and Hugging Face do. It has drawn weights in the
repositories that config.yaml names. Each system runs with each of its hubs as the only source, in
the folder ``hubs/``, up to ``verify``. The table goes to docs/hubs-totals.md.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hub_repositories import Pair, serve, wrong  # noqa: E402
from hub_server import HubServer  # noqa: E402

from npu_parity import config, evidence  # noqa: E402

PLACE = ROOT / "hubs"
PAGE = ROOT / "docs" / "hubs-totals.md"
QUICK = ROOT / "tests" / "standin_npu" / "config.yaml"  # latencies that say nothing
HEADER = ("System", "Source", "Pretrained", "File, as served", "Verdicts", "Card")


def run(server: HubServer, pairs: dict[str, Pair], cores: str) -> None:
    """Run the main job on all pairs, in a folder of its own."""
    settings = config.load(ROOT / "config.yaml")
    settings["models"] = {name: pair.settings for name, pair in pairs.items()}
    settings["latency"] = yaml.safe_load(QUICK.read_text())["latency"]
    shutil.rmtree(PLACE, ignore_errors=True)
    shutil.copytree(ROOT / "models", PLACE / "models")
    (PLACE / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    snakemake = [sys.executable, "-m", "snakemake", "--cores", cores, "--directory", PLACE]
    subprocess.run(
        [*snakemake, "all", "verify"], cwd=ROOT, env=os.environ | server.env(), check=True
    )


def row(name: str, pair: Pair) -> tuple[tuple[str, ...], list[str]]:
    """Return the cells of a pair, and what is wrong with it."""
    folder = PLACE / "results" / name
    about = evidence.read_json(folder / "weights.json")
    metrics = sorted(folder.glob("*/*/metrics.json"))
    found = {file.parts[-3]: evidence.read_json(file) for file in metrics}
    card = (folder / "card.md").read_text(encoding="utf-8")
    problems = wrong(folder, pair)
    problems += [
        f"{device}: {run['verdict_line']}"
        for device, run in found.items()
        if run["verdict"] not in ("PASS", "PREDICTED")
    ]
    if "npu" not in found:
        problems.append("npu has no prediction")
    if pair.source not in card:
        problems.append("the card does not name the source")
    cells = (
        pair.system,
        f"`{about['source']}`",
        "yes" if about["pretrained"] else "no",
        f"`{about['file']}`, sha256 {about['file_sha256'][:8]}…",
        "; ".join(f"{device}: {run['verdict_line']}" for device, run in found.items()),
        "yes" if pair.source in card else "no",
    )
    return cells, problems


def main(cores: str) -> None:
    """Run all pairs and write their table; exit code 1 if one of them is not right."""
    with HubServer() as server:
        pairs = serve(server, config.load(ROOT / "config.yaml")["models"])
        run(server, pairs, cores)
    rows, problems = [], []
    for name, pair in pairs.items():
        cells, found = row(name, pair)
        rows.append(cells)
        problems += [f"{name}: {problem}" for problem in found]
    table = tabulate(rows, HEADER, "github", disable_numparse=True)
    print(table)
    if problems:
        sys.exit("\n".join(f"error: {problem}" for problem in problems))
    evidence.write_text(PAGE, table + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
