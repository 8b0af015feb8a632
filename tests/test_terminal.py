"""What a run prints: few lines if all is well, and every cause at the end if something is not."""

import re

import pytest
from abuse import many
from project import AS_MAKE, ROOT, SMALL, Project, finished, system

pytestmark = [pytest.mark.slow, pytest.mark.abuse("nine failing jobs, one screen")]

LIMIT = 60  # lines
SYSTEMS = 9  # as the default configuration has

WRONG = {
    "text": {"inputs": ["text.png"]},
    "empty": {"inputs": ["empty.png"]},
    "half": {"inputs": ["half.png"]},
    "raises": {"architecture": "raises.py:net"},
    "no_network": {"architecture": "raises.py:nothing"},
    "unknown": {"architecture": "timm:resnet34x"},
    "arguments": {"arguments": {"depth": 3}},
    "tensors": {"weights": ["path:tensors.safetensors"]},
    "checkpoint": {"weights": ["path:checkpoint.pth"]},
}
# The first job of each system; all jobs of a run that could go on take a minute more.
TARGETS = [
    f"results/{name}/{'inputs' if 'inputs' in settings else 'weights'}.json"
    for name, settings in WRONG.items()
]
RAISES = """
def net():
    raise RuntimeError("my own words")


def nothing():
    return None
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return finished(tmp_path_factory)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The default run of nine systems that are wrong, each in its own way."""
    project = Project.make(tmp_path_factory.mktemp("failed"), SMALL)
    models = {name: system(**settings) for name, settings in WRONG.items()}
    project.configure(lambda config: config.update(models=models))
    whole = (project.folder / "photo.png").read_bytes()
    for name, content in {
        "text.png": b"no image",
        "empty.png": b"",
        "half.png": whole[: len(whole) // 2],
        "raises.py": RAISES.encode(),
        "tensors.safetensors": b"no tensors",
        "checkpoint.pth": b"no checkpoint",
    }.items():
        (project.folder / name).write_bytes(content)
    done = project.run(*AS_MAKE, *TARGETS)
    assert done.returncode != 0
    return done.stdout.splitlines()


def test_the_last_lines_name_every_cause(failed, record_property):
    last = failed[-len(WRONG) :]
    for name, settings in WRONG.items():
        log = f"logs/{name}/{'inputs' if 'inputs' in settings else 'weights'}.log"
        (line,) = (line for line in last if line.startswith(f"{log}: "))
        assert line.startswith(f"{log}: error: ") and len(line) < 300
    assert not any("Traceback" in line for line in failed)
    record_property("cases", len(WRONG))


def test_each_cause_is_printed_as_it_happens(failed):
    for line in failed[-len(WRONG) :]:
        words = line.partition(": ")[2]
        before = " ".join(failed[: -len(WRONG)])  # the logger breaks lines
        assert words[:60] in before


def test_a_run_without_failure_prints_one_screen(base):
    """Each further system has one line in the summary."""
    lines = (base.place / "output").read_text().splitlines()
    assert len(lines) + (SYSTEMS - 1) < LIMIT
    assert any("Workflow Finished" in line for line in lines)


@pytest.mark.skipif(not many(False, True), reason="takes minutes; `make abuse` runs it")
def test_a_run_of_nine_systems_prints_one_screen(tmp_path, record_property):
    project = Project.make(tmp_path, SMALL)
    models = {f"net{i}": system(weights=[f"seed:{i}"]) for i in range(SYSTEMS)}
    project.configure(lambda config: config.update(models=models))
    assert len(project.succeed(*AS_MAKE).splitlines()) < LIMIT
    record_property("cases", SYSTEMS)


def test_verbose_keeps_everything(base, tmp_path):
    """`make VERBOSE=1` is a run without the logger: every job and its command."""
    table = base.copy(tmp_path)
    (table.folder / "results/tables/net.md").unlink()
    output = table.succeed()
    assert re.search(r"^localrule table:$", output, re.MULTILINE)
    assert "reason: Missing output files: results/tables/net.md" in output


def test_the_makefile_uses_these_options():
    makefile = (ROOT / "Makefile").read_text()
    assert "LOGGER := $(if $(VERBOSE),,--logger rich)" in makefile
    assert "snakemake $(LOGGER) --cores $(CORES) --workflow-profile $(PROFILE) all" in makefile


def test_ready_jobs_are_looked_for_only_when_a_job_ends(base, tmp_path):
    """Otherwise Snakemake itself uses a CPU in long runs, and the latencies are marked as busy."""
    project = base.copy(tmp_path)
    for file in ("cpu/measured/latency.json", "npu/predicted/metrics.json", "divergence.svg"):
        (project.folder / "results/net" / file).unlink()
    output = project.run("--verbose", "--cores", "1", "all").stdout
    (jobs,) = {int(n) for n in re.findall(r"\d+ of (\d+) steps", output)}
    assert 0 < len(re.findall(r"^Ready jobs: ", output, re.MULTILINE)) <= jobs
