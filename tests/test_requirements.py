"""Requirements: every package that the product imports is named, with its version, in a requirements file."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
# By the name of the import, where a package need not be installed to test.
OPTIONAL = {
    "gguf": "gguf", "llama_cpp": "llama-cpp-python", "ctranslate2": "ctranslate2", "onnx": "onnx", "ray": "ray",
    "onnxscript": "onnxscript", "onnxruntime": "onnxruntime", "onnx_ir": "onnx-ir", "liger_kernel": None,
    "compression": None,  # of Python itself, from 3.14 on
}  # fmt: skip


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def find_imports() -> dict[str, Path]:
    """Return each imported package's name and a file that imports it, lazily or not."""
    found = {}
    own = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/*.py")}
    files = [path for room in ROOT.glob("*_utils") for path in room.rglob("*.py")]
    for path in [*ROOT.glob("*.py"), *files]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in (name.split(".")[0] for name in names):
                if name not in own and name not in sys.stdlib_module_names:
                    found.setdefault(name, path.relative_to(ROOT))
    return found


def read_pins(*files: Path) -> dict[str, str]:
    """Return each package that requirements files, by default all, name and its version."""
    files = files or (ROOT / "requirements.txt", *(ROOT / "requirements").glob("*.txt"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return {normalize(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==([\w.]+)", "\n".join(lines))}


def test_each_import_is_named_in_a_requirements_file():
    pins, distributions = read_pins(), packages_distributions()
    for name, path in find_imports().items():
        known = [OPTIONAL[name]] if name in OPTIONAL else distributions.get(name, [name])
        named = known == [None] or any(normalize(distribution) in pins for distribution in known)
        assert named, f"{path} imports {name} ({', '.join(known)}), which no requirements file names"


def test_each_requirement_has_a_version():
    for file in [ROOT / "requirements.txt", *(ROOT / "requirements").glob("*.txt")]:
        for line in file.read_text(encoding="utf-8").splitlines():
            asked = line.split("#")[0].strip()
            assert re.match(r"$|-r |[\w.\[\]-]+==[\w.]+", asked), f"{file.name}: {line}"


def test_the_lock_file_has_each_requirement_with_hashes():
    wanted = read_pins(ROOT / "requirements.txt")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {normalize(entry.split("==")[0]): entry for entry in re.split(r"(?m)^(?=[\w.-]+==)", lock)[1:]}
    assert len(locked) > 2 * len(wanted)  # what they need in turn
    for name, version in wanted.items():
        assert locked[name].partition("==")[2].startswith(version), name
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in locked.values())
