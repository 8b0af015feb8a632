"""Numbers that decide the verdict, each with its meaning and its reason."""

from types import ModuleType


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


def of(*modules: ModuleType) -> dict[str, Threshold]:
    """Return all thresholds that modules define, by ``module.NAME``, in the order of questions."""
    found = {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Threshold)
    }
    return dict(sorted(found.items(), key=lambda item: item[1].question))
