"""A plugin of pytest that makes a large mistake in the verdict, for the whole run.

``PYTHONPATH=tests pytest -p sabotage --sabotage "question 1 is empty" tests/test_program.py``
"""

import sys
from typing import Any

import npu_parity.check  # noqa: F401  (imports everything that the verdict consists of)
from npu_parity.verdict import envelope, function, program
from npu_parity.verdict.answers import Program
from npu_parity.verdict.bounds import products


def exchange(original: Any, wrong: Any) -> None:
    """Exchange an object in every module of the package that has it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("npu_parity"):
            for own, value in list(vars(module).items()):
                if value is original:
                    setattr(module, own, wrong)


def no_question_1() -> None:
    exchange(program.compare, lambda *networks_and_inputs: Program(True, "same program"))


def no_float64() -> None:
    exchange(function.compare, lambda *networks_and_inputs: function.Comparison(True, error=0.0))


def wide_products(bound: str) -> None:
    class Wide(products.Product):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments)
            setattr(self, bound, 1000 * getattr(self, bound))

    exchange(products.Product, Wide)


def wide_envelope() -> None:
    exchange(envelope.ENVELOPE, 400.0)
    exchange(envelope.PREDICTED, 400.0)


MISTAKES = {
    "nothing": lambda: None,
    "question 1 is empty": no_question_1,
    "every other program is the same function": no_float64,
    "worst case of a product times 1000": lambda: wide_products("bound"),
    "sums of a product times 1000": lambda: wide_products("sums"),
    "envelope of 400": wide_envelope,
}


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--sabotage", choices=MISTAKES, default="nothing")


def pytest_configure(config: Any) -> None:
    MISTAKES[config.getoption("sabotage")]()
