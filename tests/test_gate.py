"""The gate benchmark: its page, its claims, each gate at its threshold, and some cases live."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from npu_parity import ParityError, check_port

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "gate"))

import catalogue  # noqa: E402
import gates  # noqa: E402
import page  # noqa: E402
import run  # noqa: E402
import systems  # noqa: E402
from rewritings import NotApplicable  # noqa: E402

RESULTS = json.loads(run.RESULTS.read_text()) if run.RESULTS.exists() else {"records": []}
RECORDS = RESULTS["records"]
recorded = pytest.mark.skipif(not RECORDS, reason="`make gate` has not been run")
OWN = [r for r in RECORDS if r["gate"] == page.OWN]
KINDS = sorted({(c.kind, c.group) for c in catalogue.CASES})


@recorded
def test_page_is_made_from_the_results():
    assert page.document(RESULTS) == run.DOCS.read_text(encoding="utf-8")
    assert page.totals(RESULTS) + "\n" == run.TOTALS.read_text(encoding="utf-8")


@recorded
def test_every_case_is_on_the_page_by_its_name():
    text = run.DOCS.read_text(encoding="utf-8")
    for case in catalogue.CASES:
        assert f"| {case.name} " in text, case.name


# The claims


@recorded
def test_every_case_was_judged_on_every_system_by_every_gate():
    judged = {(r["system"], r["fault"], r["gate"]) for r in RECORDS}
    for name in systems.SYSTEMS:
        for case in catalogue.CASES:
            gated = {gate for s, f, gate in judged if (s, f) == (name, case.name)}
            assert gated in ({None}, set(page.ALL)), (name, case.name)
    assert len(judged) == len(RECORDS)


@recorded
def test_size_of_the_catalogue():
    """Cases that changed something, or ran cleanly, somewhere."""
    changed = {r["fault"] for r in OWN if r["kind"] == "fault" and not r["bitwise_equal"]}
    clean = {r["fault"] for r in OWN if r["kind"] == "clean"}
    assert len(changed) >= 110
    assert len(clean) >= 75
    assert len({r["system"] for r in OWN}) >= 3
    pairs = {kind: sum(r["kind"] == kind for r in OWN) for kind in ("fault", "clean")}
    assert pairs["clean"] >= pairs["fault"] / 2


def test_names_and_kinds_of_cases():
    assert len({c.name for c in catalogue.CASES}) == len(catalogue.CASES)
    assert {c.group for c in catalogue.CASES} == set(catalogue.GROUPS)
    known = {kind: {c.name for c in catalogue.CASES if c.kind == kind} for kind, _ in KINDS}
    assert set(catalogue.LET_THROUGH) <= known["fault"]
    assert set(catalogue.FALSE_ALARMS) <= known["clean"]


@recorded
def test_a_system_has_real_weights():
    assert any("package:" in systems.about(name)["weights"][0] for name in systems.SYSTEMS)


@recorded
def test_faults_are_caught():
    missed = {
        r["fault"]
        for r in OWN
        if r["kind"] == "fault" and not r["bitwise_equal"] and not r["caught"]
    }
    assert missed == set(catalogue.LET_THROUGH)


@recorded
def test_variations_pass():
    stopped = {r["fault"] for r in OWN if r["kind"] == "clean" and r["caught"]}
    assert stopped == set(catalogue.FALSE_ALARMS)


@recorded
def test_nothing_beats_it():
    """No other gate catches as much, unless it stops what is clean as well."""

    def counted(gate: str, kind: str) -> int:
        of_gate = [r for r in RECORDS if r["gate"] == gate and r["kind"] == kind]
        return sum(r["caught"] and (kind == "clean" or not r["bitwise_equal"]) for r in of_gate)

    for gate in gates.GATES:
        better = counted(gate, "fault") >= counted(page.OWN, "fault")
        assert not better or counted(gate, "clean") > counted(page.OWN, "clean"), gate


@recorded
def test_other_gates_see_nothing_where_no_bit_changed():
    """Theirs is the verdict on the clean port then."""
    clean = {
        (r["system"], r["gate"]): r["caught"] for r in RECORDS if r["fault"] == "HF32, ties to even"
    }
    faults = [c for c in catalogue.CASES if c.kind == "fault" and c.group != "state"]
    promised = {c.name for c in faults if c.promised == catalogue.HF32}
    for r in RECORDS:
        if r["bitwise_equal"] and r["fault"] in promised and r["gate"] != page.OWN:
            assert r["caught"] == clean[r["system"], r["gate"]]


# Each gate just inside and just outside its threshold


def outputs(measured, reference=(100.0, 0.0, 10.0, 5.0), exact=None, **about) -> gates.Outputs:
    r, m = (np.array([row], dtype=np.float32) for row in (reference, measured))
    x = r.astype(np.float64) if exact is None else np.array([exact], dtype=np.float64)
    return gates.Outputs(r, x, m, **about)


@pytest.mark.parametrize(
    ("gate", "inside", "outside"),
    [
        # mean|d - r| / mean|r| = change / 115
        ("criterion bird_species", (101.14, 0, 10, 5), (101.16, 0, 10, 5)),
        ("msprobe", (100, 0.00099, 10, 5), (100, 0.00101, 10, 5)),
        # cosine 0.99 with this reference lies near (100, 14.3, 10, 5)
        ("msprobe reached", (100.9, 0, 10, 5), (101.1, 0, 10, 5)),
        # rms = change / 2, held against 1e-3 of 100
        ("MIGraphX", (100, 0.1999, 10, 5), (100, 0.2001, 10, 5)),
        ("Polygraphy", (100.0009, 0.9e-5, 10, 5), (100, 1.1e-5, 10, 5)),
        ("Polygraphy", (100.0009, 0, 10, 5), (100.0011, 0, 10, 5)),
        # 1e-5 + 1e-5 * 10
        ("optimum-onnx", (100, 0, 10.0001, 5), (100, 0, 10.00012, 5)),
        # 1e-4 + 1e-4 * 10; beyond it the float64 rule allows 1e-5
        ("torch same()", (100, 0, 10.001, 5), (100, 0, 10.0012, 5)),
    ],
)
def test_thresholds(gate, inside, outside):
    assert gates.passes(gate, outputs(inside))
    assert not gates.passes(gate, outputs(outside))


def test_same_allows_three_times_the_references_own_error():
    own = {"reference": (100.01, 0, 10, 5), "exact": (100, 0, 10, 5)}
    assert gates.passes("torch same()", outputs((99.9701, 0, 10, 5), **own))
    assert not gates.passes("torch same()", outputs((99.9699, 0, 10, 5), **own))


@pytest.mark.parametrize(
    ("gate", "inside", "outside"),
    [
        # probabilities: p = 1/2 each; a shift of both logits changes nothing
        ("criterion resnet34", (0.009, -0.009), (0.011, -0.011)),
        ("criterion efficientnet_b0", (0.14, -0.14), (0.15, -0.15)),
        ("criterion svhn", (0.0099, 0), (0.0101, 0)),
        ("criterion svhn", (0.0001, 0), (0, 0.0001)),
        ("criterion convnextv2_atto", (0.00001, 0), (0, 0.00001)),
    ],
)
def test_criteria(gate, inside, outside):
    small = gate == "criterion convnextv2_atto"
    reference = (1.0, 1.0) if small else (0.0, 0.0)
    shifted = [tuple(np.add(m, reference)) for m in (inside, outside)]
    assert gates.passes(gate, outputs(shifted[0], reference))
    assert not gates.passes(gate, outputs(shifted[1], reference))


def test_msprobe_needs_the_cosine_too():
    reference = (1e-4, 0, 0, 0)
    assert gates.passes("msprobe", outputs((1e-4, 1.4e-5, 0, 0), reference))
    assert not gates.passes("msprobe", outputs((1e-4, 1.5e-5, 0, 0), reference))
    assert gates.passes("msprobe reached", outputs((1e-4, 4.8e-5, 0, 0), reference))
    assert not gates.passes("msprobe reached", outputs((1e-4, 4.9e-5, 0, 0), reference))


@pytest.mark.parametrize("gate", gates.GATES)
def test_no_gate_passes_what_is_not_comparable(gate):
    assert gates.passes(gate, outputs((100, 0, 10, 5)))
    assert not gates.passes(gate, outputs((np.nan, 0, 10, 5)))
    assert not gates.passes(gate, outputs((100, 0, 10)))


def test_every_gate_has_a_rule():
    assert set(gates.RULES) == set(gates.GATES)


# Live


class Tiny(nn.Module):
    """One of most operators: convolutions, norms, activations, a pool, a sum, attention, a mean."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.block = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.SiLU())
        self.block.append(nn.Conv2d(32, 16, 3, padding=1))
        self.qkv = nn.Linear(16, 48)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU())
        self.head = nn.Linear(32, 20)

    def forward(self, x):
        """Return 20 logits."""
        x = self.features(x)
        x = x + self.block(x)
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        tokens = tokens + F.scaled_dot_product_attention(q, k, v)
        return self.head(self.mlp(tokens).mean(1))


