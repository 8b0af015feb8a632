"""Outputs and inputs as networks give them: containers, dense maps, detectors, several inputs."""

import collections
import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from npu_parity.backends import batches, heads, outputs
from npu_parity.backends.device import Device
from npu_parity.check import Original, check_port
from npu_parity.errors import ParityError
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import Numerics
from npu_parity.numerics.widening import widened
from npu_parity.verdict import metrics, questions
from npu_parity.verdict.runs import Repeated, Runs

CPU = Device("cpu")
IMAGES = torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(0))
Named = collections.namedtuple("Named", ["scores", "boxes"])


@dataclasses.dataclass
class Output:
    """As transformers returns it: fields that were not asked for are None."""

    scores: torch.Tensor
    boxes: torch.Tensor
    loss: torch.Tensor | None = None


CONTAINERS = {
    "dict": lambda scores, boxes: {"scores": scores, "boxes": boxes},
    "other order": lambda scores, boxes: {"boxes": boxes, "scores": scores},
    "tuple": lambda scores, boxes: (scores, boxes),
    "list": lambda scores, boxes: [scores, boxes],
    "namedtuple": Named,
    "dataclass": Output,
    "nested": lambda scores, boxes: {"scores": scores, "boxes": [boxes]},
    "one": lambda scores, boxes: (torch.cat([scores, boxes], 1),),
    "map": lambda scores, boxes: {"out": scores[:, :, None, None] * IMAGES[:1, :1, :4, :5]},
    "complex": lambda scores, boxes: torch.complex(scores, 2 * scores),
    "with classes": lambda scores, boxes: {"scores": scores, "label": scores.argmax(1)},
}


class Net(nn.Module):
    """Scores of about 1 beside pixel boxes of about 300."""

    def __init__(self, kind="dict"):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.scores, self.boxes = nn.Linear(8, 12), nn.Linear(8, 4)
        self.kind = kind
        self.eval()

    def forward(self, x):
        x = self.norm(self.body(x)).relu().amax((2, 3))
        return CONTAINERS[self.kind](5 * self.scores(x), 300 + 200 * self.boxes(x))


def port(kind="dict", **changes):
    found = Net(kind)
    for name, add in changes.items():
        with torch.no_grad():
            found.get_parameter(name.replace("__", "."))[0] += add
    return found


# --- Containers


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_gets_a_verdict(kind):
    assert check_port(Net(kind), port(kind), IMAGES).passed
    wrong = check_port(Net(kind), port(kind, scores__bias=1e-2), IMAGES)
    assert not wrong.passed and wrong.questions[2].passed is False


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("dict", ["scores", "boxes"]),
        ("tuple", ["0", "1"]),
        ("namedtuple", ["scores", "boxes"]),
        ("dataclass", ["scores", "boxes"]),
        ("nested", ["scores", "boxes.0"]),
        ("one", []),
    ],
)
def test_heads_have_the_names_of_the_output(kind, names):
    assert list(check_port(Net(kind), port(kind), IMAGES).metrics.get("heads", {})) == names


def test_scores_beside_pixel_boxes_do_not_drown():
    """The boxes hide an error of the scores: as one head, outputs agree to 1e-7."""
    measured = {"scores": 12, "boxes": 4}
    clean = Net()
    r, x = outputs.measure(clean, IMAGES.numpy(), CPU), outputs.exact(clean, IMAGES.numpy(), CPU)
    wrong = r.copy()
    wrong[:, :12] *= 1 + 4e-6
    runs = Runs(r, x, r, wrong, heads=measured)
    found = questions.same_answer(runs, list("abcd")).findings
    assert "of head scores where float32 allows" in found[0]


@pytest.mark.parametrize("kind", ["other order", "tuple", "dataclass"])
def test_a_port_may_use_another_container(kind):
    report = check_port(Net(), port(kind), IMAGES)
    assert report.passed and list(report.metrics["heads"]) == ["scores", "boxes"]
    assert report.metrics["bitwise_equal"]


