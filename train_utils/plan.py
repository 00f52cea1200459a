"""The dial: from minutes, text and machine to a model's shape, its vocabulary, batch and tokens, by a stated rule."""

import math
from dataclasses import dataclass, replace

from train_utils.machine import Machine
from train_utils.model import HEAD_SIZE

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
MAX_TUNING_EPOCHS = 4.0  # of dialogues: past it they are learned by heart


@dataclass(frozen=True)
class Shape:
    """A model's size: its parameters, those that multiply (all but the embedding), FLOPs to train on a token."""

    width: int
    layers: int
    vocab_size: int
    parameters: int
    weights: int
    token_flops: float


@dataclass(frozen=True)
class Plan:
    """What a run of some minutes will be. FLOPs and tokens are of all processes together."""

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
        """Weights, gradients and optimizer state in float32, and the activations of a micro-batch."""
        shape = self.shape
        activations = 40 * shape.layers * shape.width + 8 * shape.vocab_size
        return 16 * shape.parameters + self.row_tokens * self.batch_rows * activations

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
    layers = width // HEAD_SIZE
    weights = layers * (13 * width**2 + 2 * width + 2 * HEAD_SIZE) + width + vocab_size * width
    flops = 6 * weights + 6 * layers * width * row_tokens  # Kaplan et al. 2020, section 2.1
    return Shape(width, layers, vocab_size, weights + vocab_size * width, weights, flops)


def effective_tokens(tokens: float, unique_tokens: float) -> float:
    """Return what tokens are worth when some are repeats: the fourth epoch nearly all, the sixteenth little.

    Source: Muennighoff et al. 2023, equation 5.

    >>> round(effective_tokens(4e6, 1e6) / 1e6, 1), round(effective_tokens(40e6, 1e6) / 1e6, 1)
    (3.7, 15.2)
    """
    if tokens <= unique_tokens:
        return tokens
    repeats = tokens / unique_tokens - 1
    return unique_tokens * (1 + REPEATS_WORTH * (1 - math.exp(-repeats / REPEATS_WORTH)))


def effective_weights(weights: float, unique_tokens: float) -> float:
    """Return what weights are worth when the text is too little for them.

    Source: Muennighoff et al. 2023, equation 6.

    >>> effective_weights(1e6, 1e9), round(effective_weights(1e9, 1e6) / 1e6, 2)
    (1000000.0, 0.63)
    """
    fed = unique_tokens / TOKENS_PER_WEIGHT
    if weights <= fed:
        return weights
    return fed * (1 + EXCESS_WORTH * (1 - math.exp(-(weights / fed - 1) / EXCESS_WORTH)))


def predict_loss(weights: float, tokens: float) -> float:
    """Return the loss in nats a token, for ranking plans (its absolute value depends on the text)."""
    return IRREDUCIBLE + WEIGHTS_FACTOR / weights**WEIGHTS_EXPONENT + TOKENS_FACTOR / tokens**TOKENS_EXPONENT


def choose_batch(tokens: float, row_tokens: int, processes: int) -> int:
    """Return the rows of a step: 4,096 tokens for a run of up to 2 M, growing as its tokens to the power 0.4.

    Source of the exponent: Bergsma et al. 2025, "Power Lines". A power of two for each process.
    """
    wanted = 4096 * max(1.0, tokens / 2e6) ** 0.4 / row_tokens / processes
    return processes * 2 ** max(0, round(math.log2(max(wanted, 1))))


def choose_plan(
    seconds: float,
    text_bytes: int,
    machine: Machine,
    row_tokens: int,
    processes: int = 1,
    vocab_size: int | None = None,
    bytes_per_token: float | None = None,
) -> Plan:
    """Return the plan for `seconds` of training: of all widths that fit in memory, the one of least predicted loss.

    `vocab_size` and `bytes_per_token` are those of a tokenizer that is there already.
    """
    shapes = [measure_shape(width, vocab_size or choose_vocabulary(width, text_bytes), row_tokens) for width in WIDTHS]
    plans = [
        plan_shape(shape, seconds, text_bytes, machine, row_tokens, processes, bytes_per_token) for shape in shapes
    ]
    fitting = [plan for plan in plans if plan.memory_bytes < 0.7 * machine.memory_bytes] or plans[:1]
    return min(fitting, key=lambda plan: plan.predicted_loss)


