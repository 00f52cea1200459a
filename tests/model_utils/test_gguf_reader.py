"""GGUF files of several kinds and types: imported with llama.cpp's ids, and its logits as far as the type allows."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GemmaTokenizer
from transformers.tokenization_utils_base import generate_merges

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from chat_utils.engine import load_engine
from chat_utils.runtimes.llama_cpp import LlamaModel
from chat_utils.runtimes.slots import SlotDecoder
from data_utils.dialogue.format import stop_token_id
from errors import InputError
from model_utils import gguf_reader, gguf_writer
from model_utils.checkpoint import load_checkpoint, load_model, load_tokenizer, read_stop_ids
from model_utils.finding import find_checkpoint
from tests.conftest import own_texts

WIDE = {  # rows of 256 numbers, which the K types need
    "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 256, "initializer_range": 0.1,
}  # fmt: skip
KINDS = {
    "llama": {**WIDE, "rope_theta": 5e5, "tie_word_embeddings": False},
    "qwen2": {**WIDE, "tie_word_embeddings": True},
    "qwen3": {**WIDE, "tie_word_embeddings": True},
    "gemma3_text": {**WIDE, "num_hidden_layers": 7, "sliding_window": 16, "query_pre_attn_scalar": 64},
    "gpt2": {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.1},
}
FILES = [  # the largest difference allowed, of the spread of the logits: llama.cpp rounds what meets 8 bits to 8 bits
    ("llama", "f16", 0.01), ("llama", "q4_k", 0.2), ("qwen2", "q8_0", 0.2), ("qwen2", "q4_1", 0.2),
    ("qwen3", "q5_0", 0.2), ("qwen3", "q6_k", 0.2), ("gemma3_text", "f16", 0.01), ("gemma3_text", "q8_0", 0.2),
    ("gpt2", "bf16", 0.05), ("gpt2", "q4_0", 0.2),
]  # fmt: skip
K_BLOCKS = {"q4_k": ((0, 3e-4), (2, 2e-3)), "q6_k": ((208, 1e-4),)}  # where a block's float16 scales stand
TEMPLATE = (
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' "
    "+ m['content'] + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}"
    "{% endif %}"
)


@pytest.fixture(scope="module")
def gemma_tokenizer():
    """A tokenizer of SentencePiece's kind, as Gemma has it: no bytes but where a letter is unknown."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(
        [w for t in own_texts()[::8] for w in t.split("\n")], trainers.BpeTrainer(vocab_size=900)
    )
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    learned = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    tokens = [*control, *(f"<0x{n:02X}>" for n in range(256)), *learned]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    merges = generate_merges(vocab, {token: -number for token, number in vocab.items() if token in learned})
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, additional_special_tokens=control[5:])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def pack_blocks(kind: str):
    """Return what packs matrices in a type that no quantizer is at hand for: as random blocks."""
    number = gguf.GGMLQuantizationType[kind.upper()]

    def pack(name: str, weight: np.ndarray, quantize: str):
        if weight.ndim == 1:
            return weight, gguf.GGMLQuantizationType.F32
        if kind not in K_BLOCKS:
            return gguf.quants.quantize(weight, number), number
        block, size = gguf.GGML_QUANT_SIZES[number]
        data = np.random.default_rng(len(name)).integers(0, 256, (weight.size // block, size), dtype=np.uint8)
        for place, scale in K_BLOCKS[kind]:
            data[:, place : place + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
        return data.reshape(*weight.shape[:-1], -1), number

    return pack


@pytest.fixture(scope="module")
def make_file(tokenizer, gemma_tokenizer, tmp_path_factory):
    """A function that writes a GGUF file of a kind and type."""

    def make(kind: str, quantize: str) -> Path:
        torch.manual_seed(0)
        words = gemma_tokenizer if kind == "gemma3_text" else tokenizer
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **KINDS[kind], vocab_size=len(words))
        ).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() == 1:
                    weight.add_(torch.randn_like(weight) * (0.2 if name.endswith("weight") else 0.5))
        file = tmp_path_factory.mktemp("gguf") / f"{kind}-{quantize}.gguf"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(gguf_writer.FILE_TYPES, quantize, 0)
            patch.setattr(gguf_writer, "K_TYPES", ())
            patch.setattr(gguf_writer, "pack_weight", pack_blocks(quantize))
            gguf_writer.write_gguf(model, words, stop_token_id(words), file, quantize)
        return file

    return make


@pytest.mark.parametrize(("kind", "quantize", "allowed"), FILES)
def test_logits_and_ids_are_llama_cpps(kind, quantize, allowed, make_file):
    file = make_file(kind, quantize)
    model, tokenizer = load_checkpoint(str(file))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    record = json.loads((Path(find_checkpoint(str(file))) / "import.json").read_text())
    assert record["tokenizer"] == "gives llama.cpp's ids"
    assert record["types"][quantize.upper()] > 8
    assert (record["file"], record["architecture"]) == (str(file), kind.removesuffix("_text"))
    assert read_stop_ids(str(file)) == {stop_token_id(tokenizer)}
    assert tokenizer.pad_token_id not in read_stop_ids(str(file))
    runtime = LlamaModel(file, exact=True)
    ids = tokenizer("Hello! 你好，我们今天去公园散步吧。 12  34 😀", add_special_tokens=False)["input_ids"]
    assert len(ids) > 20  # more than the window of Gemma's layers
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits[0]
    for count in (1, len(ids) // 2, len(ids)):
        runtime.cut(0, 0)
        (found,) = runtime.decode([(0, 0, ids[:count])])
        difference = np.abs(found[: len(expected[0])] - expected[count - 1].numpy()).max()
        assert difference <= allowed * expected[count - 1].std().item()


def test_a_file_is_imported_once_and_its_tokenizer_alone_where_that_is_enough(make_file, monkeypatch, capsys):
    file = make_file("qwen3", "q8_0")
    tokenizer = load_tokenizer(str(file))
    folder = Path(find_checkpoint(str(file), weights=False))
    assert not (folder / "model.safetensors").exists()
    assert capsys.readouterr().err == ""
    load_model(str(file))
    assert f"{file} is imported into {folder}" in capsys.readouterr().err
    monkeypatch.setattr(gguf_reader, "import_weights", None)
    monkeypatch.setattr(gguf_reader, "import_tokenizer", None)
    assert load_model(str(file)).config.model_type == "qwen3"
    assert load_tokenizer(str(folder)).get_vocab() == tokenizer.get_vocab()
    monkeypatch.undo()
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    gguf_reader.find_damage_once.cache_clear()  # as in another process
    load_model(str(file))
    assert f"note: {folder}: model.safetensors is damaged; it is made anew" in capsys.readouterr().err
    assert weights.read_bytes() == whole


def test_a_file_that_is_only_talked_to_goes_to_llama_cpp(make_file):
    file = make_file("qwen3", "q8_0")
    engine = load_engine(str(file))
    assert isinstance(engine.decoder, SlotDecoder)
    assert isinstance(engine.decoder.model, LlamaModel)
    assert engine.name == "qwen3-q8_0"
    assert engine.stop_ids == {2}
    assert not (Path(find_checkpoint(str(file), weights=False)) / "model.safetensors").exists()
    assert not isinstance(load_engine(str(file), "transformers").decoder, SlotDecoder)


def test_digits_are_split_as_llama_cpp_does(tokenizer, make_file, monkeypatch):
    monkeypatch.setattr(gguf_writer, "name_splitter", lambda _: "smollm")
    import_it = load_tokenizer(str(make_file("llama", "f16")))
    assert import_it.tokenize("a  5 12")[-2:] == ["1", "2"]
    assert json.loads(import_it.backend_tokenizer.to_str())["pre_tokenizer"]["pretokenizers"][0]["type"] == "Digits"


def test_another_tokenizer_than_llama_cpps_is_refused(make_file, monkeypatch):
    file = make_file("qwen2", "q8_0")
    monkeypatch.setattr(gguf_reader, "DIGIT_SPLITS", ("qwen2",))
    with pytest.raises(InputError, match=r"the tokens of .* differ"):
        load_tokenizer(str(file))


def test_a_pointer_and_a_cut_file_are_told_in_one_line(make_file, tmp_path):
    whole, layers = make_file("qwen3", "q8_0").read_bytes(), b"qwen3.block_count\4\0\0\0"
    words = [(b"general.architecture", b"qwen3"), (b"split.count", b"x")]
    fields = [struct.pack(f"<Q{len(a)}sIQ{len(b)}s", len(a), a, 8, len(b), b) for a, b in words]
    part = b"GGUF" + struct.pack("<IQQ", 3, 0, len(words)) + b"".join(fields)
    for name, data, message in (
        ("cut", whole[:-1000], r"is cut short: [\d,]+ bytes of [\d,]+; fetch it again"),
        ("start", whole[:2000], "is cut short or damaged; fetch it again"),
        ("part", part, "is one of x parts; join them"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("page", b"<!DOCTYPE html>", "is no GGUF file"),
        ("deep", whole.replace(layers + b"\2\0\0\0", layers + b"\xff" * 4), "says num_hidden_layers 4294967295"),
    ):
        (tmp_path / f"{name}.gguf").write_bytes(data)
        with pytest.raises(InputError, match=message):
            load_model(str(tmp_path / f"{name}.gguf"))
    shutil.copy(make_file("qwen3", "q8_0"), tmp_path / "folder.gguf")
    with pytest.raises(InputError, match="name the file: "):
        load_model(str(tmp_path))
