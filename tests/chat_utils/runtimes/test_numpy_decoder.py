"""The fast step computes what transformers does, for each class it knows, and leaves the others alone."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from chat_utils.runtimes.network import read_network
from chat_utils.runtimes.numpy_decoder import State, compute_logits, load_numpy_decoder

WINDOW = 256
SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": WINDOW,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
KNOWN = {
    "qwen3": {"model_type": "qwen3"},
    "qwen3, tied": {"model_type": "qwen3", "tie_word_embeddings": True},
    "qwen3, upper layers slide": {
        "model_type": "qwen3", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1,
    },
    "llama": {"model_type": "llama"},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama 3": {"model_type": "llama", "rope_parameters": LLAMA3_ROPE},
    "qwen2": {"model_type": "qwen2"},
    "mistral": {"model_type": "mistral", "sliding_window": 16},
    "mistral, no window": {"model_type": "mistral", "sliding_window": None},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": WINDOW},
}  # fmt: skip


def make_model(**settings):
    torch.manual_seed(0)
    shape = {} if settings["model_type"] == "gpt2" else SHAPE
    special = {"vocab_size": 500, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(**{**shape, **special, **settings}, initializer_range=0.2)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # norms and biases that matter
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter.data, 1.0, 0.3)
    return model


@pytest.mark.parametrize("kind", KNOWN)
def test_logits_equal_those_of_transformers(kind):
    model = make_model(**KNOWN[kind])
    network = read_network(model)
    ids = torch.randint(0, 500, (100,)).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    state, other = State(network, WINDOW), State(network, WINDOW)
    compute_logits(network, [other], [0], [ids[:10]])
    steps = [([state], [0], [40]), ([state], [40], [1]), ([state], [41], [49]), ([state, other], [90, 10], [1, 2])]
    for states, starts, counts in steps:  # a prompt, a token, more of a prompt, two replies in one step
        parts = [ids[start : start + count] for start, count in zip(starts, counts, strict=True)]
        found = compute_logits(network, states, starts, parts)
        assert found.dtype == np.float32
        for row, start, count in zip(found, starts, counts, strict=True):
            np.testing.assert_allclose(row, expected[start + count - 1], atol=1e-4)


def test_state_grows_with_its_dialogue_up_to_the_window():
    network = read_network(make_model(model_type="qwen3"))
    ids = torch.randint(0, 500, (60,)).tolist()
    roomy, growing = State(network, 64), State(network, 4)
    for start in range(0, 60, 20):
        growing.reserve(start + 20, WINDOW)
        part = [ids[start : start + 20]]
        rows = [compute_logits(network, [state], [start], part) for state in (roomy, growing)]
        assert np.array_equal(*rows)
    growing.reserve(WINDOW, WINDOW)
    assert growing.memory.shape[3] == WINDOW


UNKNOWN = {
    "another class": {"model_type": "gemma"},
    "another activation": {"model_type": "llama", "hidden_act": "gelu"},
    "angles by length": {
        "model_type": "llama", "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    },
    "gpt2 of another form": {**KNOWN["gpt2"], "scale_attn_by_inverse_layer_idx": True},
}  # fmt: skip


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_it_does_not_know_is_left_to_transformers(kind):
    assert load_numpy_decoder(make_model(**UNKNOWN[kind])) is None


def test_other_precisions_are_left_to_transformers():
    assert load_numpy_decoder(make_model(model_type="qwen3").half()) is None


@pytest.mark.parametrize("kind", KNOWN)
def test_bfloat16_rounds_at_the_matrices_alone(kind):
    """Its logits are nearer to those of the same weights in float32 than transformers' own in bfloat16."""
    narrow = make_model(**KNOWN[kind]).to(torch.bfloat16)
    wide = make_model(**KNOWN[kind])
    wide.load_state_dict(narrow.state_dict())  # the rounded weights
    decoder = load_numpy_decoder(narrow)
    ids = torch.randint(0, 500, (60,)).tolist()
    with torch.inference_mode():
        expected, reference = (
            model(torch.tensor([ids]), attention_mask=torch.ones(1, 60)).logits[0].float().numpy()
            for model in (wide, narrow)
        )
    state = State(decoder.network, WINDOW)
    found = [compute_logits(decoder.network, [state], [0], [ids[:40]])]
    found += [compute_logits(decoder.network, [state], [place], [[ids[place]]]) for place in range(40, 60)]
    errors = [np.abs(rows - expected[39:]).mean() for rows in (np.concatenate(found), reference[39:])]
    assert errors[0] < 0.05 * np.abs(expected).mean()
    assert errors[0] < errors[1]


@pytest.mark.parametrize("kind", KNOWN)
def test_known_classes_are_decoded_by_it(kind):
    assert load_numpy_decoder(make_model(**KNOWN[kind])).window == WINDOW
