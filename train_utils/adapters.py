"""Low-rank adapters beside the weights of a model."""

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from errors import InputError, first_line


def add_adapters(model: PreTrainedModel, rank: int, alpha: int, targets: str) -> PeftModel:
    """Put a low-rank adapter beside the chosen linear layers (Hu et al. 2021) and freeze the rest.

    Args:
        rank: r of the adapters. alpha: their scale is alpha / r. targets: modules by name, comma-separated.
    """
    modules = targets if targets == "all-linear" else targets.split(",")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, task_type="CAUSAL_LM")
    try:
        return get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise InputError(f"--lora_targets {targets}: {first_line(error)}") from error
