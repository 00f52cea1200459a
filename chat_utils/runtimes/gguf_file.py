"""The GGUF file that `--engine llama.cpp` answers by: made and verified once for each version of a checkpoint."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import xxhash
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chat_utils.runtimes.llama_cpp import LlamaModel
from data_utils.dialogue.format import stop_token_id
from data_utils.readers.files import file_version
from errors import InputError
from eval_utils.agreement import check_tokens, compare_replies
from model_utils.gguf_writer import write_gguf
from model_utils.llama_library import load_library


def find_gguf(
    checkpoint: Path, load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]], quantize: str = "q8_0"
) -> Path:
    """Return a checkpoint's verified GGUF file in its folder gguf/; made first where there is none of these weights.

    Args:
        load: returns the model and its tokenizer; called where the file is made.
    """
    load_library()
    names = ("*.safetensors", "tokenizer*", "chat_template.jinja", "config.json")
    parts = [part for name in names for part in sorted(checkpoint.glob(name))]
    version = xxhash.xxh64(" ".join(file_version(part) for part in parts).encode()).hexdigest()
    folder = checkpoint / "gguf"
    file = folder / f"{quantize}-{version}.gguf"
    if file.is_file():
        return file
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise InputError("the package gguf is not installed: pip install -r requirements/export.txt") from error
    model, tokenizer = load()
    folder.mkdir(exist_ok=True)
    partial = folder / f".{os.getpid()}.gguf"
    try:
        for kind in ("f32", quantize):
            write_gguf(model, tokenizer, stop_token_id(tokenizer), partial, kind)
            runtime = LlamaModel(partial, exact=kind == "f32")
            check_tokens(runtime, tokenizer)
            agreement = compare_replies(runtime, model, tokenizer, exact=kind == "f32")
            runtime.close()
        for old in folder.glob(f"{quantize}-*.gguf"):
            old.unlink()
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    print(f"note: {file} is made and verified: {agreement}", file=sys.stderr)
    return file
