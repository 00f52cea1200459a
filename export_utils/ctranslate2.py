"""A checkpoint in CTranslate2's form, and the same run by CTranslate2."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.format import stop_token_id
from errors import InputError, first_line
from export_utils.folder import ExportedFolder
from model_utils.families import start_token_id

START = "decoder_start_token"  # a setting of models with an encoder alone


def write_ctranslate2(
    checkpoint: Path, model_config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, quantize: str
) -> None:
    """Write model.bin, its vocabulary and settings to a new folder.

    Raises InputError for a kind of model that CTranslate2 has no converter for.
    """
    from ctranslate2.converters import TransformersConverter

    take_own_heads()
    try:
        TransformersConverter(str(checkpoint)).convert(str(folder), quantization=quantize)
    except (ValueError, AttributeError, KeyError, RuntimeError) as error:
        kind = type(model_config).__name__.removesuffix("Config")
        raise InputError(
            f"{checkpoint}: CTranslate2 cannot convert a {kind} model ({first_line(error)}); try --to onnx"
        ) from error
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stop = tokenizer.convert_ids_to_tokens(stop_token_id(tokenizer))
    if START in config:
        config[START] = tokenizer.convert_ids_to_tokens(start_token_id(model_config))
    # It refuses to read a null.
    config = {name: stop if value is None and name.endswith("token") else value for name, value in config.items()}
    config = {name: value for name, value in config.items() if value is not None}
    config["eos_token"] = stop  # what ends a reply where the caller names nothing
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def take_own_heads() -> None:
    """Let the converter take a T5Gemma's head; by itself (4.8) it takes the decoder's embedding for it."""
    from ctranslate2.converters import transformers as converters

    loader = converters._MODEL_LOADERS["T5GemmaConfig"]

    def read_with_head(model: PreTrainedModel) -> Any:
        spec = type(loader).get_model_spec(loader, model)
        loader.set_linear(spec.decoder.projection, model.get_output_embeddings())
        return spec

    loader.get_model_spec = read_with_head


class CTranslate2Model(ExportedFolder):
    """An exported folder, with its tokenizer, in CTranslate2 on the CPU."""

    def __init__(self, folder: Path) -> None:
        import ctranslate2

        super().__init__(folder)
        ctranslate2.set_log_level(logging.ERROR)  # of types that this CPU computes in another
        self.has_source = START in json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = ctranslate2.Translator if self.has_source else ctranslate2.Generator
        self.model = kind(str(folder), device="cpu")

    def follow(self, prompt: list[int], reply: list[int]) -> list[int]:
        """Return the likeliest token after the prompt and after each token of `reply` but the last."""
        chosen: list[int] = []
        while len(chosen) < len(reply):  # led along the reply again after each token that differs
            given = reply[: len(chosen)]
            for token, expected in zip(self.go_on(prompt, given, len(reply)), reply[len(given) :], strict=True):
                chosen.append(token)
                if token != expected:
                    break
        return chosen

    def go_on(self, prompt: list[int], given: list[int], count: int) -> list[int]:
        """Return what follows a prompt and the `given` beginning of a reply, greedily, up to `count` tokens of both."""
        tokenizer: Any = self.tokenizer
        names, greedy = tokenizer.convert_ids_to_tokens, {"sampling_topk": 1, "end_token": []}
        if self.has_source:
            limits = {"max_input_length": 0, "max_decoding_length": count, "beam_size": 1}
            found = self.model.translate_batch([names(prompt)], [names(given)], **limits, **greedy)
            return tokenizer.convert_tokens_to_ids(found[0].hypotheses[0][len(given) :])
        limits = {"max_length": count - len(given), "include_prompt_in_result": False}
        return self.model.generate_batch([names(prompt + given)], **limits, **greedy)[0].sequences_ids[0]
