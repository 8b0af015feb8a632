"""Faults of kernels: of a whole operator, of its sums, of functions, for some operands only."""

import copy
import functools

import functions
import torch
import wrong
from catalogue import Port, System, case, executed, replaced
from kernels import FLOAT32, HF32, Change, device, only, result, when
from torch import Tensor

from npu_parity.numerics.formats import Numerics
from npu_parity.numerics.rounding import round_to

PRODUCTS = ("addmm", "bmm", "mm")

kernel = functools.partial(replaced, "fault", "kernel")
sums = functools.partial(replaced, "fault", "sum")
function = functools.partial(replaced, "fault", "function")


def one_convolution(group: str, name: str, change: Change, batch: int = 1) -> None:
    """Register a wrong kernel for the convolutions of one shape."""

    @case("fault", group, name)
    def _(system: System) -> Port:
        within = device(HF32, "convolution", change=only(system.convolution(), change))
        return Port(copy.deepcopy(system.model), kernels=within, batch=batch)


# --- Whole operators

one_convolution("kernel", "one output channel dead", result(wrong.dead_channel))
one_convolution("kernel", "one tile dead", result(wrong.dead_tile))
one_convolution("kernel", "NaN in one place of a kernel", result(wrong.put(float("nan"))))
one_convolution("kernel", "infinity in one place of a kernel", result(wrong.put(float("inf"))))
one_convolution("kernel", "overflow of scaled float16", result(wrong.overflow))
one_convolution("kernel", "bias added twice", wrong.bias_twice)
kernel("results stored as float16", "convolution", change=result(wrong.stored_as(torch.float16)))
kernel("results stored as bfloat16", "convolution", change=result(wrong.stored_as(torch.bfloat16)))
kernel("residual addition lost", "add", change=wrong.without_second)
kernel("residual addition in bfloat16", "add", change=functions.bf16_sum)

# --- Sums and rounding

one_convolution("sum", "last term of a sum left out", wrong.without_last_term)
one_convolution("sum", "first term of a sum counted twice", wrong.term_twice)
one_convolution("sum", "error of 0.1 % in one tile", result(wrong.scaled_tile))
sums("sums in float16", "convolution", change=wrong.float16_sums)
sums(
    "sums in bfloat16",
    "convolution",
    change=wrong.partial_sums(16, lambda y: y.bfloat16().float()),
)
sums(
    "sums in TF32",
    "convolution",
    change=wrong.partial_sums(16, lambda y: round_to(y, "tf32")),
)
sums("sums truncated", "convolution", change=wrong.partial_sums(16, wrong.truncated))
sums("two halves of a sum in float16", "convolution", change=wrong.halves_in_float16)
sums("Winograd's tiles in float16", "convolution", change=wrong.winograd_in_float16)
sums("sums of matrix products in float16", *PRODUCTS, change=wrong.products_in_float16)
sums("bias as bfloat16", "convolution", change=wrong.bf16_bias)
sums("HF32 for matrix products too", *PRODUCTS, change=wrong.hf32_products)
for form in ("tf32", "fp16", "bf16"):
    name = f"{form.upper()} where HF32 was promised"
    executed("fault", "sum", name, device(Numerics(conv=form)))
executed("fault", "sum", "HF32 where float32 was promised", device(HF32), FLOAT32)
executed(
    "fault",
    "sum",
    "truncation where rounding to nearest was promised",
    device(Numerics(conv="hf32", rounding="toward_zero")),
)

# --- Norms, activations, pools

function("statistics as bfloat16", "native_batch_norm", change=functions.biased_statistics)
function("eps ignored", "native_batch_norm", "native_layer_norm", change=functions.without_eps)
function("eps of batch norm outside of the root", "native_batch_norm", change=functions.eps_outside)
function("root from the bit pattern", "native_batch_norm", change=functions.approximate_root)
for form in ("unbiased", "eps"):
    function(
        {"unbiased": "variance of n - 1", "eps": "eps of layer norm outside of the root"}[form],
        "native_layer_norm",
        change=functools.partial(functions.layer_norm, form=form),
    )
