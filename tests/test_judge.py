"""One verdict: the workflow and `check_port` say the same of the same port, word for word."""

import json
import runpy

import numpy as np
import pytest
from project import ROOT

from npu_parity import check_port, evidence
from npu_parity.backends.device import Device
from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics
from npu_parity.sources import checkpoints
from npu_parity.verdict.answers import NOT_ASKED, Program
from npu_parity.verdict.judge import Case, judge
from npu_parity.verdict.operators import COLUMNS, OperatorResult
from npu_parity.verdict.runs import Repeated, Runs

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def features(self, x):
        return self.body(self.stem(x)).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def port(change):
    class Port(Net):
        def forward(self, x):
            return change(self, x)

    return Port


def clean():
    return Net()


def half():
    return Net().half()


def wrong_eps():
    model = Net()
    model.stem[1].eps = 1e-3
    return model


def wrong_stride():
    model = Net()
    model.body[0].stride = (1, 1)
    return model


@port
def dead_channel(self, x):
    x = self.features(x)
    return self.head(torch.cat([x[:, :1] * 0, x[:, 1:]], 1))


@port
def stored_as_float16(self, x):
    return self.head(self.features(x)).half().float()


@port
def nan(self, x):
    x = self.head(self.features(x))
    return torch.where(x == x.amax(), torch.nan, x)


@port
def scaled(self, x):
    return self.head(self.features(x)) * 1.002


@port
def no_bias(self, x):
    return self.features(x) @ self.head.weight.T


@port
def probabilities(self, x):
    return self.head(self.features(x)).softmax(1)


@port
def one_class_more(self, x):
    return nn.functional.pad(self.head(self.features(x)), (0, 1))


@port
def rolled(self, x):
    return self.head(self.features(x)).roll(1, 1)


@port
def heads(self, x):
    x = self.features(x)
    return {"scores": self.head(x), "features": 300 * x}


@port
def other_order(self, x):
    x = self.features(x)
    return {"features": 300 * x, "scores": self.head(x)}


@port
def one_head_moved(self, x):
    x = self.features(x)
    return {"scores": self.head(x) * (1 + 2e-5), "features": 300 * x}


@port
def other_names(self, x):
    x = self.features(x)
    return {"scores": self.head(x), "pooled": 300 * x}
"""
PORTS = {  # the question that fails, 0 where none does
    "clean": 0,
    "wrong_eps": 1,
    "wrong_stride": 1,
    "dead_channel": 1,
    "stored_as_float16": 1,
    "nan": 1,
    "scaled": 1,
    "no_bias": 1,
    "probabilities": 1,
    "one_class_more": 1,
    "rolled": 1,
}
NARROW = {
    ("clean", "bf16"): 0,
    ("clean", "amp-fp16"): 0,
    ("half", "fp16"): 0,
    ("rolled", "bf16"): 1,
}
VERDICTS = {(name, "fp32"): question for name, question in PORTS.items()} | NARROW


@pytest.fixture(scope="module")
def scripts():
    """The programs of the rules, run in this process: starting Python each time takes seconds."""
    names = ("weights", "inputs", "outputs", "operators", "numerics", "metrics")
    return {n: runpy.run_path(str(ROOT / "scripts" / f"{n}.py"))["main"] for n in names}


@pytest.fixture(scope="module")
def system(tmp_path_factory, scripts):
    return prepared(tmp_path_factory.mktemp("judge"), scripts, "clean", {p for _, p in VERDICTS})


def prepared(place, scripts, name, precisions):
    """A system as the rules leave it, with the reference's outputs and a prediction."""
    (place / "net.py").write_text(NETWORK)
    folder = place / "results" / "net"
    network = f"{place}/net.py:{name}"
    settings = {"resize": 40, "crop": 32}
    scripts["weights"](["seed:1"], network, folder / "weights.safetensors", {}, settings, {})
    inputs = folder / "inputs.npy"
    scripts["inputs"](["skimage:chelsea", "random:3"], network, inputs, settings)
    run(scripts, folder, "cpu/measured", "measured", also=[2])
    run(scripts, folder, "cpu/exact", "exact")
    for precision in precisions:
        run(scripts, folder, f"{precision}/predicted", "predicted", precision)
    return folder


def run(scripts, folder, place, kind, precision="fp32", **more):
    output, device = folder / place / "outputs.npy", Device("cpu", precision=precision)
    scripts["outputs"](folder, folder / "inputs.npy", output, run=kind, device=device, **more)


def ported(folder, name):
    return f"{folder.parents[1]}/net.py:{name}"


