"""Makes a model's training steps fast: compiled layers, block attention, a loss that never holds all logits.

Whether layers are compiled is decided once for a run, by the seconds that it costs and saves.
"""

import shutil
from collections.abc import Callable
from functools import wraps

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from data_utils.dialogue.format import IGNORE_LABEL
from errors import first_line, say_note
from model_utils.families import family_of
from model_utils.shapes import evaluating, find_embedding
from train_utils.steps.attention import use_block_attention

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


# Logits of a micro-batch that are kept; larger ones are computed by chunks: slower than the compiled loss (1.5 times at
# 32,768 tokens of vocabulary on two cores), with a quarter of its memory.
LOGITS_BYTES = 2**30
# From so many tokens of vocabulary on the head is much of a small model's work, and is done for what carries a label
# alone, where that is less than FEW_LABELS of all: in dialogues it is half. Else one compiled shape of all is faster.
LARGE_VOCABULARY = 16_384
FEW_LABELS = 0.8


def head_loss(
    inputs: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, num_items_in_batch: torch.Tensor | None
) -> torch.Tensor:
    """Return the cross-entropy of hidden states (N, D) with a head (V, D) against the next tokens' ids (N)."""
    return logits_loss(F.linear(inputs, weight), targets, num_items_in_batch)


def logits_loss(logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None) -> torch.Tensor:
    """Return the cross-entropy of logits (..., V) against labels (...), over all labels of an optimizer step."""
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction=reduction)
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def chunked_head_loss(
    inputs: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, num_items_in_batch: torch.Tensor | None
) -> torch.Tensor:
    """Return what `head_loss` does without ever holding all logits."""
    device = inputs.device.type
    if torch.is_autocast_enabled(device):
        inputs, weight = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (inputs, weight))
    reduction, options = "mean" if num_items_in_batch is None else "sum", torch.nn.LinearCrossEntropyOptions()
    loss = F.linear_cross_entropy(inputs, weight, targets, reduction=reduction, options=options).float()
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def pair_with_next(hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return hidden states (N, D) and the label that follows each (N), of (B, T, D) and (B, T)."""
    return hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten().long()


def make_fast(model: PreTrainedModel, compiled_rows: int | None = None) -> None:
    """Make training steps of a model fast, in place: no logits are returned, and its layers are compiled if asked.

    Only training is touched: evaluation and generation run the model as it is. The layers are compiled one by one (they
    share one compilation, seconds instead of a minute for the whole) and attend by blocks on a CPU; and so is the head
    with its loss, where the logits, the largest tensor, are held once; above LOGITS_BYTES they never are. A model whose
    loss differs from the plain head's keeps its own forward.

    Compiled are batches of `compiled_rows` rows. Others run plain, as the last of an epoch often does: to compile for
    its rows too would take half a minute, for one step. For as many rows plain ones need more memory.
    """
    compiler = Compiler()
    compile_layers(model, compiler, compiled_rows)
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or not has_plain_head(model):  # an adapter is no plain head
        return
    original = model.forward
    compiled_loss = compiler.compile(head_loss) if compiled_rows else None

    @wraps(original)
    def forward(input_ids=None, labels=None, position_ids=None, num_items_in_batch=None, **kwargs):
        if not model.training or labels is None:
            if num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            return original(input_ids=input_ids, labels=labels, position_ids=position_ids, **kwargs)
        hidden = model.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **kwargs)[0]
        inputs, targets = pair_with_next(hidden, labels)
        loss_function = compiled_loss if len(labels) == compiled_rows else head_loss
        labelled = targets != IGNORE_LABEL
        if len(head.weight) >= LARGE_VOCABULARY and labelled.float().mean() < FEW_LABELS:
            inputs, targets, loss_function = inputs[labelled], targets[labelled], head_loss
        is_large = 4 * len(targets) * len(head.weight) > LOGITS_BYTES
        find_loss = chunked_head_loss if is_large else loss_function
        return CausalLMOutput(loss=find_loss(inputs, head.weight, targets, num_items_in_batch))

    model.forward = forward


def compile_layers(model: PreTrainedModel, compiler: Compiler, compiled_rows: int | None) -> None:
    """Compile a model's layers for training batches of so many rows, in place; not at all for None."""
    if compiled_rows:
        use_block_attention(model)
        for layer in decoder_layers(model):
            layer.forward = only_for_rows(layer, compiler.compile(layer.forward), compiled_rows)


def only_for_rows(module: nn.Module, compiled, rows: int):
    """Return a layer's forward that is compiled in training on hidden states of so many rows, and plain otherwise."""
    plain = module.forward

    @wraps(plain)
    def forward(hidden_states, *args, **kwargs):
        chosen = compiled if module.training and len(hidden_states) == rows else plain
        return chosen(hidden_states, *args, **kwargs)

    return forward


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the stack of layers: the longest list of modules."""
    return max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len, default=nn.ModuleList())


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Tell by a trial whether the model's logits are its last hidden states times the head (no cap, no scale)."""
    device = find_embedding(model).weight.device
    ids = torch.arange(8, device=device).remainder(model.config.vocab_size)[None]
    weight = model.get_output_embeddings().weight
    kept = weight.clone()
    weight.mul_(100)  # so that a cap on the logits shows
    given = dict.fromkeys(family_of(model.config).inputs, ids)
    with evaluating(model):
        found = F.linear(model.base_model(**given, use_cache=False)[0], weight)
        expected = model(**given, use_cache=False).logits
    weight.copy_(kept)
    return torch.allclose(found, expected, atol=1e-3, rtol=1e-4)