@pytest.fixture(scope="module")
def tiny() -> catalogue.System:
    torch.manual_seed(0)
    noise = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    noise[1] //= 2  # three images of different brightness
    settings = {"resize": 24, "crop": 18, "interpolation": "bilinear"}
    settings |= {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.5, 0.5]}
    images = [Image.fromarray(array) for array in noise]
    net = Tiny().eval()
    with torch.no_grad():  # values as after training: no mean of 0, no variance of 1
        net.features[1].running_mean.uniform_(-0.1, 0.1)
        net.features[1].running_var.uniform_(0.2, 0.6)
    return catalogue.System("tiny", net, images, settings)


def judged(system: catalogue.System, case: catalogue.Case) -> dict:
    records = run.judge(system, case)
    assert [r["gate"] for r in records] in ([None], page.ALL)
    return records[0]


def expect(own: dict) -> bool:
    """Fail if the verdict is wrong; return whether the case did something."""
    if own["caught"] is None or (own["kind"] == "fault" and own["bitwise_equal"]):
        return False
    if own["fault"] not in catalogue.LET_THROUGH | catalogue.FALSE_ALARMS:
        assert own["caught"] == (own["kind"] == "fault"), own
    return True


@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_a_case_of_each_kind(tiny, kind, group):
    cases = [c for c in catalogue.CASES if (c.kind, c.group) == (kind, group)]
    assert any(expect(judged(tiny, case)) for case in cases)  # up to the first that does something


