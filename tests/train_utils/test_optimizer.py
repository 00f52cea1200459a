"""Muon and AdamW as one optimizer: which weight goes where, that the step is theirs, and that it resumes."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, get_scheduler

from train_utils.arguments import RunArguments
from train_utils.optimizer import MuonAdamW, muon_adamw, optimizer_factory

QWEN3 = {
    "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
SPECIAL = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
RATES = {
    "matrix_learning_rate": 0.02,
    "learning_rate": 3e-3,
    "weight_decay": 0.1,
    "betas": (0.9, 0.95),
    "epsilon": 1e-8,
}


def build(shape: dict) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape, **SPECIAL))


def names_by_algorithm(model: nn.Module, optimizer: MuonAdamW) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["algorithm"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}


def set_gradients(model: nn.Module, seed: int) -> None:
    """Give each parameter a random gradient; no backward pass is needed to test a step."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def assert_same_parameters(first: nn.Module, second: nn.Module) -> None:
    for (name, one), (_, other) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize(
    ("shape", "matrices"),
    [
        (QWEN3, {f"model.layers.{i}.{name}.weight" for i in (0, 1) for name in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}),
        (QWEN3 | {"tie_word_embeddings": True}, {f"model.layers.{i}.{name}.weight" for i in (0, 1) for name in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}),
        (GPT2, {f"transformer.h.{i}.{name}.weight" for i in (0, 1) for name in (
            "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}),
    ],
    ids=["qwen3", "qwen3, tied", "gpt2"],
)  # fmt: skip
def test_matrices_of_layers_go_to_muon_and_all_else_to_adamw(shape, matrices):
    model = build(shape)
    found = names_by_algorithm(model, muon_adamw(model, **RATES))
    assert found["muon"] == matrices
    assert found["adamw"] == {name for name, _ in model.named_parameters()} - matrices


def test_frozen_weights_are_left_out():
    model = build(QWEN3)
    model.model.layers[0].requires_grad_(False)
    model.model.embed_tokens.requires_grad_(False)
    found = names_by_algorithm(model, muon_adamw(model, **RATES))
    assert found["muon"] == {name for name, p in model.named_parameters() if p.ndim == 2 and "layers.1." in name}
    assert found["muon"] | found["adamw"] == {name for name, p in model.named_parameters() if p.requires_grad}


def test_groups_carry_the_rates():
    muon, adamw = muon_adamw(build(QWEN3), **RATES).param_groups
    assert (muon["algorithm"], muon["lr"], muon["weight_decay"]) == ("muon", 0.02, 0.1)
    assert (adamw["algorithm"], adamw["lr"], adamw["weight_decay"]) == ("adamw", 3e-3, 0.0)
    assert (adamw["betas"], adamw["eps"]) == ((0.9, 0.95), 1e-8)


@pytest.mark.parametrize("shape", [QWEN3, GPT2], ids=["qwen3", "gpt2"])
def test_steps_equal_those_of_the_two_optimizers(shape):
    model, reference = build(shape), build(shape)
    optimizer = muon_adamw(model, **RATES)
    groups = names_by_algorithm(model, optimizer)
    parts = {name: [p for n, p in reference.named_parameters() if n in groups[name]] for name in groups}
    references = [
        torch.optim.Muon(parts["muon"], lr=0.02, weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(parts["adamw"], lr=3e-3, weight_decay=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True),
    ]
    before = copy.deepcopy(model)
    for seed in range(3):
        set_gradients(model, seed)
        set_gradients(reference, seed)
        optimizer.step()
        for other in references:
            other.step()
        assert_same_parameters(model, reference)
    for (name, old), (_, new) in zip(before.named_parameters(), model.named_parameters(), strict=True):
        assert not torch.equal(old, new), name  # every parameter moved


def train_steps(model: nn.Module, optimizer: MuonAdamW, scheduler, seeds: range) -> None:
    for seed in seeds:
        set_gradients(model, seed)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def scheduled(model: nn.Module):
    optimizer = muon_adamw(model, **RATES)
    return optimizer, get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=8)


def test_resumed_run_equals_one_that_never_stopped(tmp_path):
    whole = build(QWEN3)
    train_steps(whole, *scheduled(whole), range(6))

    stopped = build(QWEN3)
    optimizer, scheduler = scheduled(stopped)
    train_steps(stopped, optimizer, scheduler, range(3))
    saved = {"model": stopped.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save(saved, tmp_path / "state.pt")

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = build(QWEN3)
    optimizer, scheduler = scheduled(resumed)
    resumed.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    train_steps(resumed, optimizer, scheduler, range(3, 6))
    assert_same_parameters(whole, resumed)

    # Without the state it would not be the same: the momenta count.
    forgetful = build(QWEN3)
    forgetful.load_state_dict(state["model"])
    optimizer, scheduler = scheduled(forgetful)
    scheduler.load_state_dict(state["scheduler"])
    train_steps(forgetful, optimizer, scheduler, range(3, 6))
    assert not torch.equal(whole.lm_head.weight, forgetful.lm_head.weight)
    assert not torch.equal(whole.model.layers[0].mlp.up_proj.weight, forgetful.model.layers[0].mlp.up_proj.weight)


def test_state_holds_every_parameter():
    model = build(QWEN3)
    optimizer = muon_adamw(model, **RATES)
    set_gradients(model, 0)
    optimizer.step()
    state = optimizer.state_dict()
    assert len(state["state"]) == len(list(model.parameters()))
    kinds = {frozenset(values) for values in state["state"].values()}
    assert kinds == {frozenset({"momentum_buffer"}), frozenset({"step", "exp_avg", "exp_avg_sq"})}


def test_schedule_reaches_both_groups_and_the_step():
    model = build(QWEN3)
    optimizer = muon_adamw(model, **RATES)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=2, num_training_steps=4)
    rates = []
    before = copy.deepcopy(model)
    for seed in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        set_gradients(model, seed)
        optimizer.step()
        scheduler.step()
        if seed == 0:
            assert_same_parameters(before, model)  # the first step of a warm-up has rate 0
    assert rates == [pytest.approx([0.02 * share, 3e-3 * share]) for share in (0, 0.5, 1, 0.5)]


def test_gradients_are_dropped():
    model = build(QWEN3)
    optimizer = muon_adamw(model, **RATES)
    set_gradients(model, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_factory_passes_the_options_on(tmp_path):
    args = RunArguments(
        output_dir=str(tmp_path), use_cpu=True, matrix_learning_rate=0.05, learning_rate=2e-3, weight_decay=0.2,
        adam_beta1=0.8, adam_beta2=0.98, adam_epsilon=1e-7,
    )  # fmt: skip
    make, kwargs = optimizer_factory(args)
    muon, adamw = make()(build(QWEN3), **kwargs).param_groups
    assert (muon["lr"], muon["weight_decay"]) == (0.05, 0.2)
    assert (adamw["lr"], adamw["betas"], adamw["eps"]) == (2e-3, (0.8, 0.98), 1e-7)


def test_trainers_own_optimizers_need_no_factory(tmp_path):
    assert optimizer_factory(RunArguments(output_dir=str(tmp_path), use_cpu=True, optim="adamw")) is None
