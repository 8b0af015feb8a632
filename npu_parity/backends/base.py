"""The interface of all backends. The facts about one backend are only in its own module."""

import contextlib
import functools
import glob
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from npu_parity.backends import accelerators, environment
from npu_parity.backends.machine import cpus
from npu_parity.errors import ParityError, first_line
from npu_parity.numerics.formats import PRESETS, Numerics

if TYPE_CHECKING:  # importing torch takes seconds, and planning a run does not need it
    from pathlib import Path

    import torch
    from torch import nn

    from npu_parity.backends.batches import Inputs


class Backend(ABC):
    """A kind of device that can execute a network.

    Attributes:
        name: the name in the configuration and in torch.
        formats: formats to which the device may round float32 operands; empty if unknown.
        preset: the name of its default numerics in `PRESETS`.
        hint: what to do if torch finds no such device.
        questions: the questions of the verdict that the device can answer.
        exports: whether it executes an exported file and not the modules of torch.
        executes: whether it executes networks here. Otherwise their outputs come from files, and
            there is no latency.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]] = ()
    preset: ClassVar[str] = "ieee"
    hint: ClassVar[str]
    questions: ClassVar[frozenset[int]] = frozenset({1, 2, 3, 4})
    exports: ClassVar[bool] = False
    executes: ClassVar[bool] = True

    @abstractmethod
    def missing(self, numerics: Numerics) -> str | None:
        """Return why this machine cannot measure; None if it seems able to.

        The method asks only the operating system. It does not import torch.
        """

    def lacking(self, form: str) -> str | None:
        """Return why it makes no sense to measure networks in a format here; None if it does.

        The method asks only the operating system, like `missing`.

        Args:
            form: fp32, fp16 or bf16.
        """
        return None

    def check(self) -> None:
        """Raise ParityError if the installed software cannot load torch for this backend.

        The method reads files only. It does not import torch.
        """
        environment.check()

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the device's name and the versions of its software."""

    def switches(self, numerics: Numerics) -> dict[str, Any]:
        """Return the settings of torch that give the device these numerics, by their path.

        ``{"backends.cudnn.allow_tf32": True}`` sets ``torch.backends.cudnn.allow_tf32``. A setting
        with the value None is not changed, only recorded.
        """
        return {}

    def read(self, path: str) -> Any:
        """Return the current value of a setting of torch; None if it was never set."""
        return getattr(*_resolve(path))

    def write(self, path: str, value: Any) -> None:
        """Change a setting of torch; see `switches`."""
        holder, attribute = _resolve(path)
        setattr(holder, attribute, value)

    def target(self) -> "torch.device":
        """Return the torch device; ParityError if torch finds none."""
        if not self._module().is_available():
            raise ParityError(f"device {self.name}: torch finds none on this machine; {self.hint}")
        device: torch.device = self.load().device(self.name)
        return device

    def load(self) -> Any:
        """Return torch with this backend loaded; ParityError if the import fails."""
        return self.plain_torch()

    def plain_torch(self) -> Any:
        """Return torch, with or without this backend; ParityError as for `load`."""
        with self.importing():
            import torch
        return torch

    @contextlib.contextmanager
    def importing(self) -> Iterator[None]:
        """Turn a failed import of torch or of the backend's package into one line."""
        try:
            with environment.guarded():
                yield
        except ParityError:
            raise
        except Exception as error:  # torch_npu raises many kinds of errors during its import
            reason = first_line(error)
            raise ParityError(
                f"device {self.name}: torch cannot load it ({reason}); {self.hint}; "
                f"{environment.AUTOLOAD}"
            ) from None

    def compiled(self, model: "nn.Module", inputs: "Inputs") -> "nn.Module":
        """Return a network in the form that the device executes.

        Args:
            model: a network in evaluation mode.
            inputs: arrays with one row for each input, as an example.

        Raises:
            ParityError: the device cannot execute the network.
        """
        return model

    def opened(self, file: "Path") -> "nn.Module":
        """Return a network from an exported file with a sidecar, see `exports`.

        Raises:
            ParityError: the device executes no files, or not this one.
        """
        raise ParityError(f"{file}: device {self.name} executes no exported file")

    @contextlib.contextmanager
    def configured(self, numerics: Numerics) -> Iterator["torch.device"]:
        """Set the switches of the device and yield the torch device. Restore the switches later.

        If the numerics of a device are fixed (float16 operands on Ascend 910A), there are no
        switches.

        Raises:
            ParityError: the device is not available, does not support these numerics, or fails.
        """
        target = self.target()
        for kind in ("conv", "depthwise_conv", "matmul"):
            found = getattr(numerics, kind) or "fp32"
            if self.formats and found not in self.formats:
                raise ParityError(
                    f"device {self.name}: found numerics {found} for {kind}, expected one of "
                    f"{', '.join(self.formats)}"
                )
        try:
            with contextlib.ExitStack() as stack:
                for path, value in self.switches(numerics).items():
                    if value is not None:
                        stack.enter_context(self._switched(path, value))
                yield target
        except RuntimeError as error:  # a lost device also fails while the switches are restored
            raise self.failure(error) from error

    @contextlib.contextmanager
    def _switched(self, path: str, value: Any) -> Iterator[None]:
        """Give a setting a value inside; a setting that was never set before stays set."""
        before = self.read(path)
        self.write(path, value)
        try:
            if (found := self.read(path)) != value:
                raise ParityError(
                    f"device {self.name}: torch.{path} was set to {value!r}, but it reads "
                    f"{found!r}; this version of the software cannot switch its numerics"
                )
            yield
        finally:
            if before is not None:
                self.write(path, before)

    def failure(self, error: RuntimeError) -> Exception:
        """Return the exception for a failure of the device, with one line from its driver."""
        return ParityError(f"device {self.name} failed: {first_line(error)}")

    def found_switches(self, numerics: Numerics) -> Mapping[str, Any]:
        """Return the current values of the switches, by their full name in torch."""
        return {f"torch.{path}": self.read(path) for path in sorted(self.switches(numerics))}

    def synchronize(self) -> None:
        """Wait until the device has finished all its work."""
        self._module().synchronize()

    def elapsed(self, run: Callable[[], Any]) -> float:
        """Return the duration of `run` in milliseconds. The device is idle before and after."""
        self.synchronize()
        start = time.perf_counter_ns()
        run()
        self.synchronize()
        return (time.perf_counter_ns() - start) / 1e6

    def quiet_seconds(self, run: Callable[[], Any]) -> float:
        """Return about how many seconds `run` takes on a quiet machine."""
        return self.elapsed(run) / 1000

    def peak_memory(self) -> int | None:
        """Return the peak memory of the device in bytes; None if unknown."""
        with contextlib.suppress(AttributeError, RuntimeError):
            return int(self._module().max_memory_allocated())
        return None

    def seed(self, number: int) -> None:
        """Seed the random numbers of the CPU and of all accelerators that torch has loaded."""
        self.load().manual_seed(number)

    def take_accelerator(self) -> None:  # noqa: B027  (most machines have one)
        """Take a free card for this process, before torch uses the device."""

    def device_time(self, run: Callable[[], Any]) -> float | None:
        """Return how many ms the device itself takes for `run`; None if it has no clock."""
        event = self._event()
        if event is None:
            return None
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def _event(self) -> Any:
        """Return the class of events that have the device's time; None if there is none."""
        return getattr(self._module(), "Event", None)

    def least_threads(self, numerics: Numerics) -> int:
        """Return the smallest number of CPU threads that the numerics need."""
        return 1

    def use_threads(self, wanted: int, numerics: Numerics) -> int:
        """Set the number of threads to `wanted`, but at most one for each CPU; return the number.

        More threads than CPUs increase the latency.
        """
        count = max(self.least_threads(numerics), min(wanted, cpus()))
        self.plain_torch().set_num_threads(count)
        return count

    def numerics(self) -> Numerics:
        """Return the default numerics of the device."""
        return PRESETS[self.preset]

    def _module(self) -> Any:
        """Return torch's module of the backend; ParityError if this torch has none."""
        module = getattr(self.load(), self.name, None)
        if module is None:
            raise ParityError(f"device {self.name}: torch finds none on this machine; {self.hint}")
        return module


