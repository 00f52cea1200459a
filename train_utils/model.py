"""A causal language model from a shape or a checkpoint, and the same model made fast to train."""

import json
from functools import wraps
from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import CausalLMOutput

from errors import InputError, first_line
from train_utils.attention import use_block_attention

# Logits of a micro-batch that are kept; larger ones are computed by chunks: slower than the compiled loss (1.5 times at
# 32,768 tokens of vocabulary on two cores), with a quarter of its memory.
LOGITS_BYTES = 2**30
OUTPUT_PROJECTIONS = ("o_proj", "down_proj", "c_proj")
HEAD_SIZE = 64  # of a model that a plan makes


def model_config(width: int) -> dict:
    """Return a width's model as a transformers config: a layer for each head of 64, so that all grows in step.

    >>> model_config(256)["num_hidden_layers"], model_config(1536)["intermediate_size"]
    (4, 4608)
    """
    heads = width // HEAD_SIZE
    return {
        "model_type": "qwen3", "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": heads,
        "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": HEAD_SIZE,
        "max_position_embeddings": 2048, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "initializer_range": 0.02,
    }  # fmt: skip


def build_model(shape: Path | dict, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Build a model with random weights from a shape: a transformers config without the vocabulary, or JSON of one.

    The projections that write into the residual stream start at zero, so that every layer begins as the identity.
    Raises InputError for a file that is no such shape.
    """
    try:
        values = shape if isinstance(shape, dict) else json.loads(shape.read_text(encoding="utf-8"))
        config = AutoConfig.for_model(**values)
    except FileNotFoundError as error:
        known = ", ".join(sorted(str(path) for path in Path(__file__).parents[1].glob("configs/models/*.json")))
        raise InputError(f"{shape}: no such model shape; there are: {known}") from error
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise InputError(f"{shape}: not a model shape: {' '.join(str(error).split())}") from error
    config.vocab_size = len(tokenizer)
    config.eos_token_id = config.bos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    try:
        model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise InputError(f"{shape}: not a model shape: {error}") from error
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith(OUTPUT_PROJECTIONS):
                module.weight.zero_()
    return model


def load_model(path: str) -> PreTrainedModel:
    """Load a causal language model in float32 from a checkpoint; raise InputError where it is none or is cut short."""
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers and safetensors raise many kinds for a broken folder
        raise InputError(f"{path}: no model can be loaded from it: {first_line(error)}") from error
    if loading["missing_keys"]:
        first, *others = sorted(loading["missing_keys"])
        raise InputError(f"{path}: weights are missing from it: {first}{f' and {len(others)} more' if others else ''}")
    return model


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, place: str) -> None:
    """Raise InputError where the tokenizer has ids that the model has no embedding for."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise InputError(
            f"{place}: the tokenizer has {len(tokenizer)} tokens, the model {rows}: they don't belong together"
        )


def check_window(config: PretrainedConfig, row_tokens: int, place: str) -> None:
    """Raise InputError where rows are longer than what the model can see."""
    longest = getattr(config, "max_position_embeddings", None) or row_tokens
    if row_tokens > longest:
        raise InputError(f"{place}: its window is {longest} tokens, shorter than the rows of {row_tokens}")


@torch.no_grad()
def check_packing(model: PreTrainedModel, place: str) -> None:
    """Raise InputError where a model does not heed restarting positions: packed dialogues would see each other."""
    size = model.get_input_embeddings().num_embeddings
    first, second = (torch.arange(n, n + 6).remainder(size)[None] for n in (3, 11))
    positions = torch.cat([torch.arange(6), torch.arange(6)])[None]
    was_training = model.training
    model.eval()
    packed = model(input_ids=torch.cat([first, second], 1), position_ids=positions, use_cache=False).logits[:, 6:]
    alone = model(input_ids=second, use_cache=False).logits
    model.train(was_training)
    if not torch.allclose(packed, alone, atol=1e-3, rtol=1e-3):
        kind = model.config.model_type
        raise InputError(f"{place}: a {kind} model cannot keep packed dialogues apart; use Llama, Qwen, GPT-2 or alike")


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(model: PreTrainedModel, row_tokens: int) -> float:
    """Return the floating-point operations that training needs for a token: 6 N and the attention's.

    N counts every weight that multiplies (the embedding's look-up does not). Source: Kaplan et al. 2020, section 2.1.
    """
    embeddings = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()
    tied = head is not None and id(head.weight) in embeddings
    weights = count_parameters(model) - sum(embeddings.values()) + (head.weight.numel() if tied else 0)
    config = model.config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_size
    return 6 * weights + 6 * config.num_hidden_layers * width * row_tokens  # causal: half of 12 L D T


