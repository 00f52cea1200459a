"""Muon and AdamW as one optimizer: which weight goes where, that the step is theirs, and that it resumes."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, get_scheduler
from transformers.pytorch_utils import Conv1D

from train_utils.arguments import RunArguments
from train_utils.steps.muon import MuonSettings, orthogonalise, step_muon
from train_utils.steps.optimizer import MuonAdamW, Rates, choose_rates, muon_adamw, optimizer_factory, scale_rates

QWEN3 = {
    "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
SPECIAL = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
RATES = {
    "rates": Rates(0.02, 4e-3, 3e-3),
    "weight_decay": 0.1,
    "betas": (0.9, 0.95),
    "epsilon": 1e-8,
}


def build(shape: dict) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape, **SPECIAL))


def names_by_algorithm(model: nn.Module, optimizer: MuonAdamW) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {"muon": set(), "adamw": set()}
    for group in optimizer.param_groups:
        found[group["algorithm"]] |= {names[id(p)] for p in group["params"]}
    return found


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
    model = build(QWEN3)
    muon, inputs, rest = muon_adamw(model, **RATES).param_groups
    assert (muon["algorithm"], muon["lr"], muon["weight_decay"], muon["momentum"]) == ("muon", 0.02, 0.1, 0.95)
    for group, rate in ((inputs, 4e-3), (rest, 3e-3)):
        assert (group["algorithm"], group["lr"], group["weight_decay"]) == ("adamw", rate, 0.0)
        assert (group["betas"], group["eps"]) == ((0.9, 0.95), 1e-8)
    assert [id(p) for p in inputs["params"]] == [id(model.model.embed_tokens.weight)]
    assert any(p is model.lm_head.weight for p in rest["params"])


def test_tied_head_is_an_embedding():
    model = build(QWEN3 | {"tie_word_embeddings": True})
    _, inputs, rest = muon_adamw(model, **RATES).param_groups
    assert [id(p) for p in inputs["params"]] == [id(model.lm_head.weight)]
    assert all(p.ndim == 1 for p in rest["params"])


@pytest.mark.parametrize("shape", [QWEN3, GPT2], ids=["qwen3", "gpt2"])
def test_steps_equal_those_of_the_two_optimizers(shape):
    model, reference = build(shape), build(shape)
    optimizer = muon_adamw(model, **RATES)
    groups = names_by_algorithm(model, optimizer)
    named = dict(reference.named_parameters())
    inputs = [name for name in groups["adamw"] if "embed" in name or "wte" in name or "wpe" in name]
    adamw = torch.optim.AdamW(
        [{"params": [named[n] for n in inputs], "lr": 4e-3},
         {"params": [named[n] for n in groups["adamw"] if n not in inputs], "lr": 3e-3}],
        weight_decay=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True,
    )  # fmt: skip
    matrices = [named[name] for name in sorted(groups["muon"])]
    momenta = [torch.zeros_like(p) for p in matrices]
    turned = shape is GPT2  # its layers' weights are (inputs, outputs)
    scales = [p.new_zeros(p.shape[0], 1) if p.shape[0] >= p.shape[1] + turned else p.new_zeros(1, p.shape[1])
              for p in matrices]  # fmt: skip
    before = copy.deepcopy(model)
    for seed in range(3):
        set_gradients(model, seed)
        set_gradients(reference, seed)
        optimizer.step()
        adamw.step()
        for p, m, s in zip(matrices, momenta, scales, strict=True):  # one by one, where the optimizer stacks them
            step_muon([p], [m], [s], MuonSettings(0.02, 0.95, 0.1, torch.float32, turned))
        for (name, one), (_, other) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)
    for (name, old), (_, new) in zip(before.named_parameters(), model.named_parameters(), strict=True):
        assert not torch.equal(old, new), name  # every parameter moved


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_update_is_the_orthogonal_factor(shape, dtype):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalise(matrices, dtype).float()
    assert torch.linalg.svdvals(found).max() < 1.2
    kept = values > 0.2 * values.max()  # small singular values need more steps
    overlap = torch.einsum("nak,nab,nkb->nk", left, found, right)
    assert overlap[kept].min() > 0.8
    assert overlap[kept].max() < 1.2


def test_decay_acts_only_where_the_update_shrinks_too():
    parameter = torch.full((4, 4), 3.0)
    plain = parameter.clone()
    for p, decay in ((parameter, 0.5), (plain, 0.0)):
        p.grad = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
        step_muon([p], [torch.zeros(4, 4)], [torch.zeros(4, 1)], MuonSettings(0.1, 0.95, decay, torch.float32))
    shrank = plain < 3.0
    torch.testing.assert_close(parameter[shrank], plain[shrank] - 0.1 * 0.5 * 3.0)
    assert torch.equal(parameter[~shrank], plain[~shrank])


def test_tall_matrices_take_larger_steps():
    sizes = []
    for shape in ((64, 16), (16, 16)):
        p = torch.zeros(shape)
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        step_muon([p], [torch.zeros(shape)], [torch.zeros(shape[0], 1)], MuonSettings(1.0, 0.95, 0.0, torch.float32))
        sizes.append(torch.linalg.matrix_norm(p).item())
    assert sizes[0] / sizes[1] == pytest.approx(2, rel=0.1)  # sqrt(64 / 16)


class OneLayer(nn.Module):
    """A model of one layer, as muon_adamw takes it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def get_output_embeddings(self) -> None:
        return None


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 64), (64, 16), (16, 16)])
def test_layer_learns_the_same_whichever_way_its_weight_is_kept(inputs, outputs):
    """GPT-2's Conv1D is nn.Linear with its weight transposed."""
    torch.manual_seed(0)
    linear, turned = OneLayer(nn.Linear(inputs, outputs)), OneLayer(Conv1D(outputs, inputs))
    with torch.no_grad():
        turned.layer.weight.copy_(linear.layer.weight.T)
    optimizers = [muon_adamw(model, **RATES) for model in (linear, turned)]
    for _ in range(3):
        gradient = torch.randn(outputs, inputs)
        linear.layer.weight.grad, turned.layer.weight.grad = gradient, gradient.T.contiguous()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(turned.layer.weight.T, linear.layer.weight, rtol=1e-4, atol=1e-5)


