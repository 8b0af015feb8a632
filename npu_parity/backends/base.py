"""What every backend can do. A backend's own facts are in its module, and nowhere else."""

import contextlib
import functools
import glob
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from npu_parity.backends.machine import cpus
from npu_parity.errors import ParityError, first_line
from npu_parity.numerics.formats import PRESETS, Numerics

if TYPE_CHECKING:  # torch takes seconds to import, and planning a run needs none of it
    import torch

AUTOLOAD = "set TORCH_DEVICE_BACKEND_AUTOLOAD=0 to go on without the NPU"


class Backend(ABC):
    """A kind of device that can execute a network.

    Attributes:
        name: as the configuration and torch call it.
        formats: what float32 operands may become on it; empty where nobody has said.
        preset: the name in `PRESETS` of its numerics as it is set up by default.
        hint: what to do where torch finds no such device.
        questions: the questions of the verdict that can be asked of it.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]] = ()
    preset: ClassVar[str] = "ieee"
    hint: ClassVar[str]
    questions: ClassVar[frozenset[int]] = frozenset({1, 2, 3, 4})

    @abstractmethod
    def missing(self, numerics: Numerics) -> str | None:
        """Return why this machine cannot measure; None where it seems able to.

        Looks at the operating system only: torch is not imported.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the device as found: its name, and the versions of what drives it."""

    def switches(self, numerics: Numerics) -> dict[str, Any]:
        """Return the settings that give the device these numerics, by their path in torch.

        ``{"backends.cudnn.allow_tf32": True}`` sets ``torch.backends.cudnn.allow_tf32``.
        """
        return {}

    def prepare(self) -> None:  # noqa: B027  (most backends need nothing)
        """Do what the backend needs before anything is executed on it."""

    def target(self) -> "torch.device":
        """Return the torch device; ParityError, with what to do, where torch finds none."""
        torch = self.load()
        if not self._module().is_available():
            raise ParityError(f"device {self.name}: torch finds none on this machine; {self.hint}")
        return torch.device(self.name)

    def load(self) -> Any:
        """Return torch with this backend in it; ParityError where it cannot be imported."""
        try:
            import torch

            return torch
        except ImportError as error:
            reason = first_line(error)
            raise ParityError(f"device {self.name}: {reason}; {self.hint}; {AUTOLOAD}") from None
        except RuntimeError as error:  # torch_npu is installed, and CANN is not found
            raise ParityError(
                f"device {self.name}: torch cannot load its backend ({first_line(error)}); "
                f"source CANN's set_env.sh, or {AUTOLOAD}"
            ) from None

    @contextlib.contextmanager
    def configured(self, numerics: Numerics) -> Iterator["torch.device"]:
        """Yield the torch device with its switches set; afterwards they are as they were.

        Where the numerics of a device cannot be chosen (float16 operands on Ascend 910A) nothing
        is set.

        Raises:
            ParityError: there is no such device here, it cannot have these numerics, or it fails.
        """
        target = self.target()
        for kind in ("conv", "depthwise_conv", "matmul"):
            found = getattr(numerics, kind) or "fp32"
            if self.formats and found not in self.formats:
                raise ParityError(
                    f"device {self.name}: found numerics {found} for {kind}, expected one of "
                    f"{', '.join(self.formats)}"
                )
        self.prepare()
        with contextlib.ExitStack() as stack:
            for path, value in self.switches(numerics).items():
                holder, attribute = _resolve(path)
                stack.callback(setattr, holder, attribute, getattr(holder, attribute))
                setattr(holder, attribute, value)
            try:
                yield target
            except RuntimeError as error:
                raise self.failure(error) from error

    def failure(self, error: RuntimeError) -> Exception:
        """Return what to raise where the device fails: one line with what its driver says."""
        return ParityError(f"device {self.name} failed: {first_line(error)}")

    def found_switches(self, numerics: Numerics) -> Mapping[str, Any]:
        """Return the switches as they now are, by their full name in torch."""
        return {
            f"torch.{path}": getattr(*_resolve(path)) for path in sorted(self.switches(numerics))
        }

    def synchronize(self) -> None:
        """Wait until the device has finished everything that was launched on it."""
        self._module().synchronize()

    def elapsed(self, run: Callable[[], Any]) -> float:
        """Return how long `run` takes in milliseconds, from an idle device to an idle device."""
        self.synchronize()
        start = time.perf_counter_ns()
        run()
        self.synchronize()
        return (time.perf_counter_ns() - start) / 1e6

    def peak_memory(self) -> int | None:
        """Return the most bytes that were in use on the device; None where it does not tell."""
        with contextlib.suppress(AttributeError, RuntimeError):
            return int(self._module().max_memory_allocated())
        return None

    def seed(self, number: int) -> None:
        """Seed the random numbers of the CPU and of every accelerator that torch has loaded."""
        self.load().manual_seed(number)

    def least_threads(self, numerics: Numerics) -> int:
        """Return how many threads of the CPU the numerics need."""
        return 1

    def use_threads(self, wanted: int, numerics: Numerics) -> int:
        """Let torch use at most `wanted` threads and at most one for each CPU; return how many.

        More threads than CPUs make the latency worse.
        """
        count = max(self.least_threads(numerics), min(wanted, cpus()))
        self.load().set_num_threads(count)
        return count

    def numerics(self) -> Numerics:
        """Return what the device does to float32 operands as it is set up by default."""
        return PRESETS[self.preset]

    def _module(self) -> Any:
        """Torch's own module of the backend; ParityError where this torch has none."""
        module = getattr(self.load(), self.name, None)
        if module is None:
            raise ParityError(f"device {self.name}: torch finds none on this machine; {self.hint}")
        return module


class Accelerator(Backend):
    """A backend whose driver shows as a file in ``/dev``.

    Attributes:
        node: pattern of that file.
    """

    node: ClassVar[str]

    def missing(self, numerics: Numerics) -> str | None:
        """Return why this machine cannot measure: it has no such file."""
        return None if glob.glob(self.node) else f"this machine has no {self.node}"

    def describe(self) -> dict[str, Any]:
        """Return the name that the driver gives the device."""
        with contextlib.suppress(AttributeError):
            return {"name": self._module().get_device_name(0)}
        return {"name": self.name}


def _resolve(path: str) -> tuple[Any, str]:
    """Return what holds a setting of torch, and the setting's name."""
    import torch

    holder, _, attribute = path.rpartition(".")
    return functools.reduce(getattr, holder.split("."), torch), attribute
