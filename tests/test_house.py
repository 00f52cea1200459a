"""The house stays as CONTRIBUTING draws it: calls go down, no circles, small functions, a name is defined once."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From top to bottom; a room uses those below it. Rooms of one line stand side by side.
LEVELS = (
    {"train", "finetune_dialogue", "tune_preferences", "score", "chat", "export", "prepare_corpus"},
    {"chat_utils", "export_utils"},
    {"train_utils"},
    {"eval_utils"},
    {"data_utils"},
    {"model_utils"},
    {"environment", "errors", "files", "options"},
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
MAX_LINES, MAX_PARAMETERS = 60, 6
HEAVY = ("torch", "transformers", "datasets", "tokenizers", "pyarrow", "datatrove", "peft", "matplotlib")
GIVEN = {"block_attention_forward"}  # its signature is transformers'
PLAIN = {"int", "float", "str", "bool"}
OPENINGS = {"what", "who", "whom", "whose", "how", "where", "when", "why", "whether", "which"}
# Who may ask whether a model has an encoder: the table of families, the objective, and what computes its replies.
ASKING = {"model_utils.families", "train_utils.objectives", "model_utils.reply_steps"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def parse_modules() -> dict[str, ast.Module]:
    """Return the modules of the product by their dotted names."""
    files = [*ROOT.glob("*.py"), *(file for room in ROOT.glob("*_utils") for file in room.rglob("*.py"))]
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    return {name.removesuffix(".__init__"): ast.parse(file.read_text(encoding="utf-8")) for file, name in names.items()}


def find_imports(tree: ast.Module) -> set[str]:
    """Return the modules of the product that a module imports, anywhere in it."""
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
    return named & parse_modules().keys()


def list_functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Return every function and method of the product with its module."""
    return [(name, node) for name, tree in parse_modules().items() for node in ast.walk(tree)
            if isinstance(node, FUNCTIONS)]  # fmt: skip


def test_calls_go_down_only():
    upwards = []
    for name, tree in parse_modules().items():
        room = name.split(".")[0]
        for used in find_imports(tree):
            below = used.split(".")[0]
            if below != room and LEVEL_OF[below] <= LEVEL_OF[room] < len(LEVELS) - 1:
                upwards.append(f"{name} imports {used}")
    assert not upwards


def test_imports_make_no_circle():
    uses = {name: find_imports(tree) - {name} for name, tree in parse_modules().items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join([*path, name])}"
        if name not in done:
            for used in sorted(uses[name]):
                visit(used, (*path, name))
            done.add(name)

    # A module that is imported for its types alone is no part of a circle at run time; those are few and named.
    for user, used in {("chat_utils.terminal.commands", "chat_utils.terminal.loop")}:
        uses[user].discard(used)
    for name in uses:
        visit(name, ())


def test_functions_are_short_and_take_few_parameters():
    long = [f"{module}.{node.name}: {size} lines" for module, node in list_functions()
            if (size := node.end_lineno - node.lineno + 1) > MAX_LINES]  # fmt: skip
    wide = []
    for module, node in list_functions():
        parts = node.args
        names = [argument.arg for argument in (*parts.posonlyargs, *parts.args, *parts.kwonlyargs)]
        if len([name for name in names if name not in ("self", "cls")]) > MAX_PARAMETERS and node.name not in GIVEN:
            wide.append(f"{module}.{node.name}: {len(names)} parameters")
    assert not long
    assert not wide


def test_scripts_and_readme_stay_short():
    """A script reads as a recipe of numbered stages, README as one page."""
    lengths = {f"{name}.py": 183 for name in LEVELS[0]} | {"README.md": 125, "README.zh-CN.md": 125}
    long = {name: most for name, most in lengths.items()
            if len((ROOT / name).read_text(encoding="utf-8").splitlines()) > most}  # fmt: skip
    assert not long


