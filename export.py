"""Write a checkpoint in the form that another runtime reads, and prove it there: same tokens, same greedy replies.

    python export.py ckpt_chat/ --to gguf                       # llama.cpp, LM Studio, Ollama (with its Modelfile)
    python export.py ckpt_chat/ --to gguf --quantize q4_k_m     # a phone-sized file
    python export.py ckpt_chat/ --to ctranslate2 --quantize int8
    python export.py --model ckpt_chat/ --to onnx               # ONNX Runtime; the checkpoint's name may be left out
    python export.py ckpt_chat/ --to peft                       # the adapter of a run with --lora true
    HF_HUB_OFFLINE=0 python export.py ckpt_chat/ --push me/my-chat   # upload it (with --to: what was exported)

In full precision each greedy token must be the checkpoint's, but at ties (it leads the next by 0.01 logits at most),
which are counted, a quarter of all tokens at most; of smaller types the share of equal tokens is stated, at least half.

Each needs: pip install -r requirements/export.txt
"""

import importlib.util
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environment import begin_script
from errors import run_script
from export_utils.files import RECORD_FILE, check_replaceable, copy_words, list_files, push
from files import whole
from model_utils.finding import check_checkpoint, find_checkpoint
from model_utils.llama_library import FILE_TYPES, check_quantizer
from options import Options, format_command, option, parse_arguments

if TYPE_CHECKING:  # these take seconds to import
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CTRANSLATE2_TYPES = ("float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16")
# What each form is called by: its types from whole to small, the type that is taken where none is named, its packages.
FORMS = {
    "gguf": (tuple(FILE_TYPES), "q8_0", ("gguf",)),
    "ctranslate2": (CTRANSLATE2_TYPES, "int8", ("ctranslate2",)),
    "onnx": (("float32", "int8"), "float32", ("onnx", "onnxscript", "onnxruntime")),
    "peft": (("float32",), "float32", ("peft",)),
}
TYPES = "; ".join(f"{form}: {', '.join(types)} ({default})" for form, (types, default, _) in FORMS.items())


@dataclass
class ExportOptions(Options):
    """What is written, where, and whether it is uploaded."""

    model: str = option("ckpt_chat", "Checkpoint, as train.py and finetune_dialogue.py write it")
    to: str | None = option(None, "Form to write; unset: only --push", choices=tuple(FORMS))
    quantize: str | None = option(None, "Type of the weights; unset: the form's own, in brackets below", needs="--to")
    output_dir: str | None = option(
        None, "Folder to write; unset: by checkpoint and form, as ckpt_chat-gguf", needs="--to"
    )
    push: str | None = option(None, "Upload to this repository of the Hugging Face hub, OWNER/NAME")

    def __post_init__(self) -> None:
        if not self.to and not self.push:
            raise ValueError(f"name a form: --to {', '.join(FORMS)}")
        if self.to and self.quantize and self.quantize not in FORMS[self.to][0]:
            raise ValueError(f"--quantize {self.quantize}: {self.to} has {', '.join(FORMS[self.to][0])}")
        missing = [name for name in FORMS[self.to][2] if importlib.util.find_spec(name) is None] if self.to else []
        if missing:
            raise ValueError(f"--to {self.to} needs {missing[0]}: pip install -r requirements/export.txt")
        if self.to == "gguf":
            check_quantizer(self.quantize or FORMS["gguf"][1])

    def check_typed(self, typed: set[str]) -> None:
        """Raise ValueError where nothing may be uploaded."""
        from huggingface_hub.constants import ENV_VARS_TRUE_VALUES

        if self.push and os.environ["HF_HUB_OFFLINE"].upper() in ENV_VARS_TRUE_VALUES:
            raise ValueError("--push uploads to the hub; allow it by HF_HUB_OFFLINE=0 before the command")

    @property
    def checkpoint(self) -> Path:
        """The folder that is exported: of a GGUF file, the one that it was imported into."""
        return Path(find_checkpoint(self.model))

    @property
    def name(self) -> str:
        """What the export is called by."""
        return Path(self.model).resolve().name.removesuffix(".gguf")

    @property
    def output(self) -> Path:
        """The folder that is written."""
        return Path(self.output_dir or f"{self.name}-{self.to}")


def write_form(
    options: ExportOptions, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path, quantize: str
) -> Any:
    """Write the form to a new folder with weights of a type; return the export, opened in its runtime."""
    from chat_utils.runtimes.llama_cpp import LlamaModel
    from chat_utils.sampling import Sampling
    from data_utils.dialogue.format import stop_token_id
    from eval_utils.likelihood import window_of
    from export_utils import adapter, ctranslate2, onnx
    from export_utils.ollama import make_modelfile
    from model_utils.gguf_writer import write_gguf

    if options.to == "gguf":
        folder.mkdir()
        file, stop_id = folder / f"{options.name}-{quantize}.gguf", stop_token_id(tokenizer)
        write_gguf(model, tokenizer, stop_id, file, quantize)
        stops = {stop_id, tokenizer.eos_token_id} - {None}
        modelfile = make_modelfile(tokenizer, stops, window_of(model), asdict(Sampling()), file.name)
        (folder / "Modelfile").write_text(modelfile, encoding="utf-8")
        return LlamaModel(file, exact=quantize == "f32")
    if options.to == "ctranslate2":
        kind = ctranslate2.CTranslate2Model
        ctranslate2.write_ctranslate2(options.checkpoint, model.config, tokenizer, folder, quantize)
    elif options.to == "onnx":
        kind = onnx.OnnxModel
        onnx.write_onnx(model, folder, quantize)
    else:
        kind = adapter.AdaptedModel
        adapter.copy_adapter(options.checkpoint, folder)
    copy_words(options.checkpoint, folder)
    return kind(folder)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    about = f"{__doc__}\nTypes of the weights: {TYPES}\n"
    (options,) = parse_arguments((ExportOptions,), argv, None, about, positional="model")
    check_checkpoint(options.model)
    if options.to:
        check_replaceable(options.output)

    from transformers.utils import logging

    from eval_utils.agreement import compare_replies
    from model_utils.checkpoint import load_checkpoint
    from model_utils.same_tokens import check_tokens
    from train_utils.run_folder import weights_version

    logging.disable_progress_bar()

    # 1. The checkpoint: as whole as its own chat needs it.
    model, tokenizer = load_checkpoint(options.model)
    source = options.checkpoint
    if options.to:
        # 2. Aside: first in full precision, which must agree but at ties, then in the type that is asked for.
        types, default, _ = FORMS[options.to]
        chosen = options.quantize or default
        record: dict[str, Any] = {"checkpoint": options.name, "form": options.to}
        with whole(options.output) as partial:
            partial.mkdir()
            for quantize in dict.fromkeys((types[0], chosen)):
                folder = partial / quantize
                runtime = write_form(options, model, tokenizer, folder, quantize)
                check_tokens(runtime, tokenizer)
                agreement = compare_replies(runtime, model, tokenizer, exact=quantize == types[0])
                runtime.close()
                print(f"{options.to} {quantize}: text tokenized alike, {agreement}")
                record[quantize] = str(agreement)
                if quantize != chosen:
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


if __name__ == "__main__":
    begin_script()
    run_script(main)
