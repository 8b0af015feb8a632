"""Whatever a user's network raises, returns, prints or changes: one line, or no trace of it."""

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ROOT
from torch import nn

from npu_parity import check_port, evidence
from npu_parity.backends import network, outputs
from npu_parity.backends.device import Device
from npu_parity.backends.latency import time_forward
from npu_parity.errors import ParityError, reason
from npu_parity.numerics.formats import PRESETS, Numerics
from npu_parity.sources import checkpoints, seeds
from npu_parity.sources.architectures import build
from npu_parity.sources.weights import Wanted, obtain
from npu_parity.verdict.answers import Program
from npu_parity.verdict.judge import Case, judge
from npu_parity.verdict.recording import record
from npu_parity.verdict.runs import Runs

pytestmark = pytest.mark.abuse("hostile networks")

CPU = Device("cpu")
NPU = Device("npu", Numerics(conv="hf32", matmul="hf32"))
INPUTS = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)

# The body of forward is line 10 of model.py, that of net is line 15.
NETWORK = """import torch, sys, os, random, warnings
from torch import nn
{top}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 5)
    def forward(self, x):
        {forward}
    def scores(self, x):
        return self.layer(x.flatten(1).to(self.layer.weight.dtype))

def net(**arguments):
    {net}
"""
IMPORT, BUILD, RUN = "(at model.py:3)", "(at model.py:15)", "(at model.py:10)"
ON = "Net on inputs 0 to 1 of shape (2, 3, 8, 8): "


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write model.py with some of its lines replaced."""
    monkeypatch.chdir(tmp_path)

    def written(forward="return self.scores(x)", top="", net="return Net()"):
        text = NETWORK.format(forward=forward, top=top, net=net)
        Path("model.py").write_text(text, encoding="utf-8", errors="surrogatepass")
        return "model.py:net"

    return written


def line(error):
    """The text of an error: one line, short, with its cause for developers."""
    text = str(error.value)
    assert len(text.splitlines()) == 1 and len(text) < 300 and text.isprintable(), text
    assert "Traceback" not in text
    return text


# --- What it raises

RAISES = [  # the part of the file, its code, what is said
    # while the file is imported
    (
        "top",
        "import nothing_like_it",
        f"ModuleNotFoundError: No module named 'nothing_like_it' {IMPORT}",
    ),
    ("top", "from torch import nothing_like_it", f"ImportError: cannot import name {IMPORT}"),
    ("top", "1 / 0", f"ZeroDivisionError: division by zero {IMPORT}"),
    ("top", "def f(:", "SyntaxError: invalid syntax (model.py, line 3)"),
    ("top", "  x = 1", "IndentationError: unexpected indent (model.py, line 3)"),
    ("top", "nn.Linear(3)", f"TypeError missing 1 required positional argument {IMPORT}"),
    ("top", "sys.exit(0)", f"SystemExit: 0 {IMPORT}"),
    ("top", "exit()", f"SystemExit {IMPORT}"),
    ("top", "raise KeyboardInterrupt", f"KeyboardInterrupt {IMPORT}"),
    ("top", "raise GeneratorExit", f"GeneratorExit {IMPORT}"),
    ("top", "raise RuntimeError('two\\nlines')", f"RuntimeError: two lines {IMPORT}"),
    ("top", "input('a name: ')", f"EOFError {IMPORT}"),
    ("top", "def __getattr__(name): raise OSError(name)\ndel net", "NameError: name 'net'"),
    # while the network is built
    ("net", "raise ValueError(arguments)", f"ValueError: {{}} {BUILD}"),
    ("net", "return nn.Linear()", f"TypeError missing 2 required positional arguments {BUILD}"),
    ("net", "assert False", f"AssertionError {BUILD}"),
    ("net", "return net()", f"RecursionError: maximum recursion depth exceeded {BUILD}"),
    ("net", "quit(3)", f"SystemExit: 3 {BUILD}"),
    ("net", "return 3", "returned int, expected nn.Module"),
    ("net", "return Net", "returned type, expected nn.Module"),
    ("net", "yield Net()", "returned generator, expected nn.Module"),
    ("net", "return nn.LazyLinear(5)", "tensor 'weight' of a lazy module has no shape yet"),
    ("net", "return nn.Sequential(nn.LazyBatchNorm2d())", "tensor '0.weight' of a lazy module"),
    ("net", "return nn.Conv2d(3, -5, 3)", f"RuntimeError {BUILD}"),
    ("net", "return torch.load('none.pth')", f"FileNotFoundError none.pth {BUILD}"),
    # while it runs
    ("forward", "raise ValueError('too small')", f"{ON}ValueError: too small {RUN}"),
    ("forward", "raise RuntimeError", f"{ON}RuntimeError {RUN}"),
    ("forward", "raise RuntimeError(' \\n\\n ')", f"{ON}RuntimeError {RUN}"),
    ("forward", "raise RuntimeError('\\n\\nthe second')", f"{ON}RuntimeError: the second {RUN}"),
    ("forward", "raise RuntimeError('x' * 10**7)", f"{ON}RuntimeError: xxxx {RUN}"),
    (
        "forward",
        "raise RuntimeError('a\\x1b[31mb\\u2028c\\x00d')",
        f"{ON}RuntimeError: a?[31mb c?d {RUN}",
    ),
    (
        "forward",
        "raise RuntimeError('\\ud800 half a character')",
        f"{ON}RuntimeError: ? half {RUN}",
    ),
    ("forward", "assert x.shape[1] == 4, x", f"{ON}AssertionError: tensor([[[[ {RUN}"),
    ("forward", "return self.scores(x, x)", f"{ON}TypeError takes 2 positional arguments {RUN}"),
    (
        "forward",
        "return self.nothing(x)",
        f"{ON}AttributeError: 'Net' object has no attribute {RUN}",
    ),
    ("forward", "return self.layer(x)", f"{ON}RuntimeError: mat1 and mat2 shapes {RUN}"),
    ("forward", "return [][0]", f"{ON}IndexError: list index out of range {RUN}"),
    ("forward", "return {}['scores']", f"{ON}KeyError: 'scores' {RUN}"),
    ("forward", "raise StopIteration", f"{ON}StopIteration {RUN}"),
    ("forward", "raise StopAsyncIteration(3)", f"{ON}StopAsyncIteration: 3 {RUN}"),
    ("forward", "return self.forward(x)", f"{ON}RecursionError {RUN}"),
    ("forward", "return self(x)", f"{ON}RecursionError {RUN}"),
    ("forward", "raise NotImplementedError", f"{ON}NotImplementedError {RUN}"),
    ("forward", "raise MemoryError", f"{ON}MemoryError {RUN}"),
    ("forward", "raise SystemExit", f"{ON}SystemExit {RUN}"),
    ("forward", "sys.exit('no licence')", f"{ON}SystemExit: no licence {RUN}"),
    ("forward", "exit(0)", f"{ON}SystemExit: 0 {RUN}"),
    ("forward", "raise KeyboardInterrupt('mine')", f"{ON}KeyboardInterrupt: mine {RUN}"),
    ("forward", "raise GeneratorExit", f"{ON}GeneratorExit {RUN}"),
    ("forward", "raise type('Own', (BaseException,), {})('all')", f"{ON}Own: all {RUN}"),
    ("forward", "raise type('N' * 999, (Exception,), {})('all')", f"{ON}NNNN {RUN}"),
    (
        "forward",
        "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})",
        f"{ON}Mute {RUN}",
    ),
    (
        "forward",
        "raise type('Mute', (Exception,), {'__str__': lambda self: exit()})",
        f"{ON}Mute {RUN}",
    ),
    ("forward", "raise type('Mute', (Exception,), {'__str__': lambda self: 3})", f"{ON}Mute {RUN}"),
    (
        "forward",
        "raise ExceptionGroup('many', [ValueError(), OSError()])",
        f"{ON}ExceptionGroup: many {RUN}",
    ),
    (
        "forward",
        "raise OSError(2, 'No such file', 'table.txt')",
        f"{ON}FileNotFoundError table.txt {RUN}",
    ),
    (
        "forward",
        "raise UnicodeDecodeError('utf-8', b'\\xff', 0, 1, 'no text')",
        f"{ON}UnicodeDecodeError {RUN}",
    ),
    ("forward", "raise Warning('careful')", f"{ON}Warning: careful {RUN}"),
    (
        "forward",
        "from npu_parity import ParityError; raise ParityError('a\\nb')",
        f"{ON}ParityError: a b {RUN}",
    ),
    ("forward", "return x.view(7, -1)", f"{ON}RuntimeError: shape '[7, -1]' is invalid {RUN}"),
    ("forward", "return x.to('nowhere')", f"{ON}RuntimeError {RUN}"),
    ("forward", "return input()", f"{ON}EOFError {RUN}"),
    ("forward", "return next(iter(()))", f"{ON}StopIteration {RUN}"),
    ("forward", "eval('1 / 0')", f"{ON}ZeroDivisionError {RUN}"),  # generated code has no file
    ("forward", "sorted([1, 2], key=lambda one: 1 / 0)", f"{ON}ZeroDivisionError {RUN}"),
    ("forward", "random.choice([])", f"{ON}IndexError {RUN}"),  # innermost in a library
]


@pytest.mark.parametrize(("part", "code", "said"), RAISES)
def test_what_it_raises_is_one_line(part, code, said, written):
    said = said.replace("{}", "\0").split(" ") if " " in said else [said]
    with pytest.raises(ParityError) as error:
        outputs.measure(build(written(**{part: code})), INPUTS, CPU, batch=2)
    text = line(error)
    assert all(word.replace("\0", "{}") in text for word in said), text
    assert text.startswith("Net on inputs" if part == "forward" else "architecture model.py")


def run_measure(model):
    outputs.measure(model, INPUTS, CPU)


def run_predict(model):
    outputs.predict(model, INPUTS, NPU)


def run_exact(model):
    outputs.exact(model, INPUTS, CPU)


def run_latency(model):
    time_forward(model, INPUTS[:1], CPU, [1, 2], 1, 1, 1)


def run_record(model):
    record(model, torch.from_numpy(INPUTS[:1]))


def run_calibration(model):
    model.append(nn.BatchNorm1d(5))
    seeds.calibrate_batch_norm(model, torch.from_numpy(INPUTS))


def run_reference(model):
    check_port(model, nn.Flatten().eval(), INPUTS)


def run_port(model):
    report = check_port(nn.Sequential(nn.Flatten()).eval(), model, INPUTS)
    raise AssertionError(report)


RUNS = [
    *(run_measure, run_predict, run_exact, run_latency, run_record),
    *(run_calibration, run_reference, run_port),
]
SOME = ["raise ValueError('no')", "raise StopIteration", "exit()", "raise KeyboardInterrupt"]


@pytest.mark.parametrize("code", [*SOME, "return self(x)", "raise RuntimeError('no')"])
@pytest.mark.parametrize("run", RUNS)
def test_wherever_it_runs(run, code, written):
    model = build(written(forward=code, net="return nn.Sequential(Net())"))
    with pytest.raises(ParityError) as error:
        run(model)
    text = line(error)
    assert text.startswith("Sequential ") and RUN in text and "of shape (" in text
    assert error.value.__cause__ is not None


@pytest.mark.parametrize("run", RUNS[:5])
def test_lazy_modules_are_refused_before_anything_runs(run):
    model = nn.Sequential(nn.Identity(), nn.LazyConv2d(3, 1)).eval()
    with pytest.raises(ParityError, match=r"tensor '1.weight' of a lazy module has no shape yet"):
        run(model)
    with pytest.raises(ParityError, match=r"found function, expected a torch\.nn\.Module"):
        run(lambda x: x)


@pytest.mark.parametrize("function", [outputs.measure, outputs.predict, outputs.exact])
def test_training_mode_is_refused(function):
    with pytest.raises(ParityError, match=r"^Flatten is in training mode: call \.eval\(\) first$"):
        function(nn.Flatten(), INPUTS, CPU)


def test_the_input_is_named(written):
    model = build(written(forward="assert (x[:, 0, 0, 0] != 7).all(); return self.scores(x)"))
    inputs = INPUTS.copy()
    inputs[2, 0, 0, 0] = 7
    for batch, named in (
        (1, "input 2 of shape (1,"),
        (2, "inputs 2 to 3 of"),
        (9, "inputs 0 to 3"),
    ):
        with pytest.raises(ParityError, match="AssertionError") as error:
            outputs.measure(model, inputs, CPU, batch)
        assert named in line(error)


def test_place_in_another_file_of_the_user(written, tmp_path):
    (tmp_path / "helper_of_test_networks.py").write_text("\n\ndef scores(x): return 1 / 0\n")
    top = f"sys.path.append({str(tmp_path)!r}); import helper_of_test_networks as h"
    model = build(written(forward="return h.scores(x)", top=top))
    with pytest.raises(ParityError) as error:
        run_measure(model)
    assert "(at helper_of_test_networks.py:3)" in line(error)


def test_long_names_do_not_make_a_long_line(tmp_path, monkeypatch):
    folder = tmp_path / ("f" * 200) / ("g" * 200)
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("def net(**arguments): raise ValueError('x' * 999)\n")
    with pytest.raises(ParityError) as error:
        build(f"{folder}/model.py:net", {"a" * 300: "b" * 300})
    assert "/model.py:1)" in line(error) and "ValueError: xxx" in line(error)


# --- The user's own wish to stop


@pytest.mark.parametrize("run", [run_measure, run_predict, run_latency, run_record, run_reference])
def test_control_c_stays_what_it_is(run, written):
    model = build(written(forward="while True: x = x + 0 * x.sum()"))
    stopped = threading.Event()

    def press_again_and_again():  # Python ignores what is raised inside of a destructor
        while not stopped.wait(0.5):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press_again_and_again)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(model)
    stopped.set()
    thread.join()


def test_control_c_in_the_middle_of_a_build(written):
    with pytest.raises(KeyboardInterrupt):
        build(written(top="import signal; signal.raise_signal(signal.SIGINT)"))


def test_what_a_signal_handler_raises_is_not_the_networks(written, monkeypatch):
    def handler(number, frame):
        raise TimeoutError("too long")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(TimeoutError, match="too long"):
            run_measure(build(written(forward="while True: pass")))
    finally:
        signal.signal(signal.SIGALRM, before)


# --- What it returns

TENSORS = "expected a tensor, or a list, tuple or dictionary of tensors"
RETURNS = [
    ("None", f"NoneType, {TENSORS}"),
    ("'cat'", f"str, {TENSORS}"),
    ("7", f"int, {TENSORS}"),
    ("x.numpy()", f"ndarray, {TENSORS}"),
    ("(one for one in x)", f"generator, {TENSORS}"),
    ("{1, 2}", f"set, {TENSORS}"),
    ("{}", f"nothing, {TENSORS}"),
    ("()", f"nothing, {TENSORS}"),
    ("[x, []]", f"nothing, {TENSORS}"),
    ("{'scores': x, 'label': 'cat'}", f"str, {TENSORS}"),
    ("[None, None]", f"nothing, {TENSORS}"),
    ("self.layer", f"Linear, {TENSORS}"),
    (
        "self.scores(x).argmax(1)",
        "whole numbers (int64), expected floating point: return the scores",
    ),
    ("self.scores(x).topk(2)[1:]", "whole numbers (int64)"),
    ("self.scores(x) > 0", "whole numbers (bool)"),
    ("x.to(torch.uint8)", "whole numbers (uint8)"),
    ("self.scores(x).to_sparse()", "layout sparse_coo"),
    ("self.scores(x).to_sparse_csr()", "layout sparse_csr"),
    ("self.scores(x).to_mkldnn()", "layout _mkldnn"),
    ("torch.nested.nested_tensor(list(x))", "layout nested"),
    ("torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)", "quantised tensor (qint8)"),
    ("self.scores(x).to('meta')", "a tensor on device meta, expected cpu"),
    ("self.scores(x).sum()", "shape (), expected (2, ...)"),
    ("self.scores(x).mean(0)", "shape (5,), expected (2, ...): one row for each input"),
    ("self.scores(x)[:1]", "shape (1, 5), expected (2, ...)"),
    ("self.scores(x).T", "shape (5, 2), expected (2, ...)"),
    ("self.scores(x)[:, :0]", "shape (2, 0), expected at least one value"),
    ("torch.empty(0)", "shape (0,), expected (2, ...)"),
]
LOOP = "one = [x]; one.append(one); return one"


@pytest.mark.parametrize(("code", "said"), RETURNS)
@pytest.mark.parametrize("run", [outputs.measure, outputs.predict])
@pytest.mark.filterwarnings("ignore:.*(CSR|nested|quantiz)")
def test_what_cannot_be_compared_is_refused(run, code, said, written):
    model = build(written(forward=f"return {code}"))
    with pytest.raises(ParityError) as error:
        run(model, INPUTS, CPU, batch=2)
    assert line(error).startswith(f"{ON}returned ") and said in line(error)


@pytest.mark.parametrize("code", ["self.scores(x).argmax(1)", "None", "x.to('meta')"])
@pytest.mark.parametrize("run", [run_latency, run_reference, run_port])
def test_it_is_refused_wherever_it_is_returned(run, code, written):
    with pytest.raises(ParityError, match="returned"):
        run(build(written(forward=f"return {code}")))


def test_a_list_that_contains_itself(written):
    with pytest.raises(ParityError, match="RecursionError"):
        run_measure(build(written(forward=LOOP)))


def test_it_is_refused_at_the_first_batch(written):
    model = build(written(forward="self.ran = getattr(self, 'ran', 0) + 1; return x.argmax()"))
    with pytest.raises(ParityError, match="whole numbers"):
        run_measure(model)
    assert model.ran == 1


def test_another_number_of_columns_in_a_later_batch(written):
    model = build(written(forward="return x.reshape(len(x), -1)[:, : 3 * len(x)]"))
    with pytest.raises(ParityError) as error:
        outputs.measure(model, INPUTS[:3], CPU, batch=2)
    said = "Net on input 2 of shape (1, 3, 8, 8): returned (3,), expected (6,)"
    assert line(error).startswith(said)


def test_a_network_that_needs_a_full_batch(written):
    model = build(written(forward="return x.view(2, 192)"))
    assert outputs.measure(model, INPUTS, CPU, batch=2).shape == (4, 192)
    with pytest.raises(ParityError, match=r"input 2 of shape .*: RuntimeError: shape"):
        outputs.measure(model, INPUTS[:3], CPU, batch=2)


@pytest.mark.parametrize("dtype", ["half", "bfloat16", "double"])
def test_other_floating_point_becomes_float32(dtype, written):
    model = build(written(forward=f"return x.{dtype}()"))
    assert outputs.measure(model, INPUTS, CPU).dtype == np.float32


@pytest.mark.parametrize(
    "code",
    [
        "self.y = getattr(self, 'y', torch.empty(1, 5)).copy_(self.scores(x)); return self.y",
        "out = self.scores(x); x.zero_(); return out",
        "torch.set_grad_enabled(True); return self.scores(x)",
        "return torch.complex(self.scores(x), -self.scores(x)).conj().imag",
    ],
    ids=["the same memory again", "writes to its input", "gradients", "negative bit"],
)
def test_odd_but_right(code, written):
    torch.manual_seed(0)
    model, inputs = build(written(forward=code)), INPUTS.copy()
    with torch.no_grad():
        expected = model.scores(torch.from_numpy(INPUTS)).numpy()
    np.testing.assert_allclose(outputs.measure(model, inputs, CPU), expected, rtol=1e-4, atol=1e-6)
    assert np.array_equal(inputs, INPUTS)
    assert check_port(model, model, inputs).passed and np.array_equal(inputs, INPUTS)


# --- What it prints and changes


@pytest.mark.parametrize("part", ["top", "net", "forward"])
def test_prints_go_to_stderr(part, written, capsys):
    code = "print('PRINTED'); "
    lines = {"forward": "return self.scores(x)", "top": "", "net": "return Net()"}
    lines[part] = code + lines[part]
    run_measure(build(written(**lines)))
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("PRINTED") == (4 if part == "forward" else 1)


CHANGES = {
    "torch.set_default_dtype": "torch.set_default_dtype(torch.float64)",
    "torch.set_default_device": "torch.set_default_device('cpu')",
    "torch.set_grad_enabled": "torch.set_grad_enabled(not torch.is_grad_enabled())",
    "torch.set_num_threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "torch.set_flush_denormal": "torch.set_flush_denormal(True)",
    "torch.use_deterministic_algorithms": "torch.use_deterministic_algorithms(True)",
    "torch.backends.mha.set_fastpath_enabled": "torch.backends.mha.set_fastpath_enabled(False)",
    "torch.set_float32_matmul_precision": "torch.set_float32_matmul_precision('medium')",
    "torch.backends.cudnn.benchmark": "torch.backends.cudnn.benchmark = True",
    "torch.backends.cudnn.deterministic": "torch.backends.cudnn.deterministic = True",
    "os.chdir": "os.chdir('/')",
    "sys.path": "sys.path.insert(0, '/nowhere')",
    "sys.setrecursionlimit": "sys.setrecursionlimit(5000)",
}
if hasattr(torch.backends.mkldnn, "conv"):
    CHANGES["torch.backends.mkldnn.conv.fp32_precision"] = (
        "torch.backends.mkldnn.conv.fp32_precision = 'bf16'"
    )


OUR_OWN = {"torch.set_grad_enabled", "torch.backends.mkldnn.conv.fp32_precision"}  # set by a run


def state():
    return {name: get() for name, (get, _) in network._state().items()}


@pytest.mark.parametrize("part", ["top", "net", "forward"])
@pytest.mark.parametrize("name", CHANGES)
def test_global_state_is_put_back(name, part, written, capsys):
    before = state()
    lines = {"forward": "return self.scores(x.float())", "top": "", "net": "return Net()"}
    lines[part] = f"{CHANGES[name]}; {lines[part]}"
    model = build(written(**lines))
    if part == "forward":
        model = build(written(forward=f"{CHANGES[name]}; raise ValueError('after it')"))
        with pytest.raises(ParityError, match="after it"):
            run_measure(model)
    assert state() == before
    note = capsys.readouterr().err
    if part == "forward" and name in OUR_OWN:
        assert note == ""
    else:
        assert (name in note) == name.startswith("torch.") and note.count("\n") <= 1


def test_filters_of_warnings_and_errors_of_numpy(written):
    filters, errors = list(warnings.filters), np.geterr()
    build(written(top="warnings.simplefilter('error'); import numpy; numpy.seterr(all='raise')"))
    assert list(warnings.filters) == filters and np.geterr() == errors


def test_standard_input_is_still_open(written):
    before = sys.stdin
    with pytest.raises(ParityError):
        run_measure(build(written(forward="exit()")))
    assert sys.stdin is before and not sys.stdin.closed


def test_seed_in_forward_is_undone(written):
    model = build(written(forward="torch.manual_seed(3); return self.scores(x)"))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    run_measure(model)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("part", ["top", "net"])
def test_a_seed_that_would_have_no_effect(part, written):
    lines = {"top": "", "net": "return Net()"}
    lines[part] = "torch.manual_seed(3); " + lines[part]
    wanted = Wanted(written(**lines), {}, ["seed:1"])
    with pytest.raises(ParityError) as error:
        obtain(wanted)
    assert line(error).startswith("weights seed 1: has no effect, because the code of Net calls")
    assert "torch.manual_seed(3)" in line(error)
    assert obtain(Wanted(wanted.architecture, {}, ["seed:3"], calibrate=False))


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_every_seed_is_known_again(seed):
    assert isinstance(seeds.draw(seed, nn.Flatten), nn.Flatten)


# --- Weights


def saved(architecture, change):
    state = build(architecture).state_dict()
    change(state)
    torch.save(state, "weights.pth")
    return Wanted(architecture, {}, ["path:weights.pth"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(value, written):
    def change(state):
        state["layer.weight"][0, :2] = value

    with pytest.raises(ParityError) as error:
        obtain(saved(written(), change))
    said = "weights weights.pth: tensor 'layer.weight' has 2 of 960 values that are not finite"
    assert line(error).replace("path:", "").startswith(said) and str(value) in line(error)


def test_weights_that_overflow_float32_are_not_finite(written):
    def change(state):
        state["layer.bias"] = torch.full((5,), 1e300, dtype=torch.float64)

    with pytest.raises(ParityError, match=r"'layer\.bias' has 5 of 5 values that are not finite"):
        obtain(saved(written(), change))


def test_an_initialisation_that_is_not_finite(written):
    net = "model = Net(); model.layer.bias.data.fill_(torch.nan); return model"
    with pytest.raises(ParityError, match=r"weights seed:1: tensor 'layer\.bias' has 5 of 5"):
        obtain(Wanted(written(net=net), {}, ["seed:1"], calibrate=False))


def test_a_mask_of_infinities_is_the_networks_own(written):
    net = "m = Net(); m.register_buffer('mask', torch.full((2,), -torch.inf)); return m"
    state, _ = obtain(saved(written(net=net), lambda state: None))
    assert state["mask"].tolist() == [-np.inf, -np.inf]


def test_a_state_that_is_no_tensor(written):
    net = "Net.get_extra_state = lambda self: {'epoch': 3}; return Net()"
    with pytest.raises(ParityError, match=r"state '_extra_state' of type dict, expected tensors"):
        obtain(Wanted(written(net=net), {}, ["seed:1"], calibrate=False))


@pytest.mark.parametrize("method", ["state_dict", "load_state_dict", "eval", "float"])
def test_methods_that_fail(method, written, tmp_path):
    good = written()
    state, _ = obtain(Wanted(good, {}, ["seed:1"], calibrate=False))
    store(tmp_path, state)
    written(net=f"Net.{method} = lambda *_, **__: 1 / 0; return Net()")
    with pytest.raises(ParityError) as error:
        checkpoints.load(tmp_path)
    assert "ZeroDivisionError: division by zero (at model.py:15)" in line(error)


# --- Outputs that are not finite

SIDES = {"reference": "reference", "exact": "reference in float64", "predicted": "prediction"}


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", SIDES)
def test_a_side_that_is_not_finite_fails(side, value, measured):
    good = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    arrays = {name: good.copy() for name in ("reference", "predicted")}
    arrays["exact"] = good.astype(np.float64)
    arrays[side][1:, 4] = value
    runs = Runs(**arrays, measured=good.copy() if measured else None)
    asked = {"program": Program(True, "same program"), "operators": []} if measured else {}
    judgement = judge(Case(runs, PRESETS["ascend910b"], ["a", "b", "c"], **asked))
    said = f"{SIDES[side]}, input b: {value} in column 4"
    assert str(judgement.verdict) == f"FAIL (question 3, same answer: {said})"
    (third,) = (a for a in judgement.verdict.answers if a.question == 3)
    assert third.findings == (said,)
    json.dumps(judgement.to_dict(), allow_nan=False)


@pytest.mark.parametrize("task", ["classification", "features"])
@pytest.mark.parametrize("value", ["torch.nan", "torch.inf"])
def test_a_reference_that_is_not_finite_passes_no_port(value, task, written):
    model = build(written(forward=f"y = self.scores(x); y[:, 2] = {value}; return y"))
    report = check_port(model, model, INPUTS, "cpu", names=list("abcd"), task=task)
    said = f"reference, input a: {value.removeprefix('torch.')} in column 2"
    assert str(report.verdict) == f"FAIL (question 3, same answer: {said})"
    assert said in str(report)


# --- The program


def store(folder, state):
    from safetensors.torch import save_file

    evidence.write(folder / "weights.safetensors", lambda partial: save_file(state, partial))
    digest = evidence.sha256(folder / "weights.safetensors")
    about = {"architecture": "model.py:net", "arguments": {}, "sha256": digest}
    evidence.write_json(folder / "weights.json", about)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "code", "said"),
    [
        ("top", "print('PRINTED'); exit()", f"cannot be imported: SystemExit {IMPORT}"),
        (
            "net",
            "raise type('E', (BaseException,), {})('x\\ny')",
            f"arguments {{}}: E: x y {BUILD}",
        ),
        ("forward", "print('PRINTED'); return self(x)", f"RecursionError: maximum {RUN}"),
        ("forward", "raise KeyboardInterrupt", f"input 0 of shape (1, 3, 8, 8): Keyboard {RUN}"),
        ("forward", "return self.scores(x).argmax(1)", "whole numbers (int64)"),
    ],
)
def test_program_tells_it_in_one_line(part, code, said, written, tmp_path):
    state, _ = obtain(Wanted(written(), {}, ["seed:1"], calibrate=False))
    store(tmp_path, state)
    digest = evidence.write_array(tmp_path / "inputs.npy", INPUTS)
    evidence.write_json(tmp_path / "inputs.json", {"sha256": digest})
    written(**{part: code})
    files = ["--weights-folder", ".", "--inputs", "inputs.npy", "--output", "out/outputs.npy"]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "outputs.py", *files],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1 and done.stdout == "", done.stderr
    lines = [one for one in done.stderr.splitlines() if one != "PRINTED"]
    assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 300
    assert all(word in lines[0] for word in said.split(" ")), lines[0]
    assert not (tmp_path / "out").exists()


# --- The texts of errors


def test_reason_is_short_and_one_line():
    assert reason(ValueError("a\n\tb"), 50) == "ValueError: a b"
    assert reason(ValueError(""), 50) == "ValueError"
    assert len(reason(ValueError("x" * 1000), 50)) == 50


def test_there_are_enough_hostile_networks():
    assert len(RAISES) + len(RETURNS) >= 90


def test_a_network_that_can_be_quantised_is_not_quantised_yet():
    """It adds with modules of torch's quantised layers, in floating point."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.add = torch.ao.nn.quantized.FloatFunctional()

        def forward(self, x):
            return self.add.add(x, self.layer(x))

    model = Residual().eval()
    assert network.quantised(model) is None
    model.add = torch.ao.nn.quantized.QFunctional()
    assert "'add' is quantised (QFunctional" in network.quantised(model)