def from_files(scripts, folder, name, precision):
    """Ask the questions of a port as the rules do; return metrics.json."""
    place = folder / precision / "measured"
    inputs, device = folder / "inputs.npy", Device("cpu", precision=precision)
    port = {"precision": precision, "ported": ported(folder, name)}
    run(scripts, folder, f"{precision}/measured", "measured", also=[2], **port)
    if precision != "fp32":
        run(scripts, folder, f"{precision}/hosted", "hosted", **port)
    asked = {"device": device, "ported": ported(folder, name)}
    scripts["operators"](folder, inputs, place, **asked)
    scripts["numerics"](
        folder, inputs, place / "outputs.npy", place / "numerics.json", device=device
    )
    output = place / "metrics.json"
    hosted = precision != "fp32"
    scripts["metrics"](folder, "cpu", precision, "measured", output, hosted=hosted, heads={})
    return json.loads(output.read_text())


@pytest.mark.parametrize(("name", "precision"), VERDICTS)
def test_files_and_memory_have_one_verdict(name, precision, system, scripts):
    check_files_and_memory(scripts, system, name, precision, VERDICTS[name, precision])


@pytest.fixture(scope="module")
def several(tmp_path_factory, scripts):
    """A system whose outputs have two heads."""
    return prepared(tmp_path_factory.mktemp("heads"), scripts, "heads", {"fp32"})


@pytest.mark.parametrize(
    ("name", "question"),
    [("heads", 0), ("other_order", 0), ("one_head_moved", 1), ("other_names", 3)],
)
def test_heads_of_files_and_of_memory_are_the_same(name, question, several, scripts):
    written = check_files_and_memory(scripts, several, name, "fp32", question)
    stated = json.loads((several / "cpu/measured/run.json").read_text())
    assert stated["heads"] == {"scores": [10], "features": [16]}
    third = written["questions"][2]["findings"]
    if name == "one_head_moved":
        assert " of head scores where float32 allows" in third[0]
    if name == "other_names":
        assert third == [
            "outputs are scores (10,), pooled (16,), expected scores (10,), features (16,)"
        ]
    else:
        assert set(written["heads"]) == {"scores", "features"}


def check_files_and_memory(scripts, system, name, precision, question):
    """Check that both ways give the same verdict, and return metrics.json."""
    written = from_files(scripts, system, name, precision)
    report = check_port(
        checkpoints.load(system),
        checkpoints.load(system, ported(system, name)),
        evidence.read_inputs(system / "inputs.npy"),
        names=evidence.read_json(system / "inputs.json")["names"],
        pretrained=False,
        precision=precision,
    )
    told = json.loads(json.dumps(report.judgement.to_dict()))
    assert told["verdict_line"] == str(report.verdict)
    assert (told["failed_question"] or 0) == question
    assert written["precision"] == precision
    assert {key: written[key] for key in told} == told
    assert set(written) - set(told) == {
        *("run", "reference", "task", "head_widths", "backend", "numerics", "precision"),
        *("sha256", "versions", "code"),
    }
    return written


# The judge itself


def case(**changed):
    outputs = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    runs = Runs(outputs, outputs.astype(np.float64), outputs, measured=outputs.copy())
    known = {
        "program": Program(True, "same program"),
        "operators": [OperatorResult(0, "", "aten.mm", "1x2", 0.5, 0.1, True, (), "")],
        "distances": {"fp32": 0.0},
        "pretrained": True,
        "repeated": Repeated(batches={"2": 0.0}),
    }
    return Case(runs, Numerics(), **{"names": ["a", "b", "c"], **known, **changed})


def test_what_was_not_asked_is_no_failure_and_makes_the_evidence_weak():
    assert str(judge(case()).verdict) == "PASS (strong evidence)"
    verdict = judge(case(program=NOT_ASKED, operators=None)).verdict
    assert str(verdict) == "PASS (weak evidence)"
    assert [a.passed for a in verdict.answers] == [None, None, True, False]
    assert "same program" in verdict.answers[3].findings[0]
    assert "same kernels" in verdict.answers[3].findings[1]


@pytest.mark.parametrize("names", [["a"], [], ["a", "b", "c", "d"]])
def test_there_is_one_name_for_each_input(names):
    with pytest.raises(ParityError, match=f"names: found {len(names)}, .* 3 inputs"):
        case(names=names)


def test_operators_are_read_as_they_were_written(tmp_path):
    results = [
        OperatorResult(0, "", "aten.add.Tensor", "1x2 1x2", 0.5, 0.25, True, (), ""),
        OperatorResult(1, "0", "aten.mm.default", "1x2", float("inf"), 1.0, False, (), 'a "b", c'),
        OperatorResult(2, "a.b", "aten.x", "scalar", float("nan"), float("nan"), None, (), "none"),
    ]
    import pandas as pd

    frame = pd.DataFrame([r.row() for r in results], columns=COLUMNS)
    file = tmp_path / "operators.csv"
    file.write_text(frame.to_csv(index=False))
    assert str(OperatorResult.read(file)) == str(results)
