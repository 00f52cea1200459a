"""The one place where a checkpoint is opened and saved: weights, config, tokenizer, template, generation settings.

A checkpoint is named by its folder, a GGUF file (imported once), a base that comes by pip, or a name of the hub.
Nothing of it is ever run as code: `trust_remote_code` is False, and standard input is not asked.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from errors import InputError, coded, explained, say_note
from files import move_content, remove
from model_utils.families import family_of, start_token_id
from model_utils.finding import TOKENIZER_FILES, find_checkpoint
from model_utils.shapes import count_parameters, find_embedding, find_head, open_config, resize_vocabulary
from model_utils.tokenizer import add_chat_tokens, save_tokenizer

PACKED_PARAMETERS = 8  # in a byte at most


@contextlib.contextmanager
def hide_progress() -> Generator[None]:
    """Keep transformers' progress bars and its lists of names, of any length, out of what is said of a checkpoint."""
    was_enabled, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if was_enabled:
            logging.enable_progress_bar()


def load_model(
    path: str, dtype: str | torch.dtype = torch.float32, quantization: QuantizationConfigMixin | None = None
) -> PreTrainedModel:
    """Load a language model from a checkpoint, by default in float32; InputError where it is none or is cut short."""
    place = find_checkpoint(path)
    with explained(path, "no model can be loaded from it"), hide_progress():
        config = open_config(place, path)
        check_parameters(config, Path(place), path)
        model, loading = family_of(config).auto.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            quantization_config=quantization,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # told below
            trust_remote_code=False,
            output_loading_info=True,
        )
    for what, keys in (("missing from it", loading["missing_keys"]), ("of another shape", loading["mismatched_keys"])):
        if keys:
            first, *others = sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)
            raise InputError(f"{path}: weights are {what}: {first}{f' and {len(others)} more' if others else ''}")
    if unused := loading["unexpected_keys"]:
        say_note(f"{path}: {len(unused):,} weights are none of its model's and left out, {min(unused)} first")
    if family_of(config).task == "CAUSAL_LM" and find_head(model).weight is not find_embedding(model).weight:
        # Its config may say that they are one, and new rows would make them so; the head of the file would be lost.
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    return model


def check_parameters(config: PretrainedConfig, folder: Path, place: str) -> None:
    """Raise InputError where a config asks for far more parameters than a folder's files can hold.

    Weights that are missing are made and filled before that is told: of a stranger's kilobytes, all memory.
    """
    held = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    with torch.device("meta"):
        asked = count_parameters(family_of(config).auto.from_config(config, trust_remote_code=False)) if held else 0
    if asked > PACKED_PARAMETERS * held:
        sizes = f"its config asks for {asked:,} parameters, its files have {held:,} bytes"
        raise InputError(f"{place}: {sizes}: one is cut off, or they don't belong together")


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer; raise InputError where there is none or where it has no end token."""
    place = find_checkpoint(path, weights=False)
    if Path(place).is_dir() and not any(file for name in TOKENIZER_FILES for file in Path(place).glob(name)):
        raise InputError(f"{path}: holds no tokenizer (tokenizer.json is missing); get that file too")
    with explained(path, "no tokenizer can be loaded from its tokenizer.json, tokenizer_config.json and config.json"):
        tokenizer: Any = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: the tokenizer has no end token (eos_token), which ends every document")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_stop_ids(path: str) -> set[int]:
    """Return the tokens that a checkpoint's generation settings end a text at; none where it has no such settings."""
    try:
        found = GenerationConfig.from_pretrained(find_checkpoint(path, weights=False)).eos_token_id
    except (OSError, ValueError, TypeError):
        return set()
    return {token for token in (found if isinstance(found, list) else [found]) if isinstance(token, int)}


def load_checkpoint(
    path: str, device: str = "cpu", dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint to answer by, with our chat template and its tokens where it has none.

    "auto" is float32 on the CPU, elsewhere the type it was saved in. Raises InputError where it cannot be loaded or
    doesn't fit together.
    """
    find_checkpoint(path)
    tokenizer = load_tokenizer(path)
    model = load_model(path, "float32" if (device, dtype) == ("cpu", "auto") else dtype)
    join_chat_tokens(model, tokenizer, path)
    return model.to(device).eval(), tokenizer


def join_chat_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, place: str) -> list[int]:
    """Give a tokenizer without a chat template ours, and the model rows for its tokens; return the ids of new rows.

    Raises InputError where the tokenizer has ids beforehand that the model has no embedding for.
    """
    check_vocabulary(model, tokenizer, place)
    before = len(tokenizer)
    add_chat_tokens(tokenizer)
    if len(tokenizer) > find_embedding(model).num_embeddings:
        with hide_progress():
            resize_vocabulary(model, len(tokenizer))
    return list(range(before, len(tokenizer)))


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, place: str) -> None:
    """Raise InputError where the tokenizer has ids that the model has no embedding for."""
    rows = find_embedding(model).num_embeddings
    if len(tokenizer) > rows:
        sizes = f"the tokenizer has {len(tokenizer)} tokens, the model {rows}"
        raise coded(InputError(f"{place}: {sizes}: they don't belong together"), "no_match", place)


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output_dir: Path, stop_token_ids: list[int]
) -> None:
    """Write the one checkpoint form: weights, config, tokenizer, chat template, generation settings.

    All is written aside and then moved, the weights last, so that a folder with weights is whole.
    """
    partial = output_dir / ".saving"
    remove(partial)
    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        eos_token_id=stop_token_ids, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=0.7, top_p=0.9,
        **{name: start_token_id(model.config) for name in family_of(model.config).starts},
    )  # fmt: skip
    model.save_pretrained(partial)
    save_tokenizer(tokenizer, partial)
    for path in partial.glob("*.safetensors"):  # which its library writes for this user's eyes alone
        path.chmod((partial / "config.json").stat().st_mode)
    move_content(partial, output_dir)