def head_loss(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None
) -> torch.Tensor:
    """Return the next-token cross-entropy of hidden states (B, T, D) with a head (V, D) against labels (B, T)."""
    logits = F.linear(hidden[:, :-1], weight).flatten(0, 1).float()
    targets = labels[:, 1:].flatten().long()
    if num_items_in_batch is None:
        return F.cross_entropy(logits, targets)
    return F.cross_entropy(logits, targets, reduction="sum") / num_items_in_batch


def chunked_head_loss(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None
) -> torch.Tensor:
    """Return what `head_loss` does without ever holding all logits."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden, weight = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (hidden, weight))
    inputs, targets = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten().long()
    reduction, options = "mean" if num_items_in_batch is None else "sum", torch.nn.LinearCrossEntropyOptions()
    loss = F.linear_cross_entropy(inputs, weight, targets, reduction=reduction, options=options).float()
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def make_fast(model: PreTrainedModel, compiled_rows: int | None = None) -> None:
    """Make training steps of a model fast, in place: no logits are returned, and its layers are compiled if asked.

    Only training is touched: evaluation and generation run the model as it is. The layers are compiled one by one (they
    share one compilation, seconds instead of a minute for the whole) and attend by blocks on a CPU; and so is the head
    with its loss, where the logits, the largest tensor, are held once; above LOGITS_BYTES they never are. A model whose
    loss differs from the plain head's keeps its own forward.

    Compiled are batches of `compiled_rows` rows. Others run plain, as the last of an epoch often does: to compile for
    its rows too would take half a minute, for one step. For as many rows plain ones need more memory.
    """
    if compiled_rows:
        use_block_attention(model)
        for layer in decoder_layers(model):
            layer.forward = only_for_rows(layer, torch.compile(layer.forward), compiled_rows)
    head = model.get_output_embeddings()
    if head is None or head.bias is not None or not has_plain_head(model):
        return
    original = model.forward
    compiled_loss = torch.compile(head_loss) if compiled_rows else None

    @wraps(original)
    def forward(input_ids=None, labels=None, position_ids=None, num_items_in_batch=None, **kwargs):
        if not model.training or labels is None:
            if num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            return original(input_ids=input_ids, labels=labels, position_ids=position_ids, **kwargs)
        hidden = model.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **kwargs)[0]
        is_large = 4 * labels.numel() * len(head.weight) > LOGITS_BYTES
        loss_function = compiled_loss if len(labels) == compiled_rows else head_loss
        find_loss = chunked_head_loss if is_large else loss_function
        return CausalLMOutput(loss=find_loss(hidden, head.weight, labels, num_items_in_batch))

    model.forward = forward


def only_for_rows(module: nn.Module, compiled, rows: int):
    """Return a layer's forward that is compiled in training on hidden states of so many rows, and plain otherwise."""
    plain = module.forward

    @wraps(plain)
    def forward(hidden_states, *args, **kwargs):
        chosen = compiled if module.training and len(hidden_states) == rows else plain
        return chosen(hidden_states, *args, **kwargs)

    return forward


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the stack of layers: the longest list of modules."""
    return max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len, default=nn.ModuleList())


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Tell by a trial whether the model's loss is that of its last hidden states times the head (no cap, no scale)."""
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(8, device=device).remainder(model.config.vocab_size)[None]
    was_training = model.training
    weight = model.get_output_embeddings().weight
    kept = weight.clone()
    model.eval()
    weight.mul_(100)  # so that a cap on the logits shows
    hidden = model.base_model(input_ids=ids, use_cache=False)[0]
    expected = model(input_ids=ids, labels=ids).loss
    found = head_loss(hidden, weight, ids, None)
    weight.copy_(kept)
    model.train(was_training)
    return torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
