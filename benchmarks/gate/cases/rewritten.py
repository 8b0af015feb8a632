"""Clean variations of the program: all of `rewritings`."""

import functools

import torch
from catalogue import Port, System, case, expect_small
from rewritings import REWRITINGS, Rewriting


def rewritten(rewriting: Rewriting, system: System) -> Port:
    """Return the network, written differently."""
    expect_small(system)  # both networks run in float64, with several weights
    return Port(rewriting(system.model, torch.from_numpy(system.inputs[:1])))


for name, rewriting in REWRITINGS.items():
    case("clean", "rewriting", name)(functools.partial(rewritten, rewriting))