class Accelerator(Backend):
    """A backend whose driver creates a file in ``/dev`` for each card.

    Attributes:
        node: pattern of those files.
        visible: variable of the environment with the numbers of the cards that a process may use.
    """

    node: ClassVar[str]
    visible: ClassVar[str]

    def missing(self, numerics: Numerics) -> str | None:
        """Return why this machine cannot measure: it has no such file."""
        return None if glob.glob(self.node) else f"this machine has no {self.node}"

    def take_accelerator(self) -> None:
        """Take a free card, if the machine has several and the user did not choose one."""
        every = (str(number) for number in range(len(glob.glob(self.node))))
        numbers = os.environ.get(self.visible, ",".join(every)).split(",")
        if len(numbers) > 1:
            os.environ[self.visible] = accelerators.take(self.name, numbers)

    def describe(self) -> dict[str, Any]:
        """Return the device's name, its memory in bytes and its card, as far as they are known."""
        found: dict[str, Any] = {"name": self.name}
        # torch_npu raises an AssertionError if it finds no device, and the driver a RuntimeError.
        with contextlib.suppress(AttributeError, AssertionError, RuntimeError):
            module = self._module()
            found["name"] = module.get_device_name(0)
            found["total_memory"] = module.get_device_properties(0).total_memory
        if self.visible in os.environ:
            found["card"] = os.environ[self.visible]
        return found


def _resolve(path: str) -> tuple[Any, str]:
    """Return the object that has a setting of torch, and the name of the setting."""
    import torch

    holder, _, attribute = path.rpartition(".")
    return functools.reduce(getattr, holder.split("."), torch), attribute
