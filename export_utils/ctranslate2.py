"""A checkpoint in CTranslate2's form, and the same run by CTranslate2."""

import json
import logging
from pathlib import Path

import numpy as np

from errors import InputError, first_line
from export_utils.folder import ExportedFolder


def write_ctranslate2(checkpoint: Path, stop: str, folder: Path, quantize: str) -> None:
    """Write model.bin, its vocabulary and settings to a new folder; `stop` is the token that ends a reply.

    Raises InputError for a kind of model that CTranslate2 has no converter for.
    """
    from ctranslate2.converters import TransformersConverter

    try:
        TransformersConverter(str(checkpoint)).convert(str(folder), quantization=quantize)
    except (ValueError, AttributeError, KeyError, RuntimeError) as error:
        raise InputError(f"{checkpoint}: CTranslate2 cannot convert it: {first_line(error)}") from error
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # It refuses to read a null.
    config = {name: stop if value is None and name.endswith("token") else value for name, value in config.items()}
    config = {name: value for name, value in config.items() if value is not None}
    config["eos_token"] = stop  # what ends a reply where the caller names nothing
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


class CTranslate2Model(ExportedFolder):
    """An exported folder, with its tokenizer, in CTranslate2 on the CPU."""

    def __init__(self, folder: Path) -> None:
        import ctranslate2

        super().__init__(folder)
        ctranslate2.set_log_level(logging.ERROR)  # of types that this CPU computes in another
        self.generator = ctranslate2.Generator(str(folder), device="cpu")

    def close(self) -> None:
        """Free the model."""
        self.generator.unload_model()

    def follow(self, prompt: list[int], reply: list[int]) -> list[int]:
        """Return the likeliest token after the prompt and after each token of `reply` but the last."""
        names = self.tokenizer.convert_ids_to_tokens(prompt + reply)
        greedy = {"sampling_topk": 1, "include_prompt_in_result": False, "end_token": []}
        replies = self.generator.generate_batch([names[: len(prompt)]], max_length=len(reply), **greedy)
        if replies[0].sequences_ids[0] == reply:
            return reply
        logits = np.array(self.generator.forward_batch([names]))[0]
        chosen = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
        return chosen if chosen != reply else replies[0].sequences_ids[0]