@pytest.mark.parametrize("kind", ["nested", "one", "map"])
def test_a_port_with_other_heads_is_one_finding(kind):
    report = check_port(Net(), port(kind), IMAGES)
    (finding,) = report.questions[2].findings
    assert finding.startswith("outputs are ")
    assert finding.endswith("expected scores (12,), boxes (4,)")
    assert report.operators is None and report.metrics == {}


def test_a_tuple_in_another_order_fails():
    swapped = Net("tuple")
    swapped.forward = lambda x: Net.forward(swapped, x)[::-1]
    assert not check_port(Net("tuple"), swapped, IMAGES).passed


def test_whole_numbers_beside_scores_are_left_out_and_told():
    report = check_port(Net("with classes"), port("with classes"), IMAGES)
    note = "output label has whole numbers and was not compared"
    assert note in report.questions[3].findings


def test_complex_numbers_are_compared_whole():
    wrong = Net("complex")
    wrong.forward = lambda x: Net.forward(wrong, x).conj()
    report = check_port(Net("complex"), wrong, IMAGES)
    assert report.questions[2].passed is False and report.outputs.shape == (4, 24)


def test_boxes_that_were_chosen_are_one_line():
    class Chosen(nn.Module):
        def forward(self, x):
            return [{"boxes": x[0, 0, :n], "scores": x[0, 0, 0, :n]} for n in range(2, 2 + len(x))]

    with pytest.raises(ParityError, match=r"all anchors\) \(head 0.boxes\)$"):
        check_port(Chosen().eval(), Chosen().eval(), IMAGES)


# --- Dense maps


class Segmenter(nn.Module):
    """A class for each pixel, and an auxiliary map, as torchvision's segmenters return them."""

    def __init__(self, classes=4):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, classes, 1)
        self.aux = nn.Conv2d(8, classes, 1)
        self.eval()

    def forward(self, x):
        x = self.body(x).relu()
        return collections.OrderedDict(out=10 * self.out(x), aux=self.aux(x))


def test_segmentation_has_metrics_of_pixels():
    report = check_port(Segmenter(), Segmenter(), IMAGES, task="segmentation")
    assert report.verdict.word == "PASS" and report.verdict.evidence == "strong", str(report)
    assert report.metrics["mean_iou"] == report.metrics["pixel_agreement"] == 1
    assert set(report.metrics["heads"]["aux"]) >= {"mean_iou", "pixel_agreement"}
    assert "prob_max_abs_error" not in report.metrics


