"""Measures what the worst texts that are known for each pattern cost: twice the text, about twice the time.

python -m benchmarks.faults_patterns          # 100 kB and 200 kB of each: seconds, and their ratio
python -m benchmarks.faults_patterns 1000000  # another size
"""

import sys
import time
from collections.abc import Callable

from data_utils.preparation.tally import mask_example
from data_utils.readers.books import join_pdf_lines
from data_utils.readers.webpages import decode_page
from data_utils.readers.wikitext import extract_article
from data_utils.text.cleaning import clean_text, drop_invisible, fold_compatible
from data_utils.text.languages import identify_language
from data_utils.text.mojibake import repair_misread
from data_utils.text.private_data import mask_private
from data_utils.text.quality import drop_policy_lines

# What a function is given: what begins the text, what is repeated, what ends it.
WORST: dict[Callable[[str], object], list[tuple[str, str, str]]] = {
    extract_article: [
        ("=", " ", "x"),
        ("", "=", "x"),
        ("", "<ref ", ""),
        ("", '<ref name="a" ', ""),
        ("", "<ref>", ""),
        ("", "<pre>", ""),
        ("", "</ref ", ""),
        ("<ref>", " ", "</ref"),
        ("[//a", " ", "<"),
        ("", "[//a ", ""),
        ("", "[[a|", ""),
        ("", "[[File:a|[[b]]", ""),
        ("", "[[File:[a]", ""),
        ("", "<abc>", ""),
        ("", "<a <a ", ""),
        ("", "<b <b ", ""),
        ("", "[[a:", ""),
        ("", "[[a|b", "]]" * 1000),
        ("[[a", "|", "]]"),
        ("", "[http://a [", "]" * 1000),
        ("", "<a b='", ""),
        ("", "[http://a ", ""),
        ("", "-{", ""),
        ("", "-{a", "}-" * 1000),
        ("", "-{H|;zh", ""),
        ("", "\n", ""),
        ("", "\n |", ""),
        ("{{a", "|", "}}"),
        ("{{a", "|[[b", "}}"),
        ("{{a|", " 1", "}}"),
        ("", "{{nowrap|", "}}" * 1000),
        ("", "{|\n", "|}\n" * 1000),
        ("", "{{a\n|}", ""),
        ("(", ";", "x"),
        ("", "( ", ""),
        ("__", "A", ""),
        ("", "__AA", ""),
        ("", "<!--", ""),
        ("", "&#", ""),
        ("&#", "9", ";"),
        ("", "''", ""),
    ],
    mask_private: [
        ("password ", "=", ""),
        ("", "password=", ""),
        ("password:", "a", "1"),
        ("", "eyJ-", ""),
        ("", "eyJaaaaaaaaaa.", ""),
        ("", "-----BEGIN PRIVATE KEY-----", ""),
        ("-----BEGIN ", "A ", ""),
        ("-----BEGIN PRIVATE KEY-----", "\n ", "x"),
        ("a@", "b.", ""),
        ("", "a@a", ""),
        ("", "a.", "@"),
        ("x@y.com +1", "1234567890", ""),
        ("", "+1", ""),
        ("1234567", " ", "8"),
        ("", "1 ", ""),
        ("", "1234 ", ""),
        ("", "a:", ":"),
        ("", "SG.aaaaaaaaaaaaaaaaaaaa-", ""),
        ("", "QQ:", ""),
        ("", "sk-", ""),
        ("", "DE00 AAAA", ""),
        ("", "tel 1 ", ""),
    ],
    clean_text: [
        ("a", "\u0301\u0316", ""),
        ("", "a" + "\u0301\u0316" * 20, ""),
        ("a", "\u0316\u0301\x00", ""),
        ("a", "\u0316\u200b", ""),
        ("ཀ", "\u0f73", ""),
        ("a", "\u0301\u0f75", ""),
        ("", "Ã©", ""),
        ("", "\x1b[0", ""),
        ("", "\ufffc", ""),
        ("", " \n", "x"),
        ("", "\u1161", ""),
    ],
    fold_compatible: [("a", "\u0301\u0316", ""), ("a", "\u0301\uff9e", ""), ("", "\ufdfa", "")],
    mask_example: [("a", "\u0301\u0316", ""), ("", "1\u200b", "")],
    drop_invisible: [("", "\u200d", ""), ("", "\U000e0020", ""), ("", "a\ufe0f", "")],
    repair_misread: [("", "锟斤拷", ""), ("", "\u00d6\u00d0", ""), ("", "涓枃", "")],
    identify_language: [("", "```", ""), ("", "http://", ""), ("", "\n\t", "")],
    drop_policy_lines: [("icp", "版权", ""), ("cookie\n", "use of cookie", "")],
    join_pdf_lines: [("", "-", "x"), ("", "a\n", ""), ("", "a-\n", "")],
    lambda text: decode_page(text.encode("gb18030", "replace")): [
        ("<meta charset=", " ", ""),
        ("", "<meta ", ""),
        ("", "中", ""),
    ],
}


def make_text(parts: tuple[str, str, str], size: int) -> str:
    """Return a text of about `size` characters."""
    start, unit, end = parts
    return start + unit * (size // len(unit)) + end


def main() -> None:
    """Print the table."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print(f"| function | text | {size:,} characters, s | {2 * size:,}, s | ratio |\n| --- | --- | ---: | ---: | ---: |")
    for function, texts in WORST.items():
        function("warm up, 先热身。")
        for parts in texts:
            seconds = []
            for length in (size, 2 * size):
                text = make_text(parts, length)
                begun = time.process_time()
                function(text)
                seconds.append(time.process_time() - begun)
            name = getattr(function, "__name__", "").replace("<lambda>", "decode_page")
            ratio = seconds[1] / max(seconds[0], 1e-3)
            words = repr("".join(parts[:2]) + "..." + parts[2][:8]).replace("|", "\\|")
            print(f"| {name} | {words} | {seconds[0]:.3f} | {seconds[1]:.3f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
