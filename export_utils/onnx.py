"""A checkpoint as an ONNX graph with its key-value cache as inputs and outputs, and the same run by ONNX Runtime.

Names of inputs and outputs are Optimum's: input_ids, attention_mask, position_ids, past_key_values.0.key; logits,
present.0.key.
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
from transformers import DynamicCache, PreTrainedModel

from export_utils.folder import ExportedFolder

EXTERNAL_BYTES = 1.5e9  # above it, the weights stand in a file of their own: a protobuf holds 2 GB
CACHE_NAME = re.compile(r"(input|output)\.past_key_values\.layers\.(\d+)\.(key|value)s")


def write_onnx(model: PreTrainedModel, folder: Path, quantize: str) -> None:
    """Write model.onnx and the model's config to a folder; int8 is the type of its matrices alone."""
    import onnx_ir
    from transformers.exporters import OnnxConfig, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
    from transformers.exporters.exporter_onnx import OnnxExporter

    # A step of two sequences with two new tokens after three: sizes above 1, so that each is kept variable.
    cache = DynamicCache(config=model.config)
    step = torch.ones(2, 2, dtype=torch.long)
    quantizer = None
    if quantize == "int8":
        quantizer = OnnxRuntimeQuantizer(
            OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
        )
    with torch.no_grad(), silence():
        model(input_ids=torch.ones(2, 3, dtype=torch.long), past_key_values=cache, use_cache=True)
        inputs: dict[str, Any] = {
            "input_ids": step, "attention_mask": torch.ones(2, 5, dtype=torch.long),
            "position_ids": torch.tensor([[3, 4]] * 2), "past_key_values": cache, "use_cache": True,
        }  # fmt: skip
        varied = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
        shapes: dict[str, Any] = dict.fromkeys(("input_ids", "attention_mask", "position_ids"), varied)
        shapes["past_key_values"] = [{0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}] * (2 * len(cache.layers))
        config = OnnxConfig(dynamic=True, dynamic_shapes=shapes, quantizer=quantizer)
        graph = OnnxExporter().export(model, inputs, config=config).program
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        if match := CACHE_NAME.fullmatch(value.name):
            side, layer, part = match.groups()
            value.name = f"{'past_key_values' if side == 'input' else 'present'}.{layer}.{part}"
    folder.mkdir(exist_ok=True)
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values())
    onnx_ir.save(graph, folder / "model.onnx", external_data="model.onnx_data" if size > EXTERNAL_BYTES else None)
    model.config.save_pretrained(folder)


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
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}

    def close(self) -> None:
        """Let the session go."""
        del self.session

    def follow(self, prompt: list[int], reply: list[int]) -> list[int]:
        """Return the likeliest token after the prompt and after each token of `reply`, through the cache."""
        kept = {
            name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
            for name, value in self.inputs.items()
            if name.startswith("past_key_values.")
        }
        names = [value.name for value in self.session.get_outputs()]
        chosen, start = [], 0
        for ids in [prompt, *([token] for token in reply[:-1])]:
            end = start + len(ids)
            feed = {
                "input_ids": np.array([ids]), "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(start, end)[None],
            }  # fmt: skip
            feed = {name: array for name, array in feed.items() if name in self.inputs}
            outputs = dict(zip(names, self.session.run(None, feed | kept), strict=True))
            kept = {name: outputs[name.replace("past_key_values", "present")] for name in kept}
            chosen.append(int(outputs["logits"][0, -1].argmax()))
            start = end
        return chosen
