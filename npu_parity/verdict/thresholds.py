"""Numbers that decide, each with what it decides and why it is what it is."""

from types import ModuleType


class Threshold(float):
    """A number that carries its reason; it computes as any other.

    Attributes:
        question: of the verdict, 1 to 4.
        decides: what is held against it.
        reason: where it comes from.
    """

    question: int
    decides: str
    reason: str

    def __new__(cls, value: float, question: int, decides: str, reason: str) -> "Threshold":
        """Make the number, and keep what is said of it."""
        self = super().__new__(cls, value)
        self.question, self.decides, self.reason = question, decides, reason
        return self


def of(*modules: ModuleType) -> dict[str, Threshold]:
    """Return the thresholds that are constants of modules, as ``module.NAME``, by question."""
    found = {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Threshold)
    }
    return dict(sorted(found.items(), key=lambda item: item[1].question))
