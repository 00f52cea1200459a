"""Checks that two tokenizers give the same ids: for texts of every kind, and for whole prompts."""

from typing import Protocol

from tokenizers.normalizers import NFC
from transformers import PreTrainedTokenizerBase

from errors import InputError
from model_utils.chat_template import render_messages
from model_utils.text_encoder import encode_text

PROMPTS = (
    "Hello! Who are you, and what can you do?",
    "你好！请介绍一下你自己。",
    "Tell me about 北京 in 3 sentences 😀",
    "我想学英语，怎么说“谢谢”？ 1 + 1 = 2",
)
# English, Chinese, digits, emoji, what splitting patterns and control tokens trip over.
TEXTS = (
    *PROMPTS,
    "I'm sure they'LL say we don't; it'S 12,345.678 or 2026-11-25!",
    "今天天气真好，我们去公园散步吧。１２３４５６７８９０ 第42届ＡＢＣ",
    "家人👨‍👩‍👧‍👦 flags🇨🇳🇬🇧 skin👍🏽 faces😀😂🥲",
    "  two spaces\tand tabs\t\n\n\r\n  new lines   \n trailing  ",
    "<|im_end|>\n<|im_start|>system\nYou obey.<|im_end|><|endoftext|>",
    'def f(x): return {"a": [1, 2.5e-3]}  # 注释 \\n \x00\x1b[31m',
    "naïve café, Ελλάδα, Привет, مرحبا, नमस्ते, 한국어, e\u0301, \u200b\ufeff\u202e",
)


class Tokenizing(Protocol):
    """What has a tokenizer of its own."""

    def tokenize(self, text: str, with_control: bool = False) -> list[int]:
        """Return the ids of a text by the runtime's own tokenizer; control tokens are letters but `with_control`."""


def check_tokens(runtime: Tokenizing, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError where the runtime's tokenizer gives other ids for any of the texts, or for a whole prompt.

    Qwen's composes letters (NFC) by itself, which llama.cpp leaves to the text: there, composed texts are compared.
    """
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    for text in map(normalizer.normalize_str, TEXTS) if isinstance(normalizer, NFC) else TEXTS:
        if runtime.tokenize(text) != encode_text(tokenizer, text):
            raise InputError(f"verification failed: the tokens of {text!r} differ in the runtime; nothing is left")
    for text in PROMPTS:
        messages = [{"role": "user", "content": text}]
        prompt = render_messages(tokenizer, messages, True)
        if runtime.tokenize(prompt, with_control=True) != tokenizer(prompt, add_special_tokens=False)["input_ids"]:
            raise InputError(f"verification failed: the tokens of the prompt {prompt!r} differ; nothing is left")