def test_rates_scale_by_the_stated_rules():
    base, wide, large = scale_rates(256, 4096), scale_rates(1024, 4096), scale_rates(256, 16384)
    assert wide == Rates(base.matrices, base.embeddings / 2, base.rest / 2)
    assert large == Rates(2 * base.matrices, 2 * base.embeddings, 2 * base.rest)
    assert scale_rates(256, 2**40) == scale_rates(256, 2**20)  # the root rule ends
    new = scale_rates(256, 4096, "random")
    assert new == Rates(pytest.approx(5 * base.matrices), pytest.approx(30 * base.rest), pytest.approx(30 * base.rest))
    assert scale_rates(256, 4096, "random", 10) == scale_rates(256, 4096, "random", 10_000)


def test_the_rate_after_the_fit_grows_with_the_root_of_the_steps():
    short, long = scale_rates(256, 4096, "fitted", 60), scale_rates(256, 4096, "fitted", 240)
    assert long == Rates(short.matrices, pytest.approx(2 * short.embeddings), pytest.approx(2 * short.rest))
    assert scale_rates(256, 4096, "fitted", 10**6) == scale_rates(256, 4096, "random")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ({}, scale_rates(32, 4096)),
        ({"learning_rate": 0.5}, Rates(scale_rates(32, 4096).matrices, 0.5, 0.5)),
        ({"matrix_learning_rate": 0.5}, Rates(0.5, scale_rates(32, 4096).embeddings, scale_rates(32, 4096).rest)),
        ({"optim": "adamw", "learning_rate": 0.25}, Rates(0.25, 0.25, 0.25)),
        ({"optim": "adamw"}, Rates(*[pytest.approx(0.0064)] * 3)),
    ],
)
def test_what_the_user_gives_counts(tmp_path, argv, expected):
    args = RunArguments(output_dir=str(tmp_path), use_cpu=True, **argv)
    assert choose_rates(args, build(QWEN3), start="trained", batch_tokens=4096, steps=100) == expected


def test_the_steps_of_the_run_count(tmp_path):
    args = RunArguments(output_dir=str(tmp_path), use_cpu=True)
    assert choose_rates(args, build(QWEN3), start="fitted", batch_tokens=4096, steps=60) == scale_rates(
        32, 4096, "fitted", 60
    )


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
    assert kinds == {frozenset({"momentum_buffer", "scale"}), frozenset({"step", "exp_avg", "exp_avg_sq"})}


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
    assert rates == [pytest.approx([0.02 * share, 4e-3 * share, 3e-3 * share]) for share in (0, 0.5, 1, 0.5)]


def test_gradients_are_dropped():
    model = build(QWEN3)
    optimizer = muon_adamw(model, **RATES)
    set_gradients(model, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_factory_passes_the_options_on(tmp_path):
    args = RunArguments(
        output_dir=str(tmp_path), use_cpu=True, weight_decay=0.2, adam_beta1=0.8, adam_beta2=0.98, adam_epsilon=1e-7,
        bf16=False,
    )  # fmt: skip
    make, kwargs = optimizer_factory(args, Rates(0.05, 3e-3, 2e-3))
    muon, inputs, rest = make()(build(QWEN3), **kwargs).param_groups
    assert (muon["lr"], muon["weight_decay"], muon["bf16"]) == (0.05, 0.2, False)
    assert (inputs["lr"], rest["lr"], rest["betas"], rest["eps"]) == (3e-3, 2e-3, (0.8, 0.98), 1e-7)


def test_trainers_own_optimizers_need_no_factory(tmp_path):
    args = RunArguments(output_dir=str(tmp_path), use_cpu=True, optim="adamw")
    assert optimizer_factory(args, Rates(1, 1, 1)) is None
