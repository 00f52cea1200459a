"""The dial: from minutes, text and machine to a model's shape, its vocabulary, batch and tokens, by a stated rule."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from model_utils.shapes import HEAD_SIZE, model_config
from train_utils.plan.machine import Machine
from train_utils.steps.fast_model import COMPILE_SECONDS, COMPILED_GAIN, repays_compilation

WIDTHS = [*range(128, 512, 64), *range(512, 1024, 128), *range(1024, 4097, 256)]

# Loss in nats a token of N weights that multiply after D tokens: E + A / N^a + B / D^b, with the constants of Besiroglu
# et al. 2024 (Chinchilla, fitted again), but for B, there 2085: with it and TOKENS_PER_WEIGHT widths 128 and 192 change
# places about where runs of 3, 5 and 10 minutes do (benchmarks/LOG.md).
IRREDUCIBLE, WEIGHTS_FACTOR, TOKENS_FACTOR = 1.82, 482.0, 1780.0
WEIGHTS_EXPONENT, TOKENS_EXPONENT = 0.348, 0.366
REPEATS_WORTH = 15.4  # Muennighoff et al. 2023, equation 5: R_D*
EXCESS_WORTH = 5.3  # the same, R_N*: what weights beyond those that the text feeds are worth
TOKENS_PER_WEIGHT = 10  # text that feeds a weight; by Hoffmann et al. 2022 it would be 20
MAX_EPOCHS = 3.0  # of text: past it a small model learns it by heart (benchmarks/LOG.md)
# Of dialogues, as the default recipe: held-out replies are no worse by then, and a name is known (benchmarks/LOG.md).
MAX_TUNING_EPOCHS = 1.75
LAW_BYTES = 3.7  # of text in a token of the loss's law: so many has our vocabulary of 4,096
OPTIMIZER_SHARE = 0.15  # of a step at most, about, in a run that has
MIN_STEPS = 200  # of the larger batch that this takes
MEMORY_SHARE = 0.7  # of the memory that a run may have is planned with


@dataclass(frozen=True)
class Shape:
    """A model's size: its parameters, those that multiply (all but the embedding), FLOPs of training.

    `token_flops` are those of a token; `muon_flops` those of Muon at a step, whatever its tokens.
    """

    width: int
    layers: int
    vocab_size: int
    parameters: int
    weights: int
    token_flops: float
    muon_flops: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a plan is made for: how much text, in rows of how many tokens, and what is settled already.

    `bytes_per_token` is that of a tokenizer that is there already; `compile_layers` whether layers are compiled, None:
    where that repays itself; `muon` whether that is the optimizer; `memory_told` whether what it takes was said before
    (plan/memory.py); `prepare_seconds` how long a vocabulary's tokens take before training.
    """

    text_bytes: int
    row_tokens: int
    processes: int = 1
    bytes_per_token: float | None = None
    max_epochs: float = MAX_EPOCHS
    compile_layers: bool | None = None
    muon: bool = True
    memory_told: bool = False
    prepare_seconds: Callable[[int], float] = lambda vocab_size: 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run of some minutes will be. FLOPs and tokens are of all processes together.

    `before_seconds` go by between the plan and the first step's end, for tokens and, if `compiled`, the compiler;
    `held_bytes` of memory the process has already.
    """

    shape: Shape
    row_tokens: int
    batch_rows: int
    accumulation: int
    processes: int
    tokens: int
    unique_tokens: int
    train_seconds: float
    predicted_loss: float
    max_epochs: float
    compiled: bool = True
    before_seconds: float = 0.0
    held_bytes: int = 0

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimizer step, of all processes."""
        return self.row_tokens * self.batch_rows * self.accumulation * self.processes

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return max(1, self.tokens // self.step_tokens)

    @property
    def memory_bytes(self) -> int:
        """Memory at the most: what is held, weights with gradients and optimizer, activations of a micro-batch.

        Fitted to the peaks of processes that took plain steps in fp32 at widths 128 to 512: 20 bytes a parameter
        (weight, gradient, two moments, Muon's work), 75 for each token, layer and dimension, 24 for each token's logit.
        Compiled layers need less. Runs at widths 256 and 384 were planned with 1.6 and 2.5 GB and took 1.62 and 2.46.
        """
        shape = self.shape
        activations = 75 * shape.layers * shape.width + 24 * shape.vocab_size
        return self.held_bytes + 20 * shape.parameters + self.row_tokens * self.batch_rows * activations

    @property
    def disk_bytes(self) -> int:
        """Two checkpoints for resuming (weights and two moments) and the finished model."""
        return self.shape.parameters * (2 * 12 + 4)


def choose_vocabulary(width: int, text_bytes: float) -> int:
    """Return the tokens of a vocabulary that a width is worth: 24 a dimension, as the default model's.

    The vocabulary should grow more slowly than the layers do (Tao et al. 2024): here as their cube root. A token has
    about 1,500 bytes of text to be learned from at least, where there are as few as 4,096.
    """
    return int(max(4096, min(65536, 24 * width, text_bytes / 1500)))


def measure_shape(width: int, vocab_size: int, row_tokens: int) -> Shape:
    """Return the size of a width's model, computed."""
    layers = model_config(width)["num_hidden_layers"]
    weights = layers * (13 * width**2 + 2 * width + 2 * HEAD_SIZE) + width + vocab_size * width
    flops = 6 * weights + 6 * layers * width * row_tokens  # Kaplan et al. 2020, section 2.1
    muon = layers * (4 * muon_flops(width, width) + 3 * muon_flops(width, 3 * width))
    return Shape(width, layers, vocab_size, weights + vocab_size * width, weights, flops, muon)


def muon_flops(rows: int, columns: int) -> float:
    """Return the FLOPs of Muon's update of a matrix: five steps of three matrix products each (train_utils.steps.muon).

    >>> muon_flops(2, 3) == muon_flops(3, 2) == 5 * (2 * 2 * 2 * 3 * 2 + 2 * 2**3)
    True
    """
    short, long = sorted((rows, columns))
    return 5 * (4 * short**2 * long + 2 * short**3)


def effective_tokens(tokens: float, unique_tokens: float) -> float:
    """Return what tokens are worth when some are repeats: the fourth epoch nearly all, the sixteenth little.

    Source: Muennighoff et al. 2023, equation 5.

    >>> round(effective_tokens(4e6, 1e6) / 1e6, 1), round(effective_tokens(40e6, 1e6) / 1e6, 1)
    (3.7, 15.2)
    """
    return saturate(tokens, unique_tokens, REPEATS_WORTH)


def effective_weights(weights: float, unique_tokens: float) -> float:
    """Return what weights are worth when the text is too little for them.

    Source: Muennighoff et al. 2023, equation 6.

    >>> effective_weights(1e6, 1e9), round(effective_weights(1e9, 1e6) / 1e6, 2)
    (1000000.0, 0.63)
    """
    return saturate(weights, unique_tokens / TOKENS_PER_WEIGHT, EXCESS_WORTH)


def saturate(amount: float, enough: float, worth: float) -> float:
    """Return the worth of an amount: all beyond `enough` counts less and less, in total `worth` times `enough`."""
    if amount <= enough:
        return amount
    return enough * (1 + worth * (1 - math.exp(-(amount / enough - 1) / worth)))


def predict_loss(weights: float, tokens: float) -> float:
    """Return the loss in nats for LAW_BYTES of text, for ranking plans (its absolute value depends on the text)."""
    return IRREDUCIBLE + WEIGHTS_FACTOR / weights**WEIGHTS_EXPONENT + TOKENS_FACTOR / tokens**TOKENS_EXPONENT


def choose_batch(tokens: float, row_tokens: int, processes: int, optimizer_tokens: float = 0.0) -> int:
    """Return the rows of a step: 4,096 tokens for a run of up to 2 M, growing as its tokens to the power 0.4.

    Source of the exponent: Bergsma et al. 2025, "Power Lines". A step in which the optimizer does as much work in each
    process as `optimizer_tokens` make has more, so that this is about OPTIMIZER_SHARE of it, where the run is long
    enough for MIN_STEPS of them. A power of two for each process.
    """
    by_horizon = 4096 * max(1.0, tokens / 2e6) ** 0.4 / processes
    by_optimizer = min(optimizer_tokens * (1 / OPTIMIZER_SHARE - 1), tokens / MIN_STEPS / processes)
    wanted = max(by_horizon, by_optimizer) / row_tokens
    return processes * 2 ** max(0, round(math.log2(max(wanted, 1))))


def choose_plan(
    task: Task, machine: Machine, *, seconds: float, shape: Shape | None = None, vocab_size: int | None = None
) -> Plan:
    """Return the plan for `seconds` of run: of a model of `shape`, or of the width of least predicted loss.

    Widths are those that fit in memory. `vocab_size` is that of a tokenizer that is there already, if any.
    """
    if shape:
        return plan_shape(task, machine, shape=shape, seconds=seconds)
    rows, text = task.row_tokens, task.text_bytes
    shapes = [measure_shape(width, vocab_size or choose_vocabulary(width, text), rows) for width in WIDTHS]
    plans = [plan_shape(task, machine, shape=shape, seconds=seconds) for shape in shapes]
    fitting = [plan for plan in plans if plan.memory_bytes <= MEMORY_SHARE * machine.memory_bytes] or plans[:1]
    return min(fitting, key=lambda plan: plan.predicted_loss)


def plan_shape(task: Task, machine: Machine, *, shape: Shape, seconds: float) -> Plan:
    """Return the plan of one shape: as many tokens as the time allows, at most `max_epochs` of the text.

    Args:
        seconds: from now to the end of training.
    """
    # The compression of a byte-level BPE: about 3.7 bytes a token at 4,096, a quarter of a byte more each doubling.
    compression = task.bytes_per_token or 3.7 + 0.25 * math.log2(shape.vocab_size / 4096)
    unique = max(1.0, task.text_bytes / compression)
    rate = machine.training_flops(shape.width) * task.processes / shape.token_flops  # tokens a second, not compiled
    before = task.prepare_seconds(shape.vocab_size)
    plain_seconds = min(seconds - before, task.max_epochs * unique / rate)
    compiled = repays_compilation(task.compile_layers, plain_seconds, machine.dtype)
    if compiled:
        rate, before = rate * COMPILED_GAIN[machine.dtype], before + COMPILE_SECONDS
    tokens = max(1.0, min((seconds - before) * rate, task.max_epochs * unique))
    optimizer_tokens = shape.muon_flops / shape.token_flops if task.muon else 0.0
    rows = choose_batch(tokens, task.row_tokens, task.processes, optimizer_tokens) // task.processes
    # A token of a larger vocabulary stands for more text: the loss is that of a text, its tokens counted as the law's.
    read = effective_tokens(tokens, unique) * compression / LAW_BYTES
    loss = predict_loss(effective_weights(shape.weights, task.text_bytes / LAW_BYTES), read)
    plan = Plan(
        shape=shape,
        row_tokens=task.row_tokens,
        batch_rows=rows,
        accumulation=1,
        processes=task.processes,
        tokens=int(tokens),
        unique_tokens=int(unique),
        train_seconds=tokens / rate,
        predicted_loss=loss,
        max_epochs=task.max_epochs,
        compiled=compiled,
        before_seconds=before,
        held_bytes=machine.held_bytes,
    )
    while plan.batch_rows > 1 and plan.memory_bytes > MEMORY_SHARE * machine.memory_bytes:
        plan = replace(plan, batch_rows=plan.batch_rows // 2, accumulation=plan.accumulation * 2)
    return plan


def in_millions(number: float) -> str:
    """Return a number in millions, small ones with more digits.

    >>> in_millions(13_640_000), in_millions(240_000), in_millions(24_000)
    ('13.6', '0.24', '0.024')
    """
    return f"{number / 1e6:,.1f}" if number >= 1e6 else f"{number / 1e6:.2g}"


def describe_plan(
    plan: Plan, machine: Machine, *, minutes: float, gone_seconds: float, finish_seconds: float = 0, memory: bool = True
) -> str:
    """Return a plan as a table, with its memory or not; `finish_seconds` are kept for what follows the training."""
    shape, flops = plan.shape, plan.tokens * plan.shape.token_flops
    rate, passes = flops / max(plan.train_seconds, 1e-9) / 1e9, plan.accumulation * plan.processes
    gone = f", of which {gone_seconds:.0f} s are gone"
    end = f"at {minutes:g} min{gone}"
    if plan.tokens >= 0.99 * plan.max_epochs * plan.unique_tokens:
        total = (gone_seconds + plan.before_seconds + plan.train_seconds + finish_seconds) / 60
        end = f"after about {total:.1f} min{gone}: reading the text more than {plan.max_epochs:g} times would not help"
    rows = {
        "machine": f"{machine.device}, {machine.peak_flops / 1e9:,.0f} GFLOP/s in {machine.dtype} matrix products",
        "model": f"{shape.parameters / 1e6:.1f} M parameters, width {shape.width}, {shape.layers} layers",
        "vocabulary": f"{shape.vocab_size:,} tokens",
        "step": f"{f'{passes} times ' if passes > 1 else ''}{plan.batch_rows} row{'s' * (plan.batch_rows > 1)} of "
        f"{plan.row_tokens} tokens = {plan.step_tokens:,} tokens",
        "tokens": f"{in_millions(plan.tokens)} M in about {plan.steps:,} steps",
        "epochs": f"{plan.tokens / plan.unique_tokens:.1f} of {in_millions(plan.unique_tokens)} M tokens of text",
        "compute": f"{flops:.2g} FLOPs at {rate:,.0f} GFLOP/s, {'compiled' if plan.compiled else 'not compiled'}",
        "memory": f"{plan.memory_bytes / 1e9:.1f} GB of {machine.memory_bytes / 1e9:.0f} GB free" if memory else "",
        "disk": f"{plan.disk_bytes / 1e9:.2f} GB of {machine.disk_bytes / 1e9:.0f} GB free",
        "end": end,
    }
    return "\n".join(["plan:", *(f"  {name:<11} {value}" for name, value in rows.items() if value)])
