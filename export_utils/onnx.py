"""A checkpoint as an ONNX graph with its key-value cache as inputs and outputs, and the same run by ONNX Runtime.

Names of inputs and outputs are Optimum's: input_ids, attention_mask, position_ids, past_key_values.0.key; logits,
present.0.key. A model with an encoder is two graphs: encoder_model.onnx gives present.0.encoder.key of a source once,
decoder_model.onnx takes that, encoder_attention_mask and past_key_values.0.decoder.key with the target's next tokens.
"""

import contextlib
import io
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, DynamicCache, PreTrainedModel

from export_utils.encoder_decoder import VARIED, list_halves
from export_utils.folder import ExportedFolder
from model_utils.families import family_of, start_token_id

EXTERNAL_BYTES = 1.5e9  # above it, the weights stand in a file of their own: a protobuf holds 2 GB
CACHE_NAME = re.compile(r"(input|output)\.past_key_values\.layers\.(\d+)\.(key|value)s")


def write_onnx(model: PreTrainedModel, folder: Path, quantize: str) -> None:
    """Write a model's graphs and its config to a folder; int8 is the type of its matrices alone."""
    folder.mkdir(exist_ok=True)
    with torch.no_grad(), silence():
        for name, (module, inputs, shapes) in GRAPHS[family_of(model.config).task](model).items():
            write_graph(module, inputs, shapes, folder / name, quantize)
    model.config.save_pretrained(folder)


def list_decoder(model: PreTrainedModel) -> dict[str, tuple[nn.Module, dict, dict]]:
    """Return the graph of a decoder's step as `list_halves` does."""
    # A step of two sequences with two new tokens after three: sizes above 1, so that each is kept variable.
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.ones(2, 3, dtype=torch.long), past_key_values=cache, use_cache=True)
    inputs: dict[str, Any] = {
        "input_ids": torch.ones(2, 2, dtype=torch.long), "attention_mask": torch.ones(2, 5, dtype=torch.long),
        "position_ids": torch.tensor([[3, 4]] * 2), "past_key_values": cache, "use_cache": True,
    }  # fmt: skip
    shapes: dict[str, Any] = {name: {0: VARIED, 1: VARIED} for name in list(inputs)[:3]}
    shapes["past_key_values"] = [{0: VARIED, 2: VARIED}] * (2 * len(cache.layers))
    return {"model.onnx": (model, inputs, shapes)}


GRAPHS = {"CAUSAL_LM": list_decoder, "SEQ_2_SEQ_LM": list_halves}  # by the task of a family


def write_graph(module: Any, inputs: dict, shapes: dict, file: Path, quantize: str) -> None:
    """Write the graph of a module's forward, traced with inputs of which the sizes named in `shapes` vary."""
    import onnx_ir
    from transformers.exporters import OnnxConfig, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
    from transformers.exporters.exporter_onnx import OnnxExporter

    quantizer = None
    if quantize == "int8":
        quantizer = OnnxRuntimeQuantizer(
            OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
        )
    config = OnnxConfig(dynamic=True, dynamic_shapes=shapes, quantizer=quantizer)
    graph = OnnxExporter().export(module, inputs, config=config).program
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        if match := CACHE_NAME.fullmatch(value.name):
            side, layer, part = match.groups()
            value.name = f"{'past_key_values' if side == 'input' else 'present'}.{layer}.{part}"
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values())
    onnx_ir.save(graph, file, external_data=f"{file.name}_data" if size > EXTERNAL_BYTES else None)


@contextlib.contextmanager
def silence():
    """Keep the exporter's progress, of use to its developers only, off the terminal."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


class OnnxModel(ExportedFolder):
    """An exported folder, with its tokenizer, in ONNX Runtime on the CPU."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        super().__init__(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        files = [folder / name for name in ("encoder_model.onnx", "decoder_model.onnx", "model.onnx")]
        *self.readers, self.session = (
            onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"]) for file in files if file.exists()
        )
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.start = start_token_id(AutoConfig.from_pretrained(folder, trust_remote_code=False))

    def follow(self, prompt: list[int], reply: list[int]) -> list[int]:
        """Return the likeliest token after the prompt and after each token of `reply`, through the cache."""
        kept = {
            name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
            for name, value in self.inputs.items()
            if name.startswith("past_key_values.")
        }
        mask, first = np.ones((1, len(prompt)), np.int64), prompt
        for reader in self.readers:
            kept |= run_session(reader, {"input_ids": np.array([prompt]), "attention_mask": mask})
            first = [self.start]
        chosen, start = [], 0
        for ids in [first, *([token] for token in reply[:-1])]:
            end = start + len(ids)
            feed = {
                "input_ids": np.array([ids]), "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(start, end)[None], "encoder_attention_mask": mask,
            }  # fmt: skip
            feed = {name: array for name, array in feed.items() if name in self.inputs}
            outputs = run_session(self.session, feed | kept)
            chosen.append(int(outputs.pop("logits")[0, -1].argmax()))
            kept |= outputs
            start = end
        return chosen


def run_session(session, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a graph's outputs by their names, those of a cache by those that the next step takes them by."""
    names = [value.name.replace("present", "past_key_values") for value in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))
