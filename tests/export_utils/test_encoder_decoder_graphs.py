"""The two graphs of a model with an encoder, run by torch as an ONNX runtime runs them: as the model is."""

import pytest
import torch

from export_utils.encoder_decoder import SourceReader, TargetWriter
from tests.train_utils.steps.test_encoder_decoder_steps import build


@pytest.mark.parametrize("kind", ["t5", "umt5", "bart", "t5gemma"])
@torch.inference_mode()
def test_halves_write_what_the_model_writes(kind):
    model = build(kind).eval()
    sources, targets = torch.arange(4, 14).view(2, 5), torch.arange(20, 28).view(2, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = model(input_ids=sources, attention_mask=mask, decoder_input_ids=targets, use_cache=False).logits
    layers = SourceReader(model)(sources, mask)["present"]
    heads, size = layers[0]["encoder"]["key"].shape[1::2]
    for layer in layers:
        layer["decoder"] = {"key": torch.zeros(2, heads, 0, size), "value": torch.zeros(2, heads, 0, size)}
    write = TargetWriter(model)
    for start, end in ((0, 3), (3, 4)):
        output = write(targets[:, start:end], mask, layers)
        torch.testing.assert_close(output["logits"], expected[:, start:end], atol=1e-4, rtol=1e-4)
        assert [layer["decoder"]["key"].shape[2] for layer in output["present"]] == [end] * len(layers)
        layers = [{**layer, **own} for layer, own in zip(layers, output["present"], strict=True)]
