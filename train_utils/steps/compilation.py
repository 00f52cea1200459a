"""Decides once for a run whether layers are compiled, by the seconds that it costs and saves, and compiles them."""

import shutil
from collections.abc import Callable

import torch

from errors import first_line, say_note

# How many times as fast compiled steps are as plain ones, both without logits. Measured on two cores: in bf16, with
# its instructions, 1.6 at width 128 and 1.3 at 512; in fp32, on a processor without them and with other work beside
# it, 1.04 to 1.19 at width 128, 1.15 at 256 and 1.02 to 1.07 at 512. Not measured: on a GPU, and fp16, which only a GPU
# computes in.
COMPILED_GAIN = {"bf16": 1.5, "fp16": 1.5, "fp32": 1.15}
# Layers and head, the first time on a machine and at any width: 45 seconds of one core, two thirds of them in g++,
# which runs beside the rest. The next time they come from the compiler's cache in 2 seconds: no plan counts on it.
COMPILE_SECONDS = 30.0


def may_compile(args) -> bool | None:
    """Return what is settled before a run's length is known: True, False, or None where the length decides.

    The user's word counts; Liger's kernels take the layers' place; without a C++ compiler nothing can be compiled.
    """
    if args.use_liger_kernel:
        return False
    if args.compile_layers is not None:
        return args.compile_layers
    return None if any(shutil.which(name) for name in ("g++", "clang++", "c++")) else False


def repays_compilation(wanted: bool | None, plain_seconds: float, dtype: str) -> bool:
    """Decide whether layers are compiled: as `wanted`, else where it saves more seconds than it takes.

    Args:
        plain_seconds: what the training takes where nothing is compiled.

    >>> [repays_compilation(None, seconds, dtype) for seconds, dtype in ((60, "bf16"), (150, "bf16"), (150, "fp32"))]
    [False, True, False]
    """
    if wanted is not None:
        return wanted
    return plain_seconds * (1 - 1 / COMPILED_GAIN[dtype]) > COMPILE_SECONDS


class Compiler:
    """Compiles functions at their first call; where one can't be, it and all others run as they are from then on.

    No compiler that works is a matter of the machine (torch 2.13 finds none where its path has a space), and a run that
    decided by itself to compile must not end by it.
    """

    def __init__(self) -> None:
        self.has_failed = False

    def compile(self, plain: Callable) -> Callable:
        """Return a function that computes what `plain` does."""
        compiled = torch.compile(plain)

        def call(*args, **kwargs):
            if self.has_failed:
                return plain(*args, **kwargs)
            try:
                return compiled(*args, **kwargs)
            except Exception as error:
                from torch._dynamo.exc import TorchDynamoException  # which takes seconds

                if not isinstance(error, TorchDynamoException):
                    raise
                self.has_failed = True
                say_note(
                    f"layers can't be compiled here and run plain, as by --torch_compile false: {first_line(error)}"
                )
            return plain(*args, **kwargs)

        return call
