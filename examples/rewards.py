"""Rewards whose answers are known, for --reward of tune_preferences.py, and dialogues of them. 可以核对的奖励。

python examples/rewards.py sums 4000 > sums.jsonl
python finetune_dialogue.py --base ckpt_chat --dialogues sums.jsonl own --output_dir ckpt_sums
python tune_preferences.py --base ckpt_sums --dialogues sums.jsonl --reward examples/rewards.py:sums

A reward is a function of the user's last message and a reply, and returns a number, the higher the better. These give
1 for a right reply and 0 for a wrong one. `sums` is for two numbers up to 99, `letters` for how often a letter occurs,
`language` for a reply in the asker's language, whatever was said.
"""

import argparse
import json
import random
import re

ASKED_SUMS = ("What is {} + {}?", "{} + {} 等于多少？")
ASKED_LETTERS = ("How often is {} in: {}?", "数一数有几个 {}：{}。")
CHINESE = re.compile("[\u4e00-\u9fff]")


def sums(prompt: str, reply: str) -> float:
    """Return whether the only number of a reply is the sum that was asked for.

    >>> sums("What is 12 + 9?", "It is 21."), sums("12 + 9 等于多少？", "20"), sums("Hello", "21")
    (1.0, 0.0, 0.0)
    """
    asked = re.search(r"(\d+) \+ (\d+)", prompt)
    return float(bool(asked) and re.findall(r"\d+", reply) == [str(sum(map(int, asked.groups())))])


def letters(prompt: str, reply: str) -> float:
    """Return whether the only number of a reply is how often the letter occurs.

    >>> letters("How often is a in: b a n a n a?", "3"), letters("数一数有几个 a：b a n a n a。", "2")
    (1.0, 0.0)
    """
    asked = re.search(r"\b([a-z])(?: in: |：)((?:[a-z] )*[a-z])", prompt)
    return float(bool(asked) and re.findall(r"\d+", reply) == [str(asked[2].split().count(asked[1]))])


def language(prompt: str, reply: str) -> float:
    """Return whether a reply is in the language of its prompt, Chinese or another.

    >>> language("你好", "你好！"), language("Hello", "你好！")
    (1.0, 0.0)
    """
    return float(bool(CHINESE.search(prompt)) == bool(CHINESE.search(reply)))


def ask_sum(draw: random.Random) -> tuple[str, str]:
    """Return a question and its answer."""
    one, other = draw.randint(0, 99), draw.randint(0, 99)
    return draw.choice(ASKED_SUMS).format(one, other), str(one + other)


def ask_letters(draw: random.Random) -> tuple[str, str]:
    """Return a question and its answer."""
    word = draw.choices("abcde", k=draw.randint(3, 9))
    letter = draw.choice("abcde")
    return draw.choice(ASKED_LETTERS).format(letter, " ".join(word)), str(word.count(letter))


TASKS = {"sums": ask_sum, "letters": ask_letters}
MOST = 2 * 100 * 100  # different sums


def main() -> None:
    """Print so many different dialogues of a task, a line of JSON each, the same ones each time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("count", type=int, help=f"how many dialogues, {MOST} at most")
    options = parser.parse_args()
    if not 1 <= options.count <= MOST:
        parser.error(f"count is 1 to {MOST}: there are no more different sums")
    draw, found = random.Random(0), {}
    while len(found) < options.count:
        asked, answer = TASKS[options.task](draw)
        found[asked] = answer
    for asked, answer in found.items():
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        print(json.dumps({"messages": messages}, ensure_ascii=False))


if __name__ == "__main__":
    from client import run_example  # tune_preferences.py, which reads the rewards, looks for no module here

    run_example(main)
