"""The low-rank adapter of a checkpoint in PEFT's form, and its base with it, run by PEFT."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from errors import InputError
from export_utils.folder import ExportedFolder
from model_utils.checkpoint import load_model
from model_utils.reply_steps import open_reply
from model_utils.shapes import find_embedding, resize_vocabulary


class AdaptedModel(ExportedFolder):
    """A base checkpoint with an adapter's folder, which holds the tokenizer, upon it; their weights are not merged."""

    def __init__(self, folder: Path) -> None:
        from peft import PeftModel

        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        super().__init__(folder)
        try:
            model = load_model(base)
        except InputError as error:
            raise InputError(f"the adapter's base {error}") from error
        if len(self.tokenizer) > find_embedding(model).num_embeddings:
            resize_vocabulary(model, len(self.tokenizer))
        self.model: Any = PeftModel.from_pretrained(model, folder).eval()

    @torch.inference_mode()
    def follow(self, prompt: list[int], reply: list[int]) -> list[int]:
        """Return the likeliest token after the prompt and after each token of `reply` but the last."""
        written = open_reply(self.model, prompt)
        return [int(written.write(ids).argmax()) for ids in (prompt, *([token] for token in reply[:-1]))]


def copy_adapter(checkpoint: Path, folder: Path) -> None:
    """Copy a checkpoint's adapter to a new folder; InputError where the checkpoint was trained without one."""
    if not (checkpoint / "adapter" / "adapter_config.json").is_file():
        raise InputError(f"{checkpoint}: has no adapter/; finetune_dialogue.py writes one with --lora true")
    shutil.copytree(checkpoint / "adapter", folder)
