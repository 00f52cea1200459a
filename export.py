"""Write a checkpoint in the form that another runtime reads, and prove it there: same tokens, same greedy replies.

    python export.py ckpt_chat/ --to gguf                       # llama.cpp, LM Studio, Ollama (with its Modelfile)
    python export.py ckpt_chat/ --to gguf --quantize q4_k_m     # a phone-sized file
    python export.py ckpt_chat/ --to ctranslate2 --quantize int8
    python export.py ckpt_chat/ --to onnx                       # ONNX Runtime
    python export.py ckpt_chat/ --to peft                       # the adapter of a run with --lora true
    HF_HUB_OFFLINE=0 python export.py ckpt_chat/ --push me/my-chat   # upload it (with --to: what was exported)

In full precision each greedy token must be the checkpoint's, but at ties (it leads the next by 0.01 logits at most),
which are counted, a quarter of all tokens at most; of smaller types the share of equal tokens is stated, at least half.

Each needs: pip install -r requirements/export.txt
"""

import argparse
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from fnmatch import fnmatch
from glob import escape
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched unless the user says so

from environment import begin_script
from errors import InputError, first_line, run_script

if __name__ == "__main__":  # what follows takes seconds to import
    begin_script()

from huggingface_hub.constants import ENV_VARS_TRUE_VALUES
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from chat_utils.engine import load_checkpoint
from chat_utils.runtimes.llama_cpp import LlamaModel
from chat_utils.sampling import Sampling
from data_utils.dialogue.format import stop_token_id
from eval_utils.agreement import check_tokens, compare_replies
from export_utils import adapter, ctranslate2, onnx
from export_utils.ollama import make_modelfile
from files import whole
from model_utils import gguf_writer as gguf
from options import format_command, refuse_useless
from train_utils.checkpoint import weights_version

# What each form is called by: its types from whole to small, the type that is taken where none is named, its packages.
FORMS = {
    "gguf": (tuple(gguf.FILE_TYPES), "q8_0", ("gguf", "llama_cpp")),
    "ctranslate2": (ctranslate2.FILE_TYPES, "int8", ("ctranslate2",)),
    "onnx": (onnx.FILE_TYPES, "float32", ("onnx", "onnxscript", "onnxruntime")),
    "peft": (("float32",), "float32", ("peft",)),
}
WORD_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
RECORD_FILE = "export.json"  # what a folder was exported from; only a folder that has it is replaced


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """Return the options, checked against each other and against what is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: (_ for _ in ()).throw(InputError(f"command line: {message}; see --help"))
    parser.add_argument("checkpoint", help="folder of a checkpoint, as train.py and finetune_dialogue.py write it")
    parser.add_argument("--to", choices=FORMS, help="form to write (none: only --push)")
    types = "; ".join(f"{form}: {', '.join(types)} ({default})" for form, (types, default, _) in FORMS.items())
    parser.add_argument("--quantize", metavar="TYPE", help=f"type of the weights, the default in brackets. {types}")
    parser.add_argument("--output", help="folder to write (the checkpoint's name and the form: ckpt_chat-gguf)")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload to this repository of the Hugging Face hub (none)")
    options = parser.parse_args(argv)
    if not options.to and not options.push:
        raise InputError(f"command line: name a form: --to {', '.join(FORMS)}")
    if not options.to:
        given = {name for name, value in vars(options).items() if value}
        refuse_useless(given, {"quantize", "output"}, "without --to")
    else:
        types, default, packages = FORMS[options.to]
        options.quantize = options.quantize or default
        if options.quantize not in types:
            raise InputError(f"command line: --quantize {options.quantize}: {options.to} has {', '.join(types)}")
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(f"--to {options.to} needs {missing[0]}: pip install -r requirements/export.txt")
    if options.push and os.environ["HF_HUB_OFFLINE"].upper() in ENV_VARS_TRUE_VALUES:
        raise InputError("--push uploads to the hub; allow it by HF_HUB_OFFLINE=0 before the command")
    options.checkpoint = Path(options.checkpoint)
    options.output = Path(options.output or f"{options.checkpoint.resolve().name}-{options.to}")
    return options


def check_replaceable(output: Path) -> None:
    """Raise InputError where something else than an export, or something beside it, would be lost."""
    if Path.cwd().is_relative_to(output.resolve()):
        raise InputError(f"--output {output}: the folder of this command or one around it; name a new one")
    if not output.exists():
        return
    try:
        written = {RECORD_FILE, *json.loads((output / RECORD_FILE).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, LookupError, TypeError):  # no record, or none of ours
        written = set()
    others = set(list_files(output)) - written if output.is_dir() else {output.name}
    if others:
        raise InputError(
            f"{output}: holds {min(others)}, which no export is known to have written; name a new --output"
        )


def list_files(folder: Path) -> list[str]:
    """Return the files of a folder and of those in it, by their paths there."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def copy_words(checkpoint: Path, folder: Path) -> None:
    """Copy what a model speaks by: tokenizer, chat template, generation settings with the stop token."""
    for name in WORD_FILES:
        if (checkpoint / name).is_file():
            shutil.copy(checkpoint / name, folder)


