"""Docs: both languages have the same commands, every command parses, every link leads somewhere."""

import ast
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
BENCHMARK = re.compile(r"python (?:-m benchmarks\.|benchmarks/)(\w+)(?:\.py)?([^`\n|#;&]*)")


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

            def parse_and_stop(*given, parse=parse, name=name, **more):
                if name == "parse_training":
                    given = (*given[:-1], lambda *options: None)  # not what they name: files of an example
                parse(*given, **more)
                raise ParsedError

            monkeypatch.setattr(module, name, parse_and_stop)
    if script == "export":  # as if the packages of every form were here
        forms = {form: (*parts[:2], (), *parts[3:]) for form, parts in module.FORMS.items()}
        monkeypatch.setattr(module, "FORMS", forms)
    if "--fsdp" in words:  # as if torchrun had started several processes
        monkeypatch.setattr("train_utils.arguments.check_sharding", lambda args: None)
    if "..." in words:  # a form, not a command
        return
    with pytest.raises(ParsedError):
        module.main(list(words))


@pytest.mark.parametrize("page", [*ALL_PAGES, *ROOT.glob("benchmarks/*")], ids=lambda page: page.name)
def test_benchmarks_that_are_named_are_there(page):
    """A figure's command names a file of benchmarks/, and options that stand in it."""
    for name, words in BENCHMARK.findall(page.read_text(encoding="utf-8") if page.is_file() else ""):
        source = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
        missing = [word for word in re.findall(r"--\w+", words) if f'"{word}"' not in source]
        assert not missing or "parse_known_args" in source, f"{page.name}: {name} has no {missing}"


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def list_defined(file: Path) -> set[str]:
    """Return what a module defines: functions, classes with their methods, and names of its top."""
    if file.suffix == ".js":
        return set(re.findall(r"(?:function|const|class) (\w+)", file.read_text(encoding="utf-8")))
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, FUNCTION)}
        if isinstance(node, ast.ClassDef | FUNCTION):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_what_contributing_names_is_there():
    """Each function stands in a file that its row names; each file and folder is there."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = [*ROOT.glob("*_utils"), ROOT / "tests"]
    files = [*ROOT.glob("*.py"), *(file for room in rooms for kind in ("py", "js") for file in room.rglob(f"*.{kind}"))]
    names = [f"/{file.relative_to(ROOT).as_posix()}" for file in files]
    for word in re.findall(r"[\w/]+\.(?:py|js)\b", text):  # in its prose too
        assert any(name.endswith(f"/{word}") for name in names), word
    for word in re.findall(r"(?<!\w)[a-z_]+/(?:[a-z_]+/)*(?![\w.])", text):
        assert any((place / word).is_dir() for place in (ROOT, *rooms)), word
    checked = []
    for row in (row for row in text.splitlines() if row.startswith("| ") and re.search(r"\.(?:py|js)\b", row)):
        files, folder = [], ROOT
        for word in re.findall(r"[\w/]+\.(?:py|js)\b", row):
            places = [folder / word, ROOT / word, ROOT / "data_utils" / word]
            file = next((place for place in places if place.is_file()), None)
            assert file, f"{word} in {row}"
            files.append(file)
            folder = file.parent
        defined = set().union(*map(list_defined, files))
        names = [name for name in re.findall(r"`([A-Za-z_.]+)`", row) if not name.endswith(".py")]
        assert not [name for name in names if name not in defined], row
        checked += names
    assert len(checked) > 30
