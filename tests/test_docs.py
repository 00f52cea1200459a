"""Docs: both languages have the same commands, every command parses, every link leads somewhere."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ("train", "finetune_dialogue", "tune_preferences", "score", "chat", "export", "prepare_corpus")
PAGES = [ROOT / "README.md", *sorted(path for path in ROOT.glob("docs/*.md") if not path.name.endswith(".zh.md"))]
ALL_PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
CALL = re.compile(rf"(?:python|accelerate launch|torchrun)\b[^`\n|]*?\b({'|'.join(SCRIPTS)})\.py\b([^`\n|]*)")


class ParsedError(Exception):
    """The command line was understood; what follows would take minutes."""


def in_chinese(page: Path) -> Path:
    return page.with_name("README.zh-CN.md" if page.name == "README.md" else page.name.replace(".md", ".zh.md"))


def find_commands(page: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Return (script, its words) of each command of a page, in order, without comments."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    calls = [line for line in text.splitlines() if line.startswith("    ")] + re.findall(r"`([^`\n]+)`", text)
    found = (CALL.search(call) for call in calls)
    return [(match[1], tuple(shlex.split(match[2], comments=True))) for match in found if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_both_languages_have_the_same_commands(page):
    english, chinese = find_commands(page), find_commands(in_chinese(page))
    assert english == chinese


def test_pages_hold_commands():
    assert sum(len(find_commands(page)) for page in PAGES) > 40


@pytest.mark.parametrize(
    ("script", "words"), sorted({command for page in PAGES for command in find_commands(page)}), ids=str
)
def test_each_command_parses(script, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # as those of the hub say before them; nothing is asked for here
    module = importlib.import_module(script)
    for name in ("parse_training", "parse_arguments"):
        if parse := getattr(module, name, None):

            def parse_and_stop(*given, parse=parse, **more):
                parse(*given, **more)
                raise ParsedError

            monkeypatch.setattr(module, name, parse_and_stop)
    if script == "export":  # as if the packages of every form were here
        forms = {form: (*parts[:2], (), *parts[3:]) for form, parts in module.FORMS.items()}
        monkeypatch.setattr(module, "FORMS", forms)
    if "--fsdp" in words:  # as if torchrun had started several processes
        monkeypatch.setattr("train_utils.arguments.check_sharding", lambda args: setattr(args, "fsdp", True))
    if "..." in words:  # a form, not a command
        return
    with pytest.raises(ParsedError):
        module.main(list(words))


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target