function("softmax over the wrong axis", "_safe_softmax", change=functions.over_rows)
function("exponential as a power", "_safe_softmax", change=functions.powered)
function("softmax in float16 without its maximum", "_safe_softmax", change=functions.unshifted)
function("GELU's other formula", "gelu", change=functions.tanh_gelu)
function("GELU from a sigmoid", "gelu", change=functions.sigmoid_gelu)
function("GELU from a polynomial", "gelu", change=functions.cubic_gelu)
function(
    "exponential from a table",
    "_safe_softmax",
    "sigmoid",
    "silu",
    change=functions.coarse_exponential,
)
function("sigmoid from a fraction", "sigmoid", "silu", change=functions.fraction)
function("ReLU that leaks", "relu", change=functions.leaky)
function("mean divided by one less", "mean", change=functions.mean_of_one_less)
function("mean in float16", "mean", change=functions.float16_mean)
function(
    "maximum pool padded with zeros",
    "max_pool2d_with_indices",
    change=functions.zero_padded_pool,
)
function(
    "maximum pool without the last row",
    "max_pool2d_with_indices",
    change=functions.small_pool,
)

# --- For some batches, operands and layouts only


def dead(func, **of):
    """Compute a convolution with one dead channel."""
    return result(wrong.dead_channel)(func, **of)


def several(**of) -> bool:
    """Return whether a batch has more than one row."""
    return len(of["input"]) > 1


one_convolution("batch", "kernel wrong above batch 1", when(several, dead))
one_convolution("batch", "kernel mixes the rows of a batch", wrong.other_rows, batch=3)
one_convolution("batch", "last row of a batch off by 1 %", result(wrong.last_row_off))
one_convolution("batch", "last row off by 1 %, in a batch of 3", result(wrong.last_row_off), 3)

one_convolution("operand", "kernel wrong for large results", result(wrong.saturated))
one_convolution("operand", "border off by 1 %", result(wrong.border_off))
replaced(
    "fault", "operand", "negative operands in bfloat16", "convolution", change=wrong.bf16_negatives
)


def odd(**of) -> bool:
    """Return whether a map has an odd width."""
    return of["input"].shape[-1] % 2 == 1


replaced("fault", "operand", "kernel wrong for odd sizes", "convolution", change=when(odd, dead))


@case("fault", "operand", "kernel wrong in every seventh call")
def _(system):
    within = device(HF32, "convolution", change=wrong.every(7, dead))
    return Port(copy.deepcopy(system.model), kernels=within)


def tf32(func, **of):
    """Compute a convolution of TF32 operands."""
    return func(**of | {n: round_to(of[n], "tf32") for n in ("input", "weight")})


def second_input(name: str, change: Change) -> None:
    """Register a kernel of the first convolution that is wrong for the second input only."""

    @case("fault", "operand", name)
    def _(system: System) -> Port:
        second = torch.from_numpy(system.inputs[1])

        def has_second(**of) -> bool:
            x: Tensor = of["input"]
            return x.shape[1:] == second.shape and any(torch.equal(row, second) for row in x)

        within = device(HF32, "convolution", change=when(has_second, change))
        return Port(copy.deepcopy(system.model), kernels=within)


second_input("kernel wrong for the second input", dead)
second_input("TF32 for the second input", tf32)


@case("fault", "layout", "kernel wrong for channels last")
def _(system):
    def channels_last(**of) -> bool:
        w: Tensor = of["weight"]
        last = w.is_contiguous(memory_format=torch.channels_last)
        return last and not w.is_contiguous()

    within = device(HF32, "convolution", change=when(channels_last, dead))
    return Port(copy.deepcopy(system.model).to(memory_format=torch.channels_last), kernels=within)


def transposed(*args, **kwargs) -> bool:
    """Return whether the second factor of a product is transposed in memory."""
    return not args[-1].is_contiguous()


replaced(
    "fault",
    "layout",
    "kernel wrong for transposed matrices",
    *PRODUCTS,
    change=when(transposed, result(lambda y: y[..., 0].zero_())),
)