def plan_shape(
    shape: Shape,
    seconds: float,
    text_bytes: int,
    machine: Machine,
    row_tokens: int,
    processes: int = 1,
    bytes_per_token: float | None = None,
    max_epochs: float = MAX_EPOCHS,
) -> Plan:
    """Return the plan of one shape: as many tokens as the time allows, at most `max_epochs` of the text."""
    # The compression of a byte-level BPE: about 3.7 bytes a token at 4,096, a quarter of a byte more each doubling.
    compression = bytes_per_token or 3.7 + 0.25 * math.log2(shape.vocab_size / 4096)
    unique = max(1.0, text_bytes / compression)
    rate = machine.training_flops(shape.width) * processes / shape.token_flops  # tokens a second
    tokens = min(seconds * rate, max_epochs * unique)
    rows = choose_batch(tokens, row_tokens, processes) // processes
    # A token of a larger vocabulary stands for more text: losses are compared for a byte.
    worth = effective_weights(shape.weights, unique), max(1.0, effective_tokens(tokens, unique))
    loss = predict_loss(*worth) / compression
    plan = Plan(shape, row_tokens, rows, 1, processes, int(tokens), int(unique), tokens / rate, loss, max_epochs)
    while plan.batch_rows > 1 and plan.memory_bytes > 0.5 * machine.memory_bytes:
        plan = replace(plan, batch_rows=plan.batch_rows // 2, accumulation=plan.accumulation * 2)
    return plan


def in_millions(number: float) -> str:
    """Return a number in millions, small ones with more digits.

    >>> in_millions(13_640_000), in_millions(240_000), in_millions(24_000)
    ('13.6', '0.24', '0.024')
    """
    return f"{number / 1e6:,.1f}" if number >= 1e6 else f"{number / 1e6:.2g}"


def describe_plan(plan: Plan, machine: Machine, minutes: float, gone_seconds: float) -> str:
    """Return a plan as a table."""
    shape, flops = plan.shape, plan.tokens * plan.shape.token_flops
    rate, passes = flops / max(plan.train_seconds, 1e-9) / 1e9, plan.accumulation * plan.processes
    end = f"at {minutes:g} min"
    if plan.tokens >= 0.99 * plan.max_epochs * plan.unique_tokens:
        end = f"early, after the {plan.max_epochs:g} epochs that a text is worth"
    rows = {
        "machine": f"{machine.device}, {machine.peak_flops / 1e9:,.0f} GFLOP/s in {machine.dtype} matrix products",
        "model": f"{shape.parameters / 1e6:.1f} M parameters, width {shape.width}, {shape.layers} layers",
        "vocabulary": f"{shape.vocab_size:,} tokens",
        "step": f"{f'{passes} times ' if passes > 1 else ''}{plan.batch_rows} row{'s' * (plan.batch_rows > 1)} of "
        f"{plan.row_tokens} tokens = {plan.step_tokens:,} tokens",
        "tokens": f"{in_millions(plan.tokens)} M in about {plan.steps:,} steps",
        "epochs": f"{plan.tokens / plan.unique_tokens:.1f} of {in_millions(plan.unique_tokens)} M tokens of text",
        "compute": f"{flops:.2g} FLOPs at {rate:,.0f} GFLOP/s",
        "memory": f"{plan.memory_bytes / 1e9:.1f} GB of {machine.memory_bytes / 1e9:.0f} GB free",
        "disk": f"{plan.disk_bytes / 1e9:.2f} GB of {machine.disk_bytes / 1e9:.0f} GB free",
        "end": f"{end}, of which {gone_seconds:.0f} s are gone",
    }
    return "\n".join(["plan:", *(f"  {name:<11} {value}" for name, value in rows.items())])
