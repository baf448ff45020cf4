"""A policy's layers, compiled by torch. Touches: the compiler's cache on disk.

Each layer by itself, since all of them are the same code: one graph serves them all, and the head, attention's choice
of form and the adapter's own numbers stay outside. Shapes are variables of that graph, because no two steps have the
same ones; another graph is made for passes without gradients, for a single row, for the base model without its adapter.

What code the compiler makes of a graph depends on the first shapes it sees, in this run or by way of its cache in an
earlier one: two runs, or a resumed one and an uninterrupted one, agree to rounding only.
"""

import os
import shutil
import sysconfig
from pathlib import Path

import torch._dynamo as dynamo
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo.errors import SetupError
from grpo.policy import Policy

GRAPHS = 64
"""Of one layer's code. With torch's eight, a run would meet a ninth and go on with layers that are not compiled."""


def compile_layers(policy: Policy) -> None:
    """Have each layer compiled when it is first called. Raises SetupError where a CPU's code could not be built."""
    if policy.device.type == "cpu" and not can_build():
        raise SetupError("update.compile needs a C++ compiler and Python's headers on a CPU: g++ and python3-dev")
    dynamo.config.recompile_limit = GRAPHS
    for module in policy.model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def can_build() -> bool:
    """Whether a compiler and Python's headers, which what torch writes for a CPU includes, are here."""
    return (
        bool(shutil.which(os.environ.get("CXX", "g++"))) and Path(sysconfig.get_path("include"), "Python.h").is_file()
    )