def test_metrics_of_pixels_by_hand():
    """Four pixels, two classes: one pixel changes from class 0 to class 1."""
    r = np.array([[1, 1, 0, 0, 0, 0, 1, 1]], dtype=np.float32)
    d = np.array([[1, 0, 0, 0, 0, 1, 1, 1]], dtype=np.float32)
    found = metrics.compare(r, d, "segmentation", None, {"": (2, 2, 2)})
    assert found["pixel_agreement"] == 3 / 4
    assert found["mean_iou"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_single_score_for_each_pixel_decides_by_its_sign():
    r, d = np.array([[1, -1, 1, -1]], np.float32), np.array([[1, 1, 1, -1]], np.float32)
    assert metrics.compare(r, d, "segmentation", None, {"": (1, 2, 2)})["pixel_agreement"] == 3 / 4


def test_a_pixel_that_flips_beyond_its_margin_is_named():
    r = np.array([[2, 2, 2, 2, 0, 0, 0, 0]] * 2, dtype=np.float32)
    m = r.copy()
    m[1, [2, 6]] = 0, 2
    runs = Runs(r, r.astype(float), r * np.float32(1.5), m, shapes={"": (2, 2, 2)})
    found = questions._flipped("dog", runs, 1, m, np.full(8, 0.5))
    assert list(found) == [
        "input dog: top-1 at pixel 2 is 1 where the reference has 0 with a margin of 2; only a "
        "margin below 1 may flip"
    ]


def test_pixels_of_one_class_are_weak_evidence():
    model = Segmenter()
    with torch.no_grad():
        model.out.bias[1] += 1e3
        model.aux.bias[1] += 1e3
    report = check_port(model, copy.deepcopy(model), IMAGES, task="segmentation")
    assert "all 400 pixels have the same top-1 class" in report.questions[3].findings


def test_segmentation_needs_a_map():
    with pytest.raises(ParityError, match="task segmentation: found no dense map"):
        check_port(Net("one"), Net("one"), IMAGES, task="segmentation")


# --- Detectors


def detector(name="retina"):
    """A small detector of torchvision with seeded weights."""
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())
    body.out_channels = 8
    anchors = AnchorGenerator(sizes=((8, 16),), aspect_ratios=((1.0,),))
    size = {"min_size": 40, "max_size": 64}
    if name == "retina":
        return detection.RetinaNet(body, 3, anchor_generator=anchors, **size).eval()
    pool = MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=2)
    masks = {"mask_roi_pool": MultiScaleRoIAlign(["0"], output_size=4, sampling_ratio=2)}
    few = {"box_detections_per_img": 10}  # each mask takes fifty operators
    return detection.MaskRCNN(
        body, 3, rpn_anchor_generator=anchors, box_roi_pool=pool, **masks, **size, **few
    ).eval()


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("retina", ["cls_logits", "bbox_regression"]),
        (
            "mask",
            [
                *("objectness.0", "rpn_deltas.0"),
                *("class_logits", "box_regression", "mask_logits"),
            ],
        ),
    ],
)
def test_detectors_are_compared_at_their_dense_heads(name, names):
    model, images = detector(name), torch.rand(2, 3, 40, 48)
    report = check_port(model, copy.deepcopy(model), images, task="features")
    assert report.passed, str(report)
    assert list(report.metrics["heads"]) == names
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.backbone[0].bias[0] += 1e-3
    report = check_port(model, wrong, images, task="features")
    assert report.questions[2].passed is False
    assert not any(m._forward_hooks for m in model.modules())


def test_the_second_stage_is_compared_on_boxes_that_do_not_depend_on_scores():
    """A port may choose other boxes, because a rounding exchanges two scores."""
    model, images = detector("mask"), torch.rand(1, 3, 40, 48).numpy()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.rpn.head.cls_logits.weight.neg_()
    found = [outputs.measure_repeatedly(m, images, CPU)[0] for m in (model, other)]
    by_head = [dict(zip(f.shapes, f.by_head(), strict=True)) for f in found]
    same = {n: np.array_equal(by_head[0][n], by_head[1][n]) for n in by_head[0]}
    assert same.pop("objectness.0") is False and all(same.values())


DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"min_size": 64, "max_size": 96},
    "ssdlite320_mobilenet_v3_large": {},
    "retinanet_resnet50_fpn": {"min_size": 64, "max_size": 96},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_of_torchvision(name):
    from torchvision.models import get_model

    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 5}
    model = get_model(name, **options, **DETECTORS[name]).eval()
    original = Original(model, torch.rand(2, 3, 64, 64), task="features")
    assert original.check(copy.deepcopy(model)).passed
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert original.check(last, batch=2).passed
    wrong = copy.deepcopy(model)
    norm = next(m for m in wrong.modules() if hasattr(m, "eps"))
    norm.eps *= 30
    assert not original.check(wrong).passed


# --- Inputs