def make_writer(options: argparse.Namespace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Callable:
    """Return a function (folder, type of weights) that writes the form there and opens it in its runtime."""
    stop_id = stop_token_id(tokenizer)
    name, window = options.checkpoint.resolve().name, model.config.max_position_embeddings

    def write_gguf(folder: Path, quantize: str):
        folder.mkdir()
        file = folder / f"{name}-{quantize}.gguf"
        gguf.write_gguf(model, tokenizer, stop_id, file, quantize)
        modelfile = make_modelfile(
            tokenizer, {stop_id, tokenizer.eos_token_id} - {None}, window, asdict(Sampling()), file.name
        )
        (folder / "Modelfile").write_text(modelfile, encoding="utf-8")
        return LlamaModel(file, exact=quantize == "f32")

    def write_ctranslate2(folder: Path, quantize: str):
        stop = tokenizer.convert_ids_to_tokens(stop_id)
        ctranslate2.write_ctranslate2(options.checkpoint, stop, folder, quantize)
        copy_words(options.checkpoint, folder)
        return ctranslate2.CTranslate2Model(folder)

    def write_onnx(folder: Path, quantize: str):
        onnx.write_onnx(model, folder, quantize)
        copy_words(options.checkpoint, folder)
        return onnx.OnnxModel(folder)

    def write_peft(folder: Path, quantize: str):
        adapter.copy_adapter(options.checkpoint, folder)
        copy_words(options.checkpoint, folder)
        return adapter.AdaptedModel(folder)

    return {"gguf": write_gguf, "ctranslate2": write_ctranslate2, "onnx": write_onnx, "peft": write_peft}[options.to]


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    options = parse_options(argv)
    logging.disable_progress_bar()

    # 1. The checkpoint: as whole as its own chat needs it.
    model, tokenizer = load_checkpoint(str(options.checkpoint))
    source = options.checkpoint
    if options.to:
        # 2. Aside: first in full precision, which must agree but at ties, then in the type that is asked for.
        exact, record = FORMS[options.to][0][0], {"checkpoint": source.resolve().name, "form": options.to}
        check_replaceable(options.output)
        with whole(options.output) as partial:
            partial.mkdir()
            writer = make_writer(options, model, tokenizer)
            for quantize in dict.fromkeys((exact, options.quantize)):
                folder = partial / quantize
                runtime = writer(folder, quantize)
                check_tokens(runtime, tokenizer)
                agreement = compare_replies(runtime, model, tokenizer, exact=quantize == exact)
                runtime.close()
                print(f"{options.to} {quantize}: text tokenized alike, {agreement}")
                record[quantize] = str(agreement)
                if quantize != options.quantize:
                    shutil.rmtree(folder)

            # 3. In place, with a record of what it is.
            for path in folder.iterdir():
                path.rename(partial / path.name)
            folder.rmdir()
            record |= {"weights": weights_version(str(source)), "files": list_files(partial)}
            (partial / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        source = options.output
        size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        print(f"{source}/: {size / 1e6:.1f} MB")
        if options.to == "gguf":
            print("next:", format_command("ollama", "create", record["checkpoint"], "-f", source / "Modelfile"))

    # 4. The hub, if asked.
    if options.push:
        push(source, options.push)
    return 0


def list_public(folder: Path) -> list[str]:
    """Return the files that are uploaded of a folder: an export's, or those by which a checkpoint is loaded.

    Not run.yaml and report.md, which hold paths of this machine and held-out text, nor whatever else lies there.
    """
    files = list_files(folder)
    if RECORD_FILE in files:
        return [RECORD_FILE, *json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["files"]]
    names = {"config.json", "model.safetensors.index.json", "README.md", "LICENSE", *WORD_FILES}
    return [name for name in files if name in names or fnmatch(name, "model*.safetensors")]


def push(folder: Path, repository: str) -> None:
    """Upload a model to a repository of the hub, made private where it isn't there yet; say what goes where."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        readers = "private" if api.repo_info(repository).private else "public: everybody can read it"
        files = list_public(folder)
        print(f"{repository} is {readers}; uploading {', '.join(files)}")
        place = api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=[escape(n) for n in files])
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = (
            "; log in with: hf auth login" if status in (401, 403) or isinstance(error, LocalTokenNotFoundError) else ""
        )
        raise InputError(f"--push {repository}: {first_line(error)}{advice}") from error
    print(f"pushed to {place.repo_url if hasattr(place, 'repo_url') else repository}")


if __name__ == "__main__":
    run_script(main)