@pytest.mark.slow
@pytest.mark.parametrize("case", catalogue.CASES, ids=lambda case: case.name)
def test_each_case(tiny, case):
    expect(judged(tiny, case))


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("eps of one norm", 1),
        ("stored as float16", 1),
        ("red and blue swapped", 1),
        ("one output channel dead", 2),
        ("the previous input's outputs", 3),
        ("NaN in one place", 3),
    ],
)
def test_question_that_catches_a_fault(tiny, name, question):
    (case,) = (c for c in catalogue.CASES if c.name == name)
    own = judged(tiny, case)
    assert own["caught"] and own["question"] == question and own["detail"]
    assert not own["bitwise_equal"]


def test_names_shorter_than_inputs_are_one_line(tiny):
    with pytest.raises(ParityError, match=r"^names: found 1, expected one for each of the 3"):
        check_port(tiny.model, catalogue.identity(tiny).model, tiny.inputs, names=["cat"])


def test_totals_have_wilson_intervals():
    """As in Brown, Cai and DasGupta, 2001: no fault of 10 is missed, but up to 28 % may be."""
    records = [{"caught": True}] * 10
    assert page._interval(records) == "10/10 (72.2 to 100.0 %)"
    assert page._interval([]) == "—"


def test_records_are_in_the_same_order_from_any_number_of_processes():
    records = [
        {"system": name, "fault": case.name, "gate": gate}
        for name in reversed(systems.SYSTEMS)
        for case in reversed(catalogue.CASES)
        for gate in page.ALL
    ]
    ordered = [(r["system"], r["fault"]) for r in run.merged([], records)]
    expected = [(n, c.name) for n in systems.SYSTEMS for c in catalogue.CASES for _ in page.ALL]
    assert ordered == expected


def test_fault_that_does_not_apply(tiny):
    (case,) = (c for c in catalogue.CASES if c.name == "attention not scaled")
    (record,) = run.judge(tiny, case)
    assert record["gate"] is record["caught"] is record["bitwise_equal"] is None
    assert record["detail"].startswith("not applicable: ")


def test_slow_cases_run_on_small_networks(tiny):
    (case,) = (c for c in catalogue.CASES if c.name == "port adds noise")
    large = nn.Linear(4000, 4000)
    assert isinstance(case.port(tiny), catalogue.Port)
    with pytest.raises(NotApplicable, match="too large"):
        case.port(catalogue.System("large", large, tiny.images, tiny.settings))


def test_port_that_raises_is_caught_by_all(tiny):
    def make(system):
        return catalogue.Port(nn.Sequential(system.model, nn.Conv2d(3, 3, 3)).eval())

    records = run.judge(tiny, catalogue.Case("crash", "fault", "program", make))
    assert all(r["caught"] and r["detail"].startswith("raised ") for r in records)


def test_new_records_replace_old_ones():
    old = [{"system": "svhn", "fault": f, "n": 0} for f in ("eps of one norm", "forgotten")]
    new = [{"system": "efficientnet_lite0", "fault": "eps of one norm", "n": 1}]
    new += [{"system": "svhn", "fault": "eps of one norm", "n": 1}]
    assert run.merged(old, new) == new