class Pair(nn.Module):
    """An image and the tokens of a question."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.words = nn.Conv2d(3, 8, 3), nn.Embedding(9, 8)
        self.scores = nn.Linear(8, 6)
        self.eval()

    def forward(self, image, tokens, scale=1.0):
        assert not tokens.is_floating_point()
        features = self.body(image).relu().mean((2, 3)) * self.words(tokens).mean(1)
        return 10 * scale * self.scores(features)


TOKENS = torch.randint(0, 9, (4, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "amp-bf16"])
@pytest.mark.parametrize(
    "inputs",
    [(IMAGES, TOKENS), [IMAGES.numpy(), TOKENS.numpy()], {"tokens": TOKENS, "image": IMAGES}],
    ids=["tuple", "list", "dictionary"],
)
def test_several_inputs_and_whole_numbers(inputs, precision):
    original = Original(Pair(), inputs, precision=precision)
    report = original.check(Pair(), batch=2)
    assert report.passed and len(original.chosen) == 2, str(report)
    wrong = Pair()
    with torch.no_grad():
        wrong.words.weight[3] *= 1.1
    assert not original.check(wrong).passed


def test_another_second_input_is_noticed():
    report = check_port(Pair(), Pair(), (IMAGES, TOKENS), ported_inputs=(IMAGES, 8 - TOKENS))
    assert report.verdict.failed.findings[0].startswith("inputs differ by up to ")
    fewer = check_port(Net(), Net(), IMAGES, ported_inputs=IMAGES[:, :, :9])
    assert fewer.verdict.failed.findings[0].startswith("inputs have shape (4, 3, 9, 10)")


def test_video():
    model = nn.Sequential(nn.Conv3d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)).eval()
    clips = torch.randn(2, 3, 4, 6, 6)
    model(clips)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last_3d)
    assert check_port(model, last, clips, batch=2).passed


@pytest.mark.parametrize(
    ("inputs", "about", "words"),
    [
        ((IMAGES, TOKENS[:3]), {}, "inputs: found 4, 3 rows, expected the same number in each"),
        (IMAGES.double(), {}, "inputs: found float64, expected float32 or integers"),
        ("cat", {}, "inputs: found <U3, expected float32 or integers"),
        (np.float32(1), {}, "inputs: found one number, expected a first dimension"),
        ({"picture": IMAGES}, {}, "inputs: found picture, expected the first arguments of Net"),
        ({"x": IMAGES[:0]}, {}, "there are no inputs"),
        (IMAGES, {"names": ["a"]}, "names: found 1, expected one for each of the 4 inputs"),
        (IMAGES, {"batch": 0}, "batch: found 0, expected at least 1"),
        (IMAGES, {"batch_sizes": (2, -1)}, "batch: found -1, expected at least 1"),
        (IMAGES[0], {}, "Net on input 0 of shape (1, 10, 10): RuntimeError"),
    ],
)
def test_inputs_that_cannot_be_used_are_one_line(inputs, about, words):
    with pytest.raises(ParityError) as error:
        check_port(Net(), Net(), inputs, **about)
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


def test_a_port_that_is_no_network_is_one_line():
    with pytest.raises(ParityError, match=r"found function, expected a torch\.nn\.Module"):
        check_port(Net(), lambda x: x, IMAGES)


def test_outputs_are_looked_at_before_the_expensive_questions(monkeypatch):
    monkeypatch.setattr("npu_parity.check.compare", lambda *_: pytest.fail("question 1 was asked"))
    monkeypatch.setattr("npu_parity.check.check_operator", lambda *_, **__: pytest.fail("and 2"))
    wrong = Net()
    wrong.forward = lambda x: Net.forward(wrong, x)["scores"].argmax(1)
    with pytest.raises(ParityError, match="returned whole numbers"):
        check_port(Net(), wrong, IMAGES)


def test_helpers_of_inputs():
    both = (IMAGES.numpy(), TOKENS.numpy())
    assert batches.count(both) == 4 and len(batches.rows(both, [1, 2])[1]) == 2
    assert [a.dtype for a in batches.widened(both)] == [np.float64, np.int64]
    noisy = batches.noisy(both, 0.01, np.random.default_rng(0))
    assert np.array_equal(noisy[1], both[1])
    assert 0 < np.abs(noisy[0] / both[0] - 1).max() < 0.1
    assert np.array_equal(
        batches.largest(both), [max(abs(i).max(), t.max()) for i, t in zip(*both, strict=True)]
    )


# --- Float64


class MakesFloat32(nn.Module):
    """It asks for float32 in four ways."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.table = nn.Linear(6, 16), torch.arange(16.0) / 3
        self.eval()

    def forward(self, x):
        y = self.layer(x).float() + torch.zeros(16, dtype=torch.float32) + self.table
        out = torch.empty(y.shape, dtype=torch.float32)
        out[:] = y
        return out.type(torch.float32) @ torch.eye(16).to(torch.float32)


