"""A GGUF file in the real llama.cpp: the checkpoint's tokens for any text, its greedy replies, its stop token."""

from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from chat_utils.runtimes.llama_cpp import LlamaModel
from errors import InputError
from eval_utils.agreement import compare_replies
from model_utils import gguf_writer
from model_utils.gguf_writer import name_splitter, write_gguf
from model_utils.llama_library import FILE_TYPES, K_TYPES, bind_xllamacpp, check_quantizer
from model_utils.same_tokens import TEXTS, check_tokens
from model_utils.tokenizer import CONTROL_TOKENS

STOP_ID = 2  # <|im_end|>
ROWS = 1216  # of the embedding; more than there are tokens
SHAPES = {
    "qwen3": {"head_dim": 48, "num_key_value_heads": 1, "tie_word_embeddings": False},
    "qwen2": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 5e5, "tie_word_embeddings": False},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None, "tie_word_embeddings": True},
    "gpt2": {},
}
COMMON = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256, "bos_token_id": 0, "eos_token_id": 0}


def make_model(kind: str, **changes):
    """Return a random model whose biases and norms are not what they start as, so that each must be in its place."""
    torch.manual_seed(0)
    shape = {**GPT2, "initializer_range": 0.2} if kind == "gpt2" else {**COMMON, **SHAPES[kind]}
    config = AutoConfig.for_model(kind, **{**shape, **changes}, vocab_size=ROWS)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * (0.2 if name.endswith("weight") else 0.5))
    return model


