"""Makes and verifies the GGUF file that `--engine llama.cpp` answers by, once for each version of a checkpoint."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import xxhash
from huggingface_hub.constants import HF_HOME
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chat_utils.runtimes.llama_cpp import LlamaModel
from data_utils.dialogue.format import stop_token_id
from data_utils.readers.files import file_version
from errors import InputError
from eval_utils.agreement import compare_replies
from files import whole
from model_utils.gguf_writer import write_gguf
from model_utils.llama_library import load_library
from model_utils.same_tokens import check_tokens


def find_gguf(
    checkpoint: Path, load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]], quantize: str = "q8_0"
) -> Path:
    """Return a checkpoint's verified GGUF file in this user's cache; made first where there is none of these weights.

    None is taken from the checkpoint's own folder: whoever made that could have put any file there.

    Args:
        load: returns the model and its tokenizer; called where the file is made.
    """
    load_library()
    names = ("*.safetensors", "tokenizer*", "chat_template.jinja", "config.json")
    parts = [part for name in names for part in sorted(checkpoint.glob(name))]
    version = xxhash.xxh64(" ".join(file_version(part) for part in parts).encode()).hexdigest()
    place = checkpoint.resolve()
    folder = Path(HF_HOME) / "gguf" / f"{place.name}-{xxhash.xxh64(os.fsencode(place)).hexdigest()}"
    file = folder / f"{quantize}-{version}.gguf"
    if file.is_file():
        return file
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise InputError("the package gguf is not installed: pip install -r requirements/export.txt") from error
    model, tokenizer = load()
    with whole(file) as partial:
        for kind in ("f32", quantize):
            write_gguf(model, tokenizer, stop_token_id(tokenizer), partial, kind)
            runtime = LlamaModel(partial, exact=kind == "f32")
            check_tokens(runtime, tokenizer)
            agreement = compare_replies(runtime, model, tokenizer, exact=kind == "f32")
            runtime.close()
        for old in folder.glob(f"{quantize}-*.gguf"):
            old.unlink()
    print(f"note: {file} is made and verified: {agreement}", file=sys.stderr)
    return file
