"""Clean variations of the program: all of `rewritings`."""

import functools

import torch
from catalogue import Port, System, case
from rewritings import REWRITINGS, Rewriting


def rewritten(rewriting: Rewriting, system: System) -> Port:
    """Return the network, written differently."""
    return Port(rewriting(system.model, torch.from_numpy(system.inputs[:1])))


for name, rewriting in REWRITINGS.items():
    case("clean", "rewriting", name)(functools.partial(rewritten, rewriting))