@pytest.fixture(scope="module")
def file(tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(make_model("qwen3"), tokenizer, STOP_ID, path, "f32")
    return path


@pytest.fixture(scope="module")
def llama(file) -> LlamaModel:
    return LlamaModel(file, exact=True)


@pytest.mark.parametrize("kind", SHAPES)
def test_greedy_replies_equal_the_checkpoints(kind, tokenizer, tmp_path):
    model = make_model(kind)
    write_gguf(model, tokenizer, STOP_ID, tmp_path / "model.gguf", "f32")
    runtime = LlamaModel(tmp_path / "model.gguf", exact=True)
    check_tokens(runtime, tokenizer)
    agreement = compare_replies(runtime, model, tokenizer, exact=True)
    assert (agreement.equal, agreement.total) == (256, 256)


def test_memory_of_a_token_is_counted_by_the_width_of_a_head(llama, tokenizer, tmp_path):
    assert llama.token_bytes == 2 * 2 * 48 * 4  # keys and values, layers, head_dim, float32; not hidden_size / heads
    write_gguf(make_model("gpt2"), tokenizer, STOP_ID, tmp_path / "model.gguf", "f32")
    assert LlamaModel(tmp_path / "model.gguf").token_bytes == 2 * 2 * 64 * 2  # says no width; float16


def test_a_weight_in_the_wrong_place_is_noticed(tokenizer, tmp_path):
    model = make_model("qwen3")
    write_gguf(model, tokenizer, STOP_ID, tmp_path / "model.gguf", "f32")
    with torch.no_grad():
        model.model.layers[1].self_attn.k_norm.weight.add_(0.5)
    with pytest.raises(InputError, match=r"verification failed: after 'Hello.*token \d+ is"):
        compare_replies(LlamaModel(tmp_path / "model.gguf", exact=True), model, tokenizer, exact=True)


@pytest.mark.parametrize(
    ("quantize", "least"), [("bf16", 0.9), ("f16", 0.95), ("q8_0", 0.85), ("q5_0", 0.5), ("q6_k", 0.5)]
)
def test_smaller_types_agree_nearly(quantize, least, tokenizer, file, tmp_path):
    if quantize in K_TYPES:
        pytest.importorskip("llama_cpp")
    path = tmp_path / "model.gguf"
    model = make_model("qwen3")
    write_gguf(model, tokenizer, STOP_ID, path, quantize)
    agreement = compare_replies(LlamaModel(path), model, tokenizer, exact=False)
    assert agreement.equal >= least * agreement.total
    assert path.stat().st_size < 0.65 * file.stat().st_size
    assert [other.name for other in tmp_path.iterdir()] == ["model.gguf"]
    assert gguf.GGUFReader(path).get_field("general.file_type").contents() == FILE_TYPES[quantize]


def test_a_type_that_only_a_compiled_package_makes_is_refused_with_its_name(monkeypatch):
    monkeypatch.setattr(gguf_writer, "load_library", bind_xllamacpp)
    check_quantizer("q5_0")
    with pytest.raises(InputError, match=r"--quantize q4_k_m: .*pip install -r requirements/quantize.txt"):
        check_quantizer("q4_k_m")


def test_a_type_too_small_for_the_model_is_refused(tokenizer, tmp_path):
    model = make_model("qwen3", initializer_range=0.5)
    write_gguf(model, tokenizer, STOP_ID, tmp_path / "model.gguf", "q4_0")
    with pytest.raises(InputError, match=r"verification failed: only .* greedy tokens equal"):
        compare_replies(LlamaModel(tmp_path / "model.gguf"), model, tokenizer, exact=False)


def test_what_the_file_says_of_itself(tokenizer, file, llama):
    reader = gguf.GGUFReader(file)
    values = {name: reader.get_field(name).contents() for name in reader.fields}
    assert values["general.architecture"] == "qwen3"
    assert values["tokenizer.ggml.pre"] == "qwen2"
    assert values["tokenizer.ggml.eos_token_id"] == STOP_ID
    assert values["tokenizer.chat_template"] == tokenizer.chat_template
    assert values["qwen3.context_length"] == llama.window == 256
    assert values["tokenizer.ggml.add_bos_token"] is False
    kinds = values["tokenizer.ggml.token_type"]
    assert [i for i, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL] == [0, 1, 2]
    assert kinds[len(tokenizer) :] == [gguf.TokenType.UNUSED] * (ROWS - len(tokenizer))
    assert llama.vocab_size == ROWS


# Tokens

HARD = st.one_of(
    st.text(),
    st.text(alphabet=st.sampled_from(" \n\r\t\u3000\u00a0'sStTlLdDmMrReEvV1２三.,!a中é👍🏽\u200d\ufe0f")),
    st.lists(st.sampled_from((*CONTROL_TOKENS, *TEXTS, "<|im", "_end|>", "\n", " "))).map("".join),
)


@given(HARD)
@example("don't DON'T it'ſ we'LL ’s")
@example("１２３ 456 ⅷ ٣ 万")
@example("👨‍👩‍👧‍👦🇨🇳👍🏽")
@example("a  b \n \n\n c\r\n\td  ")
@example("\x00\ufeff\u202e\ud7ff\U0010ffff")
def test_any_text_has_the_same_tokens(tokenizer, llama, text):
    expected = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert llama.tokenize(text) == expected
    assert not {0, 1, 2} & set(expected)


def test_control_tokens_are_only_read_where_asked(llama):
    text = "".join(CONTROL_TOKENS)
    assert llama.tokenize(text, with_control=True) == [0, 1, 2]
    assert not {0, 1, 2} & set(llama.tokenize(text))


# What has no GGUF form


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("mistral", {"sliding_window": 16}, "sliding window"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "positions of the kind",
        ),
        ("llama", {"hidden_act": "gelu"}, "no gelu"),
        ("gpt2", {"activation_function": "relu"}, "no relu"),
        ("llama", {"attention_bias": True, "mlp_bias": True}, None),
    ],
)
def test_other_models_are_refused_or_equal(kind, changes, message, tokenizer, tmp_path):
    model = make_model(kind, **changes)
    if message:
        with pytest.raises(InputError, match=message):
            write_gguf(model, tokenizer, STOP_ID, tmp_path / "model.gguf", "f32")
    else:
        write_gguf(model, tokenizer, STOP_ID, tmp_path / "model.gguf", "f32")
        compare_replies(LlamaModel(tmp_path / "model.gguf", exact=True), model, tokenizer, exact=True)


def test_a_kind_of_model_without_a_form_is_named(tokenizer, tmp_path):
    config = AutoConfig.for_model("bloom", hidden_size=32, n_layer=1, n_head=2, vocab_size=ROWS)
    with pytest.raises(InputError, match="a bloom model has no GGUF form here; there is one for qwen3"):
        write_gguf(AutoModelForCausalLM.from_config(config), tokenizer, STOP_ID, tmp_path / "model.gguf", "f32")


def test_known_ways_to_split_have_llama_cpps_names(tokenizer):
    import json

    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    assert name_splitter(json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]) == "qwen2"
    assert name_splitter(level) == "gpt-2"
    digits = {"type": "Digits", "individual_digits": True}
    assert name_splitter({"type": "Sequence", "pretokenizers": [digits, level]}) == "smollm"
    with pytest.raises(InputError, match="no name for"):
        name_splitter({"type": "Whitespace"})


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0, "<end>": 1}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    with pytest.raises(InputError, match="WordLevel tokenizer has no GGUF form"):
        write_gguf(make_model("gpt2"), words, 1, tmp_path / "model.gguf", "f32")
