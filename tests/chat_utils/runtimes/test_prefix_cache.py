"""The pool of computed beginnings: how much memory it takes, and what is worth a copy."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from chat_utils.runtimes.decoder import Decoder, Session, TransformersDecoder
from chat_utils.runtimes.numpy_decoder import load_numpy_decoder
from chat_utils.runtimes.prefix_cache import SMALLEST_STATE_TOKENS
from chat_utils.sampling import Sampling

SHAPE = {
    "vocab_size": 1200, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 2048, "initializer_range": 0.2,
}  # fmt: skip
LONG = list(range(1000))
KINDS = {"numpy": load_numpy_decoder, "transformers": TransformersDecoder}


@pytest.fixture(params=KINDS)
def make_decoder(request):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **SHAPE)).eval()
    return lambda: KINDS[request.param](model)


def compute(decoder: Decoder, ids: list[int]) -> Session:
    """Return the closed session of a reply of one token."""
    session = decoder.open(ids, Sampling(temperature=0))
    while not session.step():
        pass
    session.close()
    return session


def count_bytes(state) -> int:
    if hasattr(state, "memory"):
        return state.memory.nbytes
    return sum(part.untyped_storage().nbytes() for layer in state.layers for part in (layer.keys, layer.values))


def test_short_prompts_after_a_long_one_take_little_memory(make_decoder):
    decoder = make_decoder()
    token_bytes = 2 * 2 * 8 * 4  # keys and values, layers, width, float32
    decoder.pool._max_tokens = 3000
    compute(decoder, LONG)
    for number in range(40):
        assert compute(decoder, [*LONG[:20], *[1100 + number] * 30]).cached_tokens == 20
    states = [state for _, state in decoder.pool._entries]
    assert len(states) >= 3000 // SMALLEST_STATE_TOKENS - 1
    assert sum(map(count_bytes, states)) <= 3000 * token_bytes


def test_room_left_by_a_longer_prompt_is_counted(make_decoder):
    decoder = make_decoder()
    decoder.pool._max_tokens = 1500
    compute(decoder, LONG)
    compute(decoder, [*LONG[:600], 1100])  # the same state, cut
    compute(decoder, [1150] * 400)
    states = [state for _, state in decoder.pool._entries]
    assert sum(map(count_bytes, states)) <= 1500 * 2 * 2 * 8 * 4


def test_a_copied_beginning_gives_the_same_token_and_leaves_the_original(make_decoder):
    decoder, fresh = make_decoder(), make_decoder()
    first = compute(decoder, LONG)
    other = compute(decoder, [*LONG[:300], 1100, 1101])
    assert other.cached_tokens == 300
    assert other.ids[-1] == compute(fresh, [*LONG[:300], 1100, 1101]).ids[-1]
    again = compute(decoder, LONG)
    assert (again.cached_tokens, again.ids) == (len(LONG) - 1, first.ids)


@pytest.mark.parametrize(("shared", "cached"), [(15, 0), (16, 16)])
def test_a_template_in_common_is_not_copied(make_decoder, shared, cached):
    decoder = make_decoder()
    compute(decoder, LONG)
    assert compute(decoder, [*LONG[:shared], 1100]).cached_tokens == cached