def test_networks_that_make_float32_run_in_float64():
    x, model = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32), MakesFloat32()
    found = outputs.exact(model, x, CPU)
    layer = copy.deepcopy(model.layer).double()
    by_hand = layer(torch.from_numpy(x).double()) + model.table.double()
    np.testing.assert_allclose(found, by_hand.detach().numpy(), rtol=1e-15)
    assert check_port(model, MakesFloat32(), x).passed
    wrong = MakesFloat32()
    with torch.no_grad():
        wrong.layer.bias[0] += 1e-3
    report = check_port(model, wrong, x)
    assert "goes wrong first at operator" in str(report)  # all operators in float64, too


def test_widening_is_put_back():
    with pytest.raises(ZeroDivisionError), widened():
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32 == torch.ones(1).double().float().dtype


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.LSTM(5, 7, 2, batch_first=True, bidirectional=True)
        self.second, self.scores = nn.GRU(14, 6, batch_first=True), nn.Linear(6, 4)
        self.eval()

    def forward(self, x):
        return self.scores(self.second(self.first(x)[0])[0][:, -1])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_recurrent_networks(precision):
    x, numerics = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)), Numerics()
    options = {"precision": precision}
    if precision == "fp32":
        numerics = Numerics(matmul="hf32")
        options = {"numerics": numerics, "kernels": lambda: emulate(numerics)}
    assert check_port(Recurrent(), Recurrent(), x, **options).passed


# --- Further runs


def test_another_batch_size_may_move_a_port_as_far_as_the_reference():
    r = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
    runs = Runs(r, r * (1 + 1e-8), r, r)
    again = Repeated(batches={"2": 1e-4}, reference_batches={"2": 3e-5})
    assert questions.same_answer(runs, list("abcd"), repeated=again).passed
    for own in ({"2": 1e-5}, {"4": 3e-5}, {}):
        again = Repeated(batches={"2": 1e-4}, reference_batches=own)
        assert not questions.same_answer(runs, list("abcd"), repeated=again).passed


def test_a_head_that_differs_between_runs_does_not_drown():
    shapes = {"scores": (2,), "boxes": (2,)}
    first = outputs.Outputs(np.array([[1, 1, 1e6, 1e6]], np.float32), shapes)
    again = outputs.Outputs(np.array([[1, 2, 1e6, 1e6]], np.float32), shapes)
    assert outputs._difference(first, again) == pytest.approx(1 / 5**0.5)
    nothing = outputs.Outputs(np.zeros((1, 4), np.float32), shapes)
    assert outputs._difference(nothing, again) == 1 and not outputs._difference(nothing, nothing)
    broken = outputs.Outputs(np.array([[1, 2, np.nan, 1]], np.float32), shapes)
    assert outputs._difference(first, broken) is None


# --- Names and shapes


def test_names_survive_json():
    """run.json stores shapes as lists."""
    shapes = {"out": (3, 2, 2), "aux": (5,)}
    stored = json.loads(json.dumps(shapes))
    assert heads.widths(stored) == {"out": 12, "aux": 5}
    assert heads.mismatch(shapes, stored) == ""
    array = np.arange(17.0)[None]
    other = {"aux": [5], "out": [3, 2, 2]}
    assert heads.aligned(array, stored, other)[0].tolist() == [*range(5, 17), *range(5)]


def test_names_of_a_user_replace_those_of_the_network():
    widths, maps = heads.resolved({"0": (3, 2, 2), "1": (5,)}, {"a": 12, "b": 5}, "segmentation")
    assert widths == {"a": 12, "b": 5} and maps == {"a": (3, 2, 2), "b": (5,)}


@pytest.mark.parametrize("side", [0, 1])
def test_pixels_that_are_not_finite_on_one_side_have_no_share(side):
    sides = [np.ones((1, 8), np.float32), np.ones((1, 8), np.float32)]
    sides[side][0, 3] = np.nan
    found = metrics.compare(*sides, "segmentation", None, {"": (2, 2, 2)})
    assert found["pixel_agreement"] is None and found["mean_iou"] is None
