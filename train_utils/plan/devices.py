"""Plans a run on devices that need not be here: memory by parts, largest batch, speed, days and energy, and how by.

Assumed, and said in docs/devices.md: training reaches `peak_share` of the peak while no link is waited for; what is
sent overlaps what is computed, so that a step takes the longer of the two.
"""

from bisect import bisect
from dataclasses import dataclass
from typing import Any

from model_utils.shapes import count_parameters, flops_per_token, hidden_matrices
from train_utils.device_options import DeviceOptions
from train_utils.plan.rule import muon_flops
from train_utils.steps.fast_model import LOGITS_BYTES, decoder_layers
from train_utils.steps.muon import CHUNK_ELEMENTS

USABLE = 0.92  # of a device's memory: the rest is its context, the libraries' own and what is cut to pieces
STRATEGIES = ("DDP", "FSDP2", "ZeRO-3")
MASTER_BYTES = 4  # of a weight, of its gradient, of each moment


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a model's memory and time depend on; `matrices` are the parameters that Muon trains.

    `layer` and `ends` are parameters that are gathered at once: a layer's (where there are two halves, of each half),
    and those of embedding, head and last norm.
    `activation_elements` are kept of a token for the backward pass.
    """

    parameters: int
    matrices: int
    layer: int
    ends: int
    layers: int
    width: int
    vocab_size: int
    row_tokens: int
    activation_elements: int
    token_flops: float
    muon_flops: float
    compute_bytes: int = 2
    checkpointed: bool = False


@dataclass(frozen=True, kw_only=True)
class DevicePlan:
    """A run by one strategy on so many devices: bytes of a device by parts, rows of its micro-batch, seconds a step."""

    strategy: str
    devices: int
    parts: dict[str, float]
    rows: int
    compute_seconds: float
    link_seconds: float
    tokens_per_second: float
    peak_share: float


def measure_model(
    model: Any, row_tokens: int, *, muon: bool = True, checkpointed: bool = False, compute_bytes: int = 2
) -> Sizes:
    """Return the sizes of a model, which may be on the meta device, in bf16 (2 bytes) or fp32 (4)."""
    # A model without an encoder returns itself as one. A token passes the layers of its half alone.
    stacks = {id(stack): stack for stack in map(decoder_layers, (model.get_encoder(), model.get_decoder()))}
    layers = max(map(len, stacks.values()))
    layer = sum(map(count_parameters, stacks.values())) // layers
    matrices = hidden_matrices(model) if muon else []
    config = model.config.get_text_config(decoder=True)
    width = config.hidden_size
    inner_width = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    parameters = count_parameters(model)
    return Sizes(
        parameters=parameters,
        matrices=sum(p.numel() for p in matrices),
        layer=layer,
        ends=parameters - layer * layers,
        layers=layers,
        width=width,
        vocab_size=config.vocab_size,
        row_tokens=row_tokens,
        # 75 bytes a dimension where the inner width is three times the width, in fp32 (plan/rule.py): 7 D + 4 F.
        activation_elements=7 * width + 4 * inner_width,
        token_flops=flops_per_token(model, row_tokens),
        muon_flops=sum(muon_flops(*p.shape) for p in matrices),
        compute_bytes=compute_bytes,
        checkpointed=checkpointed,
    )


def state_bytes(sizes: Sizes, strategy: str, devices: int) -> dict[str, float]:
    """Return the bytes of a device for what stays from step to step, and for what is gathered and worked on."""
    n, share = sizes.parameters, 1 if strategy == "DDP" else devices
    moments = MASTER_BYTES * (2 * n - sizes.matrices)
    work = 6 * MASTER_BYTES * min(sizes.matrices, max(CHUNK_ELEMENTS, sizes.layer // 4))
    parts = {"weights": MASTER_BYTES * n / share, "gradients": MASTER_BYTES * n / share, "optimizer": moments / share}
    if strategy == "DDP":
        # A bucket holds each gradient again; autocast keeps the weights in bf16 until the pass ends.
        copies = MASTER_BYTES * n * (devices > 1) + (2 * n if sizes.compute_bytes == 2 else 0)
        return parts | {"copies": copies, "optimizer's work": work}
    if strategy == "ZeRO-3":  # Rajbhandari et al. 2020: 2 + 2 + 12 bytes a parameter with Adam, sharded
        parts = {"weights": 6 * n / share, "gradients": 2 * n / share, "optimizer": 8 * n / share}
        work = 0
    # Two layers are there at once, and the ends all the while; each with its gradient before that is given away.
    gathered = 2 * sizes.compute_bytes * (2 * sizes.layer + sizes.ends) if devices > 1 else 0
    return parts | {"copies": gathered, "optimizer's work": work}


def row_bytes(sizes: Sizes, rows: int) -> dict[str, float]:
    """Return the bytes of activations and logits of so many rows on a device."""
    tokens = rows * sizes.row_tokens
    layer = sizes.compute_bytes * sizes.activation_elements
    kept = layer * sizes.layers
    if sizes.checkpointed:  # a layer's input, and one layer whole
        kept = sizes.compute_bytes * sizes.width * sizes.layers + layer
    is_large = 4 * tokens * sizes.vocab_size > LOGITS_BYTES  # then computed by chunks (steps/fast_model.py)
    return {"activations": tokens * kept, "logits": tokens * sizes.vocab_size * (6 if is_large else 24)}


def plan_strategy(sizes: Sizes, options: DeviceOptions, strategy: str, devices: int) -> DevicePlan:
    """Return the plan by one strategy; of no rows where it does not fit."""
    state, room = state_bytes(sizes, strategy, devices), USABLE * options.memory_bytes

    def needed(rows: int) -> float:
        return sum(state.values()) + sum(row_bytes(sizes, rows).values())

    rows = bisect(range(1, 2**14), room, key=needed)
    n, tokens = sizes.parameters, max(rows, 1) * sizes.row_tokens
    reached = options.device_tflops * 1e12 * options.peak_share
    muon_share = devices if strategy == "FSDP2" else 1
    compute = tokens * sizes.token_flops * (4 / 3 if sizes.checkpointed else 1) / reached
    compute += sizes.muon_flops / muon_share / reached
    # Sent by a device: DDP's ring sends each gradient twice; sharded weights are gathered for each pass, and their
    # gradients given away once; Muon's matrices go to whoever updates them and back (Rajbhandari et al. 2020, 7).
    others = (devices - 1) / devices
    sent = 2 * MASTER_BYTES * n if strategy == "DDP" else 3 * sizes.compute_bytes * n
    sent += 2 * sizes.compute_bytes * sizes.matrices / devices if strategy == "FSDP2" else 0
    link = sent * others / (options.link_gb_per_second * 1e9)
    rate = tokens * devices / max(compute, link)
    return DevicePlan(
        strategy=strategy,
        devices=devices,
        parts=state | row_bytes(sizes, rows),
        rows=rows,
        compute_seconds=compute,
        link_seconds=link,
        tokens_per_second=rate if rows else 0.0,
        peak_share=rate * sizes.token_flops / (devices * options.device_tflops * 1e12) if rows else 0.0,
    )


def describe_devices(sizes: Sizes, options: DeviceOptions) -> str:
    """Return the plan as text: each strategy on the devices asked for, then FSDP2 and DDP on 1 to 1,024."""
    muon = sizes.matrices > 0
    tokens = options.plan_tokens or 20 * sizes.parameters
    ways = [way for way in STRATEGIES if not (muon and way == "ZeRO-3")]
    plans = [plan_strategy(sizes, options, way, options.count) for way in ways]
    names = list(plans[0].parts)
    lines = [
        f"{sizes.parameters / 1e6:,.1f} M parameters, rows of {sizes.row_tokens} tokens, {tokens / 1e9:,.2f} B tokens, "
        f"on {options.devices}: {options.device_tflops:g} TFLOP/s, of which training reaches {options.peak_share:.0%}; "
        f"{options.link_gb_per_second:g} GB/s between devices; {options.device_watts:g} W each",
        *([] if not muon else ["ZeRO-3 has no whole matrices for Muon: --optim adamw shows it"]),
        "",
        "| GB of a device | " + " | ".join(ways) + " |",
        "| --- " * (1 + len(ways)) + "|",
        *(f"| {name} | " + " | ".join(f"{plan.parts[name] / 1e9:.2f}" for plan in plans) + " |" for name in names),
        "| all | " + " | ".join(f"{sum(plan.parts.values()) / 1e9:.2f}" for plan in plans) + " |",
        "",
        "| by | devices | rows a device | tokens a step | tokens a second | of the peak | link/compute | days | MWh |",
        "| --- " * 9 + "|",
    ]
    scales = [2**power for power in range(11) if 2**power != options.count]
    more = [plan_strategy(sizes, options, way, count) for way in ("FSDP2", "DDP") for count in scales]
    return "\n".join([*lines, *(describe_row(plan, sizes, options, tokens) for plan in [*plans, *more])])


def describe_row(plan: DevicePlan, sizes: Sizes, options: DeviceOptions, tokens: float) -> str:
    """Return a plan's row of the table."""
    start = f"| {plan.strategy} | {plan.devices:,} | "
    if not plan.rows:
        return start + f"does not fit: {sum(plan.parts.values()) / 1e9:,.0f} GB before the first row |" + " |" * 6
    days = tokens / plan.tokens_per_second / 86400
    step = plan.rows * sizes.row_tokens * plan.devices
    energy = days * 24 * plan.devices * options.device_watts / 1e6
    return start + (
        f"{plan.rows} | {step:,} | {plan.tokens_per_second:,.0f} | {plan.peak_share:.0%} | "
        f"{plan.link_seconds / plan.compute_seconds:.2f} | {days:,.2f} | {energy:,.3f} |"
    )
