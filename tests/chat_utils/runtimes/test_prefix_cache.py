"""The prefix cache: how much memory it takes, what is worth a copy, and who may take what up."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from chat_utils.runtimes.decoder import Decoder, Session, TransformersDecoder
from chat_utils.runtimes.numpy_decoder import load_numpy_decoder
from chat_utils.runtimes.prefix_cache import ANYBODY, SMALLEST_STATE_TOKENS
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


def compute(decoder: Decoder, ids: list[int], cache_group: str | None = None) -> Session:
    """Return the closed session of a reply of one token."""
    session = decoder.open(ids, Sampling(temperature=0), cache_group=cache_group)
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
    decoder.prefix_cache._max_tokens = 3000
    compute(decoder, LONG)
    for number in range(40):
        assert compute(decoder, [*LONG[:20], *[1100 + number] * 30]).cached_tokens == 20
    states = [entry.state for entry in decoder.prefix_cache._entries]
    assert len(states) >= 3000 // SMALLEST_STATE_TOKENS - 1
    assert sum(map(count_bytes, states)) <= 3000 * token_bytes


def test_room_left_by_a_longer_prompt_is_counted(make_decoder):
    decoder = make_decoder()
    decoder.prefix_cache._max_tokens = 1500
    compute(decoder, LONG)
    compute(decoder, [*LONG[:600], 1100])  # the same state, cut
    compute(decoder, [1150] * 400)
    states = [entry.state for entry in decoder.prefix_cache._entries]
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


@pytest.mark.parametrize("group", ["eve", ANYBODY, None])
@pytest.mark.parametrize("asked", [LONG[:500], LONG, [*LONG, 1100], [*LONG[:20], 7]])
def test_another_group_finds_the_public_ids_alone_and_takes_nothing_away(make_decoder, group, asked):
    decoder = make_decoder()
    compute(decoder, LONG, "ada")
    assert compute(decoder, asked, group).cached_tokens == 0
    decoder = make_decoder()
    decoder.prefix_cache.public_ids = LONG[:18]
    compute(decoder, LONG, "ada")
    session = compute(decoder, asked, group)
    assert session.cached_tokens == 18
    assert session.ids == compute(make_decoder(), asked).ids
    assert compute(decoder, LONG, "ada").cached_tokens == len(LONG) - 1


def test_a_caller_without_a_group_goes_on_with_a_dialogue_that_it_sends_whole(make_decoder):
    decoder = make_decoder()
    compute(decoder, LONG[:500], ANYBODY)
    entries = list(decoder.prefix_cache._entries)
    for asked in (LONG[:400], LONG[:500], [*LONG[:499], 1100, 1101], LONG):
        decoder.prefix_cache._entries[:] = entries
        session = compute(decoder, asked, ANYBODY)
        assert session.cached_tokens == (500 if asked is LONG else 0)
        assert session.ids == compute(make_decoder(), asked).ids
        assert decoder.prefix_cache._entries[0] is entries[0]  # were it gone, who left it would know who has it
