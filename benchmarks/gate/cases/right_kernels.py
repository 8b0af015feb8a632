"""Clean variations of kernels: another order of sums, another formula."""

import copy
import functools

import right
from catalogue import Port, case, replaced
from kernels import HF32, device

other_kernel = functools.partial(replaced, "clean", "kernel")
other_sum = functools.partial(replaced, "clean", "sum")
other_function = functools.partial(replaced, "clean", "function")
PRODUCTS = ("addmm", "bmm", "mm")

FLOATING = ("convolution", "addmm", "bmm", "native_batch_norm", "native_layer_norm", "mean")
FLOATING += ("_safe_softmax", "gelu", "silu", "sigmoid", "linalg_vector_norm", "div", "addcmul")

other_kernel("computed in float64", *FLOATING, change=right.in_float64)
other_kernel("convolutions as matrix products", "convolution", change=right.unfolded)
other_kernel("sums in reverse order", "convolution", change=right.reversed_sum)
other_kernel("sums in two halves", "convolution", change=right.split_sum)
other_kernel("16 output channels at a time", "convolution", change=right.by_output_channels)
other_kernel("channels last inside kernels", "convolution", change=right.blocked_layout)
other_kernel("batch norm in two vectors", "native_batch_norm", change=right.scale_and_shift)
other_kernel("ReLU as a clamp", "relu", change=right.clamped)
other_kernel("mean in reverse order", "mean", change=right.reversed_mean)
other_kernel("bias after the product", "addmm", change=right.product_then_bias)
other_kernel("softmax by way of its logarithm", "_safe_softmax", change=right.by_logarithm)
other_kernel("GELU from erf", "gelu", change=right.from_erf)
other_kernel("sigmoid from exp", "sigmoid", "silu", change=right.by_exponential)


@case("clean", "kernel", "images one by one inside kernels")
def _(system):
    within = device(HF32, "convolution", change=right.by_images)
    return Port(copy.deepcopy(system.model), kernels=within, batch=len(system.images))


other_sum("sums in four parts", "convolution", change=right.in_parts(4))
other_sum("sums in a tree", "convolution", change=right.tree)
other_sum("products in two halves", *PRODUCTS, change=right.split_product)
other_sum("products of transposed matrices", *PRODUCTS, change=right.transposed_product)
other_kernel("maps in two halves", "convolution", change=right.by_columns)
other_kernel("results in memory that is filled later", "convolution", change=right.filled_later)
other_kernel("results with channels last", "convolution", change=right.last_results)
other_function("layer norm from var and mean", "native_layer_norm", change=right.layer_norm)
other_function("batch norm with a reciprocal root", "native_batch_norm", change=right.batch_norm)
other_function("softmax with powers of two", "_safe_softmax", change=right.powers_of_two)
other_function("GELU from erfc", "gelu", change=right.from_erfc)
other_function("sigmoid from tanh", "sigmoid", "silu", change=right.from_tanh)
other_function("ReLU as a product with a mask", "relu", change=right.masked)
other_function("mean as a sum of rows, then of columns", "mean", change=right.mean_in_steps)
