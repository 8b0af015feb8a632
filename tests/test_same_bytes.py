"""Two runs write the same bytes, whatever the number of cores and the path of the folder.

Only timings may differ: latency.json, and what is made from it (the summary and the tables of the
systems). The number of threads stands in latency.json, because a timing depends on it; every other
program uses one thread.
"""

import json
import re

import pytest
from abuse import many
from project import TIMED, finished

pytestmark = [pytest.mark.slow, pytest.mark.abuse("other cores, other paths")]

PLACES = {"1 core, 空格 和 中文": 1, "one core": 1, "空格 和 中文, four cores": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run on four cores, in a folder with a plain name."""
    return finished(tmp_path_factory)


@pytest.fixture(scope="module", params=many([*PLACES][:1], PLACES))
def other(base, tmp_path_factory, request):
    place = tmp_path_factory.mktemp("other") / request.param
    project = base.copy(place).empty()
    done = project.run("--logger", "rich", "--cores", str(PLACES[request.param]))
    assert done.returncode == 0, done.stdout
    return project


def test_all_results_have_the_same_bytes(base, other, record_property):
    first, second = base.comparable(), other.comparable()
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    record_property("cases", len(first))


def untimed(name, text):
    """A result without its timings."""
    if name.endswith("summary.json"):
        content = json.loads(text)
        return [{key: row[key] for key in row if key != "latency"} for row in content["rows"]]
    if name.endswith("latency.json"):
        content = json.loads(text)
        timings = ("batch_sizes", "threads", "peak_memory_bytes")
        return {key: content[key] for key in content if key not in timings}
    if "/card." in name:
        return re.split("### Fields for graders|### 评分字段", text)[0]
    return text.partition("## Latency")[0] if name.endswith("/net.md") else None


def test_only_timings_differ_in_results_with_timings(base, other):
    timed = [name for name in base.files() if TIMED.fullmatch(name)]
    assert len(timed) == 7
    for name in timed:
        first, second = ((p.folder / name).read_text() for p in (base, other))
        assert untimed(name, first) == untimed(name, second), name
