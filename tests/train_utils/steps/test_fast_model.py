"""Models: built from a shape, loaded, packed rows kept apart, and made fast without a change of what is learned."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch._dynamo.exc import InvalidBackend
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from errors import InputError
from model_utils.checkpoint import check_vocabulary, load_model
from model_utils.shapes import (
    build_model,
    check_packing,
    check_window,
    count_parameters,
    flops_per_token,
)
from train_utils.places import find_shape
from train_utils.steps import fast_model
from train_utils.steps.fast_model import (
    Compiler,
    chunked_head_loss,
    decoder_layers,
    has_plain_head,
    head_loss,
    make_fast,
)

ROOT = Path(__file__).parents[3]
SHAPES = sorted(ROOT.glob("configs/models/*.json"))
V, D, T = 50, 32, 24  # vocabulary, width, tokens of a row
LLAMA = {
    "model_type": "llama", "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
QWEN3 = LLAMA | {"model_type": "qwen3"}
GEMMA2 = LLAMA | {"model_type": "gemma2", "tie_word_embeddings": True, "attn_implementation": "eager"}
GPT2 = {"model_type": "gpt2", "n_embd": D, "n_layer": 2, "n_head": 2, "n_positions": 64} | dict.fromkeys(
    ("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0
)
SPECIAL = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
FAMILIES = pytest.mark.parametrize("shape", [QWEN3, LLAMA, GPT2], ids=["qwen3", "llama", "gpt2"])


def build(shape: dict, **changes) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**shape, **SPECIAL, **changes}))


def random_ids(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, size, generator=torch.Generator().manual_seed(seed))


# Built from a shape


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
def test_shipped_shape_builds(path, tokenizer):
    values = json.loads(path.read_text())
    with torch.device("meta"):  # no memory for the large ones
        model = build_model(path, tokenizer)
    assert model.config.model_type == values["model_type"]
    assert model.config.vocab_size == model.get_output_embeddings().weight.shape[0] == len(tokenizer) == 1200
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    unknown = {key for key in values if not hasattr(type(model.config)(), key)} - {"model_type", "rope_theta"}
    assert unknown == set()  # transformers takes any key, and says nothing about a misspelled one
    config = model.config.get_text_config(decoder=True)
    assert len(decoder_layers(model)) == config.num_hidden_layers
    assert config.hidden_size % config.num_attention_heads == 0


def test_rope_theta_of_a_shape_arrives(tmp_path, tokenizer):
    (tmp_path / "shape.json").write_text(json.dumps(QWEN3 | {"rope_theta": 12345.0}))
    with torch.device("meta"):
        config = build_model(tmp_path / "shape.json", tokenizer).config
    assert config.rope_parameters["rope_theta"] == 12345.0


@FAMILIES
def test_output_projections_start_at_zero_and_nothing_else_does(shape, tmp_path, tokenizer):
    (tmp_path / "shape.json").write_text(json.dumps(shape))
    torch.manual_seed(0)
    model = build_model(tmp_path / "shape.json", tokenizer)
    endings = ("o_proj.weight", "down_proj.weight", "c_proj.weight")
    matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2}
    zero = {name for name, p in matrices.items() if not p.any()}
    assert zero == {name for name in matrices if name.endswith(endings)}
    assert len(zero) == 4  # two layers of two
    # Every layer is then the identity: the last hidden state is that of the embedding.
    ids = torch.tensor([[5, 7, 5]])
    hidden = model.base_model(input_ids=ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(hidden[1], hidden[0])


def test_same_seed_gives_the_same_weights(tmp_path, tokenizer):
    (tmp_path / "shape.json").write_text(json.dumps(QWEN3))
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build_model(tmp_path / "shape.json", tokenizer).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["lm_head.weight"], weights[2]["lm_head.weight"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not a model shape"),
        ("[1, 2]", "not a model shape"),
        ("{}", "not a model shape"),
        ('{"model_type": "gtp2"}', "not a model shape"),
        ('{"model_type": "gpt2", "n_embd": "wide"}', "not a model shape"),
        ('{"model_type": "gpt2", "n_embd": 33, "n_layer": 1, "n_head": 2}', "not a model shape"),
        (
            '{"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "activation_function": "x"}',
            "not a model shape",
        ),
        ('{"model_type": "t5gemma", "encoder": {"num_attention_heads": 0}}', "not a model shape"),
    ],
    ids=[
        "no JSON",
        "a list",
        "no type",
        "unknown type",
        "words for a number",
        "heads that don't divide",
        "unknown activation",
        "no heads",
    ],
)
def test_bad_shape_is_one_line(text, part, tmp_path, tokenizer):
    path = tmp_path / "shape.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        build_model(path, tokenizer)
    assert str(caught.value).startswith(f"{path}: ")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_shape_names_those_that_exist(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: no such model shape; there are: .*qwen3-5m\.json"):
        find_shape(str(tmp_path / "none.json"))


def test_rows_longer_than_the_window_are_refused(tmp_path, tokenizer):
    config = AutoConfig.for_model(**QWEN3 | {"max_position_embeddings": 32})
    check_window(config, 32, "shape.json")
    with pytest.raises(InputError, match=r"shape\.json: its window is 32 tokens, shorter than the rows of 64"):
        check_window(config, 64, "shape.json")


def test_model_that_cannot_part_packed_dialogues_is_refused():
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    with pytest.raises(InputError, match="bloom model cannot learn from dialogues that are packed to one text"):
        check_packing(AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", **sizes)), "base")
    check_packing(AutoModelForCausalLM.from_config(AutoConfig.for_model(**QWEN3, vocab_size=64)), "base")


# Loaded


def copy_checkpoint(source: Path, target: Path) -> Path:
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_loads_in_float32(tiny_checkpoint):
    model = load_model(str(tiny_checkpoint))
    saved = load_file(tiny_checkpoint / "model.safetensors")
    assert model.dtype == torch.float32
    assert torch.equal(model.state_dict()["lm_head.weight"], saved["lm_head.weight"])


def test_half_precision_checkpoint_is_trained_in_float32(tiny_checkpoint, tmp_path):
    copy_checkpoint(tiny_checkpoint, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: w.bfloat16() for name, w in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    assert {p.dtype for p in load_model(str(tmp_path)).parameters()} == {torch.float32}


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def drop_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n: w for n, w in weights.items() if "layers.1." not in n}, folder / "model.safetensors", {"format": "pt"}
    )


def widen_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))


BREAKS = {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "truncated weights": cut_weights,
    "empty weights": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "a layer is missing": drop_a_layer,  # transformers would draw it at random
    "weights of another size": widen_config,
    "config cut off": lambda folder: (folder / "config.json").write_text('{"model_type": "qw'),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_broken_checkpoint_is_one_line(broken, tiny_checkpoint, tmp_path):
    BREAKS[broken](copy_checkpoint(tiny_checkpoint, tmp_path))
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path))
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such checkpoint") as caught:
        load_model(str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)


def test_tokenizer_larger_than_the_model_is_refused(tokenizer):
    with pytest.raises(InputError, match="here: the tokenizer has 1200 tokens, the model 50"):
        check_vocabulary(build(QWEN3), tokenizer, "here")
    assert check_vocabulary(build(QWEN3, vocab_size=1200), tokenizer, "here") is None
    assert check_vocabulary(build(QWEN3, vocab_size=1280), tokenizer, "here") is None  # padded for speed by others


# Packed rows


@FAMILIES
def test_packed_dialogue_sees_no_other(shape):
    """The same logits alone and packed, as long as positions restart: no mask is passed and no cache kept."""
    model = build(shape, initializer_range=0.2).eval()
    parts = [random_ids(1, length, seed=length) for length in (9, 12, 3)]
    row = torch.cat(parts, dim=1)
    positions = torch.cat([torch.arange(part.shape[1]) for part in parts])[None]
    with torch.no_grad():
        alone = torch.cat([model(part).logits for part in parts], dim=1)
        packed = model(row, position_ids=positions, use_cache=False).logits
        joined = model(row, use_cache=False).logits
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(joined[:, :9], alone[:, :9], atol=1e-5, rtol=1e-4)
    assert (joined[:, 9:] - alone[:, 9:]).abs().max() > 0.1  # without restarts they see each other


@FAMILIES
def test_each_row_of_a_batch_has_dialogues_of_its_own_lengths(shape):
    model = build(shape, initializer_range=0.2)
    make_fast(model)
    model.eval()
    lengths = [(9, 12, 3), (20, 4)]
    rows = random_ids(2, T)
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in lengths])
    with torch.no_grad():
        packed = model(input_ids=rows, position_ids=positions, use_cache=False).logits
        for number, row in enumerate(lengths):
            alone = torch.cat([model(input_ids=part[None]).logits for part in rows[number].split(row)], dim=1)
            torch.testing.assert_close(packed[number : number + 1], alone, atol=1e-5, rtol=1e-4)


# Made fast


def batch(kind: str) -> dict[str, torch.Tensor]:
    """Return a batch of 2 x T tokens; labels are ignored here and there."""
    ids = random_ids(2, T)
    labels = ids.masked_fill(random_ids(2, T, seed=1) % 3 == 0, -100)
    values = {"input_ids": ids, "labels": labels}
    if kind != "mean":
        values["num_items_in_batch"] = torch.tensor(37)
    if kind == "packed":
        values["position_ids"] = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in ((9, 15), (20, 4))])
    return values


def build_for_trainer(shape: dict) -> PreTrainedModel:
    """Return a model as Trainer has it: no cache, which would switch the dialogues' separation off."""
    model = build(shape, initializer_range=0.2)
    model.config.use_cache = False
    return model


