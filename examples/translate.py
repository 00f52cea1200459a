"""Lines of English into Chinese, and of Chinese into English, each in the direction that its words tell. 中英互译。

python train.py --model_shape configs/models/t5gemma-5m.json --minutes 10 --output_dir ckpt_pair
python finetune_dialogue.py --base ckpt_pair --dialogues hsk --num_train_epochs 20 --output_dir ckpt_translate
python chat.py --model ckpt_translate --serve &
echo 你喜欢喝茶吗？ | python examples/translate.py
python examples/translate.py < letter.txt > letter.zh.txt

A model with an encoder is made for this: it reads the whole sentence before it writes. One of a few million parameters
knows the short sentences that it learned, and guesses at others.
"""

import sys

from client import ask, parse_options, run_example
from wording import is_chinese

ASKED = {True: "翻译成英文：{}", False: "Translate into Chinese: {}"}  # as the pairs of `--dialogues hsk` ask
# A translation is no chat: the same sentence gets the same words, and a word may come twice.
LIKELIEST = {"temperature": 0, "repetition_penalty": 1}


def translate(url: str, line: str) -> str:
    """Return a line in the other language; an empty one stays as it is."""
    text, chinese = line.strip(), is_chinese(line)
    if not text:
        return ""
    question = {"role": "user", "content": ASKED[chinese].format(text)}
    return " ".join(ask(url, [question], chinese, **LIKELIEST).splitlines())


def main() -> None:
    """Translate the lines of standard input."""
    options = parse_options(__doc__)
    for line in sys.stdin:
        print(translate(options.url, line), flush=True)


if __name__ == "__main__":
    run_example(main)
