"""An encoder-decoder on the road of the decoders: pretrained, resumed, tuned, answering, measured."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import finetune_dialogue
import score
import train
import tune_preferences
from chat_utils.engine import load_engine
from chat_utils.sampling import Sampling
from data_utils.dialogue.window import encode_prompt
from errors import InputError
from eval_utils.decoding_speed import decoding_bytes
from eval_utils.likelihood import Scored, Scorer
from model_utils.checkpoint import load_model, load_tokenizer
from model_utils.families import start_token_id
from model_utils.tokenizer import TURN_START, find_sentinels
from train_utils import self_replay

ROOT = Path(__file__).parents[1]
HALF = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32, "max_position_embeddings": 256,
    "sliding_window": 256, "layer_types": ["full_attention"], "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}  # fmt: skip
SHAPE = {"model_type": "t5gemma", "encoder": HALF, "decoder": HALF}
MORE = {
    "--max_steps": "4", "--save_steps": "2", "--warmup_steps": "0", "--eval_strategy": "no", "--denoise": "mixed",
    "--per_device_train_batch_size": "2", "--gradient_accumulation_steps": "2",
}  # fmt: skip
TUNED = [
    "--dialogues", "{dialogues}", "--eval_fraction", "0.2", "--row_tokens", "128", "--max_steps", "3", "--report_to",
    "none", "--eval_strategy", "no", "--save_strategy", "no", "--eval_on_start", "false", "--bf16", "false",
    "--torch_compile", "false", "--use_cpu", "true",
]  # fmt: skip
QUESTION = [{"role": "user", "content": "你好，你是谁？ Who are you?"}]


@pytest.fixture(scope="module")
def options(train_options, tmp_path_factory) -> list[str]:
    shape = tmp_path_factory.mktemp("shape") / "pair.json"
    shape.write_text(json.dumps(SHAPE))
    given = dict(zip(train_options[::2], train_options[1::2], strict=True))
    given |= {"--model_shape": str(shape), **MORE}
    for name in ("--eval_steps", "--eval_tokens", "--head_start"):
        del given[name]
    return [word for pair in given.items() for word in pair]


@pytest.fixture(scope="module")
def base(options, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "ckpt"
    assert train.main([*options, "--output_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> list[str]:
    """Options of finetune_dialogue.py for 40 dialogues."""
    file = tmp_path_factory.mktemp("dialogues") / "few.jsonl"
    lines = (ROOT / "data_utils/chat_data/zh.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:40]), encoding="utf-8")
    return [word.format(dialogues=file) for word in TUNED]


@pytest.fixture(scope="module")
def chat(base, tuned, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "ckpt"
    assert finetune_dialogue.main(["--base", str(base), "--output_dir", str(folder), *tuned]) == 0
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_opens_with_transformers_alone(base):
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    assert type(model).__name__ == "T5GemmaForConditionalGeneration"
    assert len(find_sentinels(tokenizer)) == 64
    start = tokenizer.convert_tokens_to_ids(TURN_START)
    assert start_token_id(model.config) == model.generation_config.decoder_start_token_id == start
    ids = tokenizer("Hello", return_tensors="pt").input_ids
    assert model.generate(input_ids=ids, max_new_tokens=3)[0, 0] == start


def test_killed_run_resumes_bit_for_bit(base, options, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder / "checkpoint-4")
    record = yaml.safe_load((folder / "run.yaml").read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump({**record, "status": "running"}))
    assert train.main([*options, "--output_dir", str(folder), "--resume_from_checkpoint", "true"]) == 0
    first, second = weights(base), weights(folder)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_learns_to_reply(base, chat, tuned, kind, tmp_path, capsys):
    folder = chat
    if kind == "lora":
        folder = tmp_path / "lora"
        assert finetune_dialogue.main(["--base", str(base), "--output_dir", str(folder), "--lora", "true", *tuned]) == 0
        config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        assert config["task_type"] == "SEQ_2_SEQ_LM"
        said = capsys.readouterr().out
        assert re.search(r"memory: 0\.\d+ M parameters, of which 0\.\d+ M are trained; at the peak about ", said)
        assert "what is written: " in said
        assert load_model(str(folder)).config.tie_word_embeddings
    before, after = weights(base), weights(folder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in changed} == {"encoder", "decoder"}


def test_text_and_own_replies_are_replayed_as_pairs(chat, tuned, corpus_file, tmp_path, monkeypatch, capsys):
    """Beside the dialogues: the ends of documents, and what the model itself answered."""
    replies = [([300, 301], True), ([302], True)]  # one that has learned little seldom ends a reply
    monkeypatch.setattr(self_replay, "continue_together", lambda model, prompts, *_, **__: replies[: len(prompts)])
    more = ["--replay", "0.3", "--replay_corpus", str(corpus_file), "--replay_replies", "2", "--eval_steps", "3"]
    folder = tmp_path / "out"
    evaluated = [{"no": "steps"}.get(word, word) for word in tuned]  # of both strategies; that of saving is harmless
    assert finetune_dialogue.main(["--base", str(chat), *evaluated, *more, "--output_dir", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "replay: 2 whole replies of the base to 2 questions, 1 held out" in said
    read, held_out = (int(number) for number in re.search(r"dialogues: (\d+) read, (\d+) held out", said).groups())
    assert 1 < held_out < read  # one of them is the base's
    assert re.search(r"replay: [1-9]\d* rows of text among \d+", said)
    trained, finished = (re.findall(r"step 3: held-out (\w+): loss [\d.]+,", part) for part in said.split("% trained,"))
    assert trained == finished == ["base", "zh", "text_en", "text_zh"]


def test_greedy_tokens_are_those_of_generate(chat):
    engine = load_engine(str(chat))
    model, tokenizer = load_model(str(chat)).eval(), load_tokenizer(str(chat))
    torch.manual_seed(0)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(torch.randn(head.weight.shape))  # not the embedding, so that its tokens vary
    ids, _ = encode_prompt(tokenizer, QUESTION, 256)
    expected = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=20, eos_token_id=[])[0, 1:].tolist()
    assert len(set(expected)) > 3
    calls = []
    model.get_encoder().register_forward_hook(lambda *_: calls.append(1))
    engine.decoder.model = model
    session = engine.decoder.open(ids, Sampling(temperature=0, repetition_penalty=1.0))
    found = []
    while len(found) < 20:
        found += session.step(1)
    assert found == expected
    assert len(calls) == 1  # once a turn
    assert session.state.cache.self_attention_cache.get_seq_length() == 20
    assert session.state.cache.cross_attention_cache.get_seq_length() == len(ids)
    session.state = None  # as an interrupt leaves it
    assert session.step(1) == model.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=21, eos_token_id=[]
    )[0, -1:].tolist()  # fmt: skip
    session.close()
    penalized = engine.decoder.open(ids, Sampling(temperature=0, repetition_penalty=1.5))
    expected = model.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=9, eos_token_id=[], repetition_penalty=1.5
    )  # fmt: skip
    assert [token for _ in range(9) for token in penalized.step(1)] == expected[0, 1:].tolist() != found[:9]


def test_a_long_source_is_read_whole(chat):
    """Longer than a part of a prefill: the encoder sees all of it or nothing."""
    decoder = load_engine(str(chat)).decoder
    ids = [5 + n % 200 for n in range(600)]
    session = decoder.open(ids, Sampling(temperature=0, repetition_penalty=1.0))
    found: list[int] = []
    while not found:
        found = session.step(1)
    expected = decoder.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=1, eos_token_id=[])
    assert found == expected[0, 1:].tolist()


def test_chat_has_seed_stop_window_and_streams(chat):
    engine = load_engine(str(chat))
    texts = ["".join(engine.reply(QUESTION, Sampling(seed=3, max_new_tokens=12))) for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(list(engine.reply(QUESTION, Sampling(seed=3, max_new_tokens=60)))) > 1
    long = [*([{"role": "user", "content": "a b c " * 20}, {"role": "assistant", "content": "好" * 20}] * 4), *QUESTION]
    reply = engine.reply(long, Sampling(seed=1, max_new_tokens=4))
    "".join(reply)
    assert reply.stats.dropped_messages > 0
    assert reply.stats.prompt_tokens + 4 <= engine.window == 256
    with pytest.raises(InputError, match="--engine batched: t5gemma models are not batched"):
        load_engine(str(chat), "batched")


def test_likelihoods_are_those_of_the_target(chat):
    model = load_model(str(chat)).eval()
    ids = tuple(range(5, 25))
    found = Scorer(model).score([Scored(ids, range(8, 20)), Scored(ids[:9], [3, 4, 8])])
    start = start_token_id(model.config)

    def nats(source: tuple[int, ...], target: tuple[int, ...]) -> float:
        given = torch.tensor([[start, *target[:-1]]])
        inputs = {"input_ids": torch.tensor([source]), "attention_mask": torch.ones(1, len(source))}
        with torch.no_grad():
            logits = model(**inputs, decoder_input_ids=given, decoder_attention_mask=torch.ones_like(given)).logits[0]
        return -logits.log_softmax(-1)[range(len(target)), list(target)].sum().item()

    assert found.nats[0] == pytest.approx(nats(ids[:8], ids[8:20]), rel=1e-4)
    assert found.nats[1] == pytest.approx(nats(ids[:3], ids[3:5]) + nats(ids[:8], ids[8:9]), rel=1e-4)


def test_is_scored(chat, tuned, tmp_path, capsys):
    parts = ["--parts", "dialogues", "speed", "--dialogues", tuned[1], "--limit", "2", "--output_dir", str(tmp_path)]
    assert score.main([str(chat), *parts]) == 0
    assert "held-out replies, zh" in capsys.readouterr().out
    model = load_model(str(chat))
    decoder = model.get_decoder().config
    a_token = 2 * 4 * decoder.num_key_value_heads * decoder.head_dim * decoder.num_hidden_layers
    size = 4 * sum(weight.numel() for weight in model.parameters())
    # A window holds source and target, and the trial is a token longer than the source of 8.
    assert decoding_bytes(model) == size + a_token * 9 * 256 // 8


@pytest.mark.parametrize(
    ("script", "given", "words"),
    [
        (train, ["--denoise", "spans", "--max_steps", "1"], "--denoise spans: a qwen3 model has no encoder"),
        (
            train,
            ["--repeated", "0.2", "--max_steps", "1", "--model_shape", "configs/models/t5gemma-2m.json"],
            "--repeated 0.2: a model with an encoder copies from its source; leave it out",
        ),
        (
            tune_preferences,
            ["--base", "{chat}", "--row_tokens", "128"],
            "a t5gemma model cannot learn from dialogues that are packed to one text",
        ),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(script, given, words, base, chat, tuned, train_options, tmp_path):
    folder = ["--output_dir", str(tmp_path / "out")]
    short = train_options if script is train else tuned if script is finetune_dialogue else []
    if script is train:
        short = [word for word in short if word not in ("--max_steps", "12")]
    given = [word.format(base=base, chat=chat) for word in given]
    with pytest.raises(InputError, match=words) as error:
        script.main([*short, *given, *folder])
    assert "\n" not in str(error.value)
