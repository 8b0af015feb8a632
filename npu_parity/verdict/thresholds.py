"""Numbers that decide the verdict, each with its meaning and its reason."""

import importlib
import pkgutil


class Threshold(float):
    """A number with its meaning and its reason. It computes like any other float.

    Attributes:
        question: the question of the verdict that uses it, 1 to 4.
        decides: what the number decides.
        reason: why it has this value.
    """

    question: int
    decides: str
    reason: str

    def __new__(cls, value: float, question: int, decides: str, reason: str) -> "Threshold":
        """Create the number with its description."""
        self = super().__new__(cls, value)
        self.question, self.decides, self.reason = question, decides, reason
        return self


def found() -> dict[str, Threshold]:
    """Return all thresholds of the verdict, by ``module.NAME``, in the order of the questions."""
    from npu_parity import verdict

    listed: dict[int, tuple[str, Threshold]] = {}
    for module in pkgutil.walk_packages(verdict.__path__, f"{verdict.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Threshold):
                # A module may import a threshold of another one. The first that has it is listed.
                listed.setdefault(id(value), (f"{module.name.rpartition('.')[2]}.{name}", value))
    return dict(sorted(listed.values(), key=lambda item: item[1].question))