def loss_and_gradients(model: torch.nn.Module, values: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad()
    loss = model(**values).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_trains_alike(plain: torch.nn.Module, fast: torch.nn.Module, values: dict) -> None:
    expected_loss, expected = loss_and_gradients(plain, values)
    loss, gradients = loss_and_gradients(fast, values)
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    assert any(gradient.abs().max() > 1e-2 for gradient in expected.values())


@pytest.mark.parametrize("kind", ["mean", "num_items_in_batch", "packed"])
@pytest.mark.parametrize("shape", [QWEN3, LLAMA, GPT2, GEMMA2], ids=["qwen3", "llama", "gpt2", "gemma2"])
def test_fast_model_learns_the_same(shape, kind):
    plain, fast = build_for_trainer(shape), build_for_trainer(shape)
    make_fast(fast)
    assert_trains_alike(plain, fast, batch(kind))


@pytest.mark.parametrize("kind", ["mean", "num_items_in_batch", "packed"])
def test_logits_too_large_to_be_held_are_never_computed_whole(kind, monkeypatch):
    monkeypatch.setattr(fast_model, "LOGITS_BYTES", 100)
    monkeypatch.setattr(fast_model, "head_loss", None)  # what holds them
    plain, fast = build_for_trainer(QWEN3), build_for_trainer(QWEN3)
    monkeypatch.setattr(fast_model, "has_plain_head", lambda model: True)
    make_fast(fast)
    assert_trains_alike(plain, fast, batch(kind))


@pytest.mark.parametrize("compiled_rows", [None, 2])
def test_a_large_vocabulary_costs_nothing_where_no_label_is(compiled_rows, monkeypatch):
    monkeypatch.setattr(fast_model, "LARGE_VOCABULARY", 8)
    monkeypatch.setattr(Compiler, "compile", lambda self, plain: plain)
    counts = []
    monkeypatch.setattr(fast_model, "head_loss", lambda *given: counts.append(len(given[2])) or head_loss(*given))
    plain, fast = build_for_trainer(QWEN3), build_for_trainer(QWEN3)
    make_fast(fast, compiled_rows)
    given = batch("num_items_in_batch")
    given["labels"][:, : T // 2] = -100
    labelled = int((given["labels"][:, 1:] != -100).sum())
    counts.clear()
    assert_trains_alike(plain, fast, given)
    assert counts == [labelled]


def test_chunked_loss_is_in_the_precision_that_autocast_says():
    hidden, weight, targets = torch.randn(2 * T, 32), torch.randn(100, 32), torch.randint(0, 100, (2 * T,))
    with torch.autocast("cpu", torch.bfloat16):
        found = chunked_head_loss(hidden, weight, targets, None)
        expected = head_loss(hidden, weight, targets, None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("shape", [QWEN3, GPT2], ids=["qwen3", "gpt2"])
def test_fast_training_returns_no_logits(shape):
    fast = build_for_trainer(shape)
    make_fast(fast)
    assert fast.train()(**batch("mean")).logits is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_position_embeddings", 0), ("max_position_embeddings", -1), ("max_position_embeddings", 20_000_000),
     ("num_hidden_layers", 1_000_000), ("hidden_size", 0), ("num_attention_heads", -4),
     ("num_hidden_layers", 10**12), ("num_labels", 10**12), ("sliding_window", -5)],
)  # fmt: skip
def test_a_size_that_is_none_takes_no_memory(name, value, tokenizer):
    config = {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 1} | {name: value}
    config |= {"use_sliding_window": True, "layer_types": ["sliding_attention"]} if name == "sliding_window" else {}
    with pytest.raises(InputError, match=f"its config says {name} {value}; from 1 to [0-9,]+ is expected"):
        build_model(config, tokenizer)


@pytest.mark.parametrize("shape", [QWEN3, GPT2], ids=["qwen3", "gpt2"])
def test_only_whole_batches_are_compiled(shape, monkeypatch):
    """To compile for the rows that an epoch's end leaves took half a minute, for one step."""
    seen: list[int] = []

    def compile_(function):
        return lambda first, *args, **kwargs: seen.append(len(first)) or function(first, *args, **kwargs)

    monkeypatch.setattr(torch, "compile", compile_)
    plain, fast = build_for_trainer(shape), build_for_trainer(shape)
    make_fast(fast, 2)
    values = batch("mean")
    assert len(values["labels"]) == 2
    assert_trains_alike(plain, fast, values)
    assert seen == [2] * fast.config.num_hidden_layers + [2 * (T - 1)]  # and the head with its loss
    seen.clear()
    assert_trains_alike(plain, fast, {name: value[:1] for name, value in values.items()})
    fast.eval()(**values)
    assert seen == []


def test_a_compiler_that_fails_leaves_plain_layers(monkeypatch, capsys):
    tried = []

    def compile_(function):
        def fail(*args, **kwargs):
            tried.append(function)
            raise InvalidBackend("no such linker")

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    plain, fast = build_for_trainer(QWEN3), build_for_trainer(QWEN3)
    make_fast(fast, 2)
    for _ in range(2):
        assert_trains_alike(plain, fast, batch("mean"))
    assert len(tried) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: layers can't be compiled here and run plain, as by --torch_compile false: ")


@pytest.mark.parametrize("error", [ValueError("a bug"), torch.OutOfMemoryError("CUDA out of memory")])
def test_an_error_of_the_model_is_not_the_compilers(error, monkeypatch):
    def compile_(function):
        def fail(*args, **kwargs):
            raise error

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    fast = build_for_trainer(QWEN3)
    make_fast(fast, 2)
    with pytest.raises(type(error)):
        fast.train()(**batch("mean"))


@pytest.mark.parametrize("kind", ["mean", "packed"])
def test_fast_model_with_adapters_learns_the_same(kind):
    def adapt() -> torch.nn.Module:
        base = build_for_trainer(QWEN3)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        torch.manual_seed(1)
        return get_peft_model(base, config)

    plain, fast = adapt(), adapt()
    make_fast(fast.get_base_model())  # as train_utils.training does
    assert_trains_alike(plain, fast, batch(kind))


@pytest.mark.parametrize("shape", [QWEN3, GPT2], ids=["qwen3", "gpt2"])
def test_evaluation_and_generation_stay_as_they_are(shape):
    plain, fast = build_for_trainer(shape).eval(), build_for_trainer(shape)
    fast.train()
    make_fast(fast)
    assert fast.training  # the trial leaves the mode as it was
    fast.eval()
    with torch.no_grad():
        for values in (batch("mean"), {"input_ids": random_ids(2, T)}, batch("packed")):
            expected, found = plain(**values), fast(**values)
            assert torch.equal(found.logits, expected.logits)
            assert found.loss is None or torch.equal(found.loss, expected.loss)  # over num_items_in_batch if given
        mask = torch.ones(2, T, dtype=torch.long)
        mask[0, :5] = 0
        masked = {"input_ids": random_ids(2, T), "attention_mask": mask}
        assert torch.equal(fast(**masked).logits, plain(**masked).logits)
        options = {"max_new_tokens": 8, "do_sample": False, "use_cache": True, "eos_token_id": -1}
        assert torch.equal(fast.generate(random_ids(1, 5), **options), plain.generate(random_ids(1, 5), **options))


@pytest.mark.parametrize("training", [True, False])
def test_trial_leaves_the_model_as_it_was(training):
    model = build(QWEN3).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert has_plain_head(model)
    assert model.training is training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
@FAMILIES
def test_plain_heads_are_found(shape, tied):
    assert has_plain_head(build(shape, tie_word_embeddings=tied))


@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_capped_logits_are_no_plain_head(spread):
    """Gemma 2 bends its logits at 30; that those of an untrained model are small must not hide it."""
    assert not has_plain_head(build(GEMMA2, initializer_range=spread))


@pytest.mark.parametrize(
    "shape",
    [LLAMA | {"model_type": "granite", "logits_scaling": 8.0}, LLAMA | {"model_type": "cohere", "logit_scale": 0.0625}],
    ids=["granite", "cohere"],
)
def test_scaled_logits_are_no_plain_head(shape):
    assert not has_plain_head(build(shape))


def test_layers_are_found():
    for shape in (QWEN3, GPT2):
        layers = decoder_layers(build(shape))
        assert len(layers) == 2
        assert sum(p.numel() for p in layers.parameters()) > 10_000
    assert len(decoder_layers(torch.nn.Linear(2, 2))) == 0


# Arithmetic


def test_flops_count_what_multiplies():
    layer = 4 * D * D + 3 * D * 48 + 2 * 16 + 2 * D  # attention, MLP, norms of heads and layer
    weights = 2 * layer + D + V * D  # and the last norm and the head
    expected = 6 * weights + 6 * 2 * D * T
    assert flops_per_token(build(QWEN3), T) == expected
    assert flops_per_token(build(QWEN3, tie_word_embeddings=True), T) == expected


def test_flops_of_gpt2_leave_the_positions_out():
    layer = 12 * D * D + 13 * D  # Radford et al.: weights, biases and norms
    assert flops_per_token(build(GPT2), T) == 6 * (2 * layer + 2 * D + V * D) + 6 * 2 * D * T


def test_tied_parameters_count_once():
    assert count_parameters(build(QWEN3)) - count_parameters(build(QWEN3, tie_word_embeddings=True)) == V * D
