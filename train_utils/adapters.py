"""Low-rank adapters beside the weights of a model, and trained rows for tokens that are new to it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from errors import InputError, first_line
from files import whole
from model_utils.checkpoint import load_model
from model_utils.families import family_of
from model_utils.shapes import find_embedding, find_head, resize_vocabulary


def add_adapters(
    model: PreTrainedModel, rank: int, alpha: int, targets: str, *, new_ids: list[int] | None = None
) -> PeftModel:
    """Put a low-rank adapter beside the chosen linear layers (Hu et al. 2021) and freeze the rest.

    Args:
        rank: r of the adapters. alpha: their scale is alpha / r. targets: modules by name, comma-separated.
        new_ids: tokens whose rows of embedding and head are trained whole, since nobody trained them before.
    Raises InputError where a target can't be adapted.
    """
    modules = targets if targets == "all-linear" else targets.split(",")
    check_targets(model, modules, targets)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()][: 1 if is_tied(model) else 2]
    rows = {name_module(model, end): new_ids for end in ends} if new_ids else None
    check_new_rows(model, list(rows or {}))
    # peft leaves out the head of "all-linear" by its last name alone, and T5Gemma's has two; tied, it has no adapter.
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=modules,
        exclude_modules=[head] if modules == "all-linear" else None,
        task_type=family_of(model.config).task,
        trainable_token_indices=rows,
    )
    try:
        return get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise InputError(f"--lora_targets {targets}: {first_line(error)}") from error


def check_targets(model: PreTrainedModel, modules: str | list[str], targets: str) -> None:
    """Raise InputError where a target is no module, none that takes an adapter, or tied to another one."""
    place = f"--lora_targets {targets}"
    if isinstance(modules, str):
        return
    for wanted in modules:
        found = [module for name, module in model.named_modules() if name == wanted or name.endswith(f".{wanted}")]
        if not found:
            kinds = {name.rpartition(".")[2] for name, part in model.named_modules() if is_adaptable(part)}
            raise InputError(f"{place}: {wanted} is no module of it; there are {', '.join(sorted(kinds))}")
        if not all(map(is_adaptable, found)):
            raise InputError(f"{place}: {wanted} is a {type(found[0]).__name__}, which takes no adapter")
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        if is_tied(model) and any(module in ends for module in found):
            raise InputError(
                f"{place}: {wanted} is tied to the model's other end (tie_word_embeddings), so that an adapter on it "
                "would change both; leave it out"
            )


def check_new_rows(model: PreTrainedModel, names: list[str]) -> None:
    """Raise InputError where modules whose new rows are to be learned share a matrix: merged, one would replace all.

    So it is in T5Gemma2, and in two models that EncoderDecoderModel joins.
    """
    found = [
        module.weight
        for name, module in model.named_modules()
        if any(f".{name}".endswith(f".{wanted}") for wanted in names)
    ]
    if len(set(found)) < len(found):
        kind = model.config.model_type
        raise InputError(f"--lora true: halves of a {kind} model share the rows of new tokens; leave it out")


def is_adaptable(module: nn.Module) -> bool:
    """Tell whether an adapter can stand beside a module: a linear layer, GPT-2's transposed one, an embedding."""
    return isinstance(module, nn.Linear | nn.Embedding) or type(module).__name__ == "Conv1D"


def is_tied(model: PreTrainedModel) -> bool:
    """Tell whether embedding and head are one matrix."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def name_module(model: PreTrainedModel, wanted: nn.Module) -> str:
    """Return the last part of a module's name, which its like in another half has too; all of it where others have it.

    The head of a BERT that decodes is called `decoder`, as that half itself.
    """
    whole = next(name for name, module in model.named_modules() if module is wanted)
    last = whole.rpartition(".")[2]
    alike = [module for name, module in model.named_modules() if name.rpartition(".")[2] == last]
    return last if all(map(is_adaptable, alike)) else whole


def four_bits(compute_type: torch.dtype) -> BitsAndBytesConfig:
    """Return how a base is held in 4 bits beside its adapters: NF4, scales in 8 bits (QLoRA, Dettmers et al. 2023).

    Raises InputError where bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise InputError("--load_in_4bit needs bitsandbytes: pip install -r requirements/qlora.txt")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_type,
    )


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write a model's adapter to a folder, whole."""
    with whole(folder) as aside:
        # Rows of new tokens stand in the adapter itself; by itself peft would write the whole embedding too.
        model.save_pretrained(str(aside), save_embedding_layers=False)


def load_unquantized(model: PeftModel, folder: Path) -> PeftModel:
    """Return the adapter of a folder upon its base in float32, which a model holds in 4 bits."""
    base: Any = model.get_base_model()
    plain, rows = load_model(base.name_or_path), len(base.get_input_embeddings().weight)
    if rows > find_embedding(plain).num_embeddings:
        resize_vocabulary(plain, rows)  # of added tokens, whose rows stand in the adapter
    return PeftModel.from_pretrained(plain, str(folder))


def merge_adapter(model: PeftModel, folder: Path) -> PreTrainedModel:
    """Return a model with its adapter, which is saved in a folder, merged into its weights, in the type they have.

    A base in 4 bits is loaded as it was, so that the merged model is in float32 and loses nothing to them.
    """
    if getattr(model.get_base_model(), "is_loaded_in_4bit", False):
        model = load_unquantized(model, folder)
    was_tied = getattr(model.config, "tie_word_embeddings", False)
    merged = model.merge_and_unload()
    # peft says untied where the head is not the input embedding: T5Gemma's is its decoder's, and stays tied to that.
    tables = [module.weight for module in merged.modules() if isinstance(module, nn.Embedding)]
    if any(find_head(merged).weight is table for table in tables):
        merged.config.tie_word_embeddings = was_tied
    return merged