def list_signatures() -> dict[str, list[list[tuple[str, set[str]]]]]:
    """Return the parameters of each function and class of the product by its name: their names and plain types."""
    signatures = defaultdict(list)
    for tree in parse_modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                made = next((part for part in node.body if getattr(part, "name", "") == "__init__"), None)
                fields = [(part.target.id, part.annotation) for part in node.body if isinstance(part, ast.AnnAssign)]
            elif isinstance(node, FUNCTIONS):
                made, fields = node, []
            else:
                continue
            if made:
                named = [*made.args.posonlyargs, *made.args.args]
                fields = [(part.arg, part.annotation) for part in named if part.arg not in ("self", "cls")]
            signatures[node.name].append([
                (name, PLAIN & set(ast.unparse(kind).split(" | ")) if kind else set()) for name, kind in fields
            ])  # fmt: skip
    return signatures


def tells_what_it_is(argument: ast.expr, parameter: str) -> bool:
    """Tell whether an argument is called as its parameter, so that a wrong place would be seen."""
    words = re.findall(r"\w+", ast.unparse(argument))
    return any(parameter in word for word in words) or bool(words and words[-1] in parameter)


def test_values_that_could_be_swapped_unseen_are_given_by_name():
    """In a call with more than three arguments by place, of those of one plain type."""
    signatures, unseen = list_signatures(), []
    for module, tree in parse_modules().items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) > 3):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            for parameters in signatures[name]:
                pairs = list(zip(call.args, parameters, strict=False))
                kinds = [kind for argument, (parameter, plain) in pairs for kind in plain
                         if not tells_what_it_is(argument, parameter)]  # fmt: skip
                if len(kinds) > len(set(kinds)) and len(parameters) >= len(call.args):
                    unseen.append(f"{module}:{call.lineno}: {ast.unparse(call)[:80]}")
    assert not unseen


def test_a_name_is_defined_once():
    where = defaultdict(list)
    for module, tree in parse_modules().items():
        for node in tree.body:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_") and node.name != "main":
                where[node.name].append(module)
    assert not {name: modules for name, modules in where.items() if len(modules) > 1}


def test_three_modules_ask_for_an_encoder():
    def asks(node: ast.AST) -> bool:
        return (
            (isinstance(node, ast.Attribute) and node.attr in ("has_encoder", "is_encoder_decoder"))
            or (isinstance(node, ast.Constant) and node.value == "is_encoder_decoder")
            or (isinstance(node, ast.Compare) and "'source_parts' in" in ast.unparse(node))
        )

    assert {name for name, tree in parse_modules().items() if any(map(asks, ast.walk(tree)))} == ASKING


def test_modules_open_with_a_sentence():
    asking = [name for name, tree in parse_modules().items()
              if (ast.get_docstring(tree) or "what").split()[0].lower() in OPENINGS]  # fmt: skip
    assert not asking


def test_modules_and_names_in_them_that_comments_and_pages_name_are_there():
    """Those with their room before them; the log tells of what once was."""
    known = set(parse_modules())
    for name, tree in parse_modules().items():
        known |= {name.rpartition(".")[0], *(f"{name}.{node.name}" for node in tree.body if hasattr(node, "name"))}
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.py"),
        *ROOT.glob("configs/**/*.yaml"),
    ]
    missing = []
    for file in [*ROOT.glob("*.py"), *(file for room in ROOT.glob("*_utils") for file in room.rglob("*.py")), *pages]:
        for name in re.findall(r"(?<!/)\b[a-z]+_utils(?:[./]\w+)+", file.read_text(encoding="utf-8")):
            if name.replace("/", ".").removesuffix(".py") not in known and not (ROOT / name).exists():
                missing.append(f"{file.relative_to(ROOT)}: {name}")
    assert not missing


def test_help_of_every_script_imports_nothing_heavy():
    code = """
import contextlib, importlib, io, sys
heavy, scripts = (part.split() for part in sys.argv[1:])
for name in scripts:
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        importlib.import_module(name).main(["--help"])
    assert "--output_dir" in said.getvalue() or name == "chat", name
print(*sorted(set(heavy) & set(sys.modules)))
"""
    words = (" ".join(HEAVY), " ".join(sorted(LEVELS[0])))
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.split()) == ("", [])
