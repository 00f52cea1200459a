"""The page's Markdown without a browser: in node, with as much of a document as it needs."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[3] / "chat_utils" / "server" / "web" / "markdown.js"
SCRIPT = """
const show = (one) => typeof one === "string" ? one : `<${one.name}>${one.inner.map(show).join("")}</${one.name}>`;
const makeNode = (name) => ({ name, inner: [], append(...parts) { this.inner.push(...parts); } });
globalThis.document = {
  createElement: makeNode, createTextNode: (text) => text, createDocumentFragment: () => makeNode("page"),
};
const { renderMarkdown } = await import(`data:text/javascript;base64,${process.argv[1]}`);
const texts = JSON.parse((await import("fs")).readFileSync(0, "utf8"));
console.log(JSON.stringify(texts.map((text) => show(renderMarkdown(text, () => makeNode("copy"))))));
"""


def render(*texts: str) -> list[str]:
    """Return Markdown as the page draws it, written as tags; each text takes a moment, whatever it is."""
    import base64

    node = shutil.which("node")
    if not node:
        pytest.skip("there is no node")
    module = base64.b64encode(MODULE.read_bytes()).decode()
    done = subprocess.run(
        [node, "--input-type=module", "-e", SCRIPT, module], input=json.dumps(texts), capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    return [text.removeprefix("<page>").removesuffix("</page>") for text in json.loads(done.stdout)]


def test_marks_are_what_they_look_like():
    drawn = {
        "# Title ##": "<h3>Title</h3>", "## C#": "<h4>C#</h4>", "### #": "<h5></h5>", "# a#b": "<h3>a#b</h3>",
        "a `b` ``c`d`` `e": "<p>a <code>b</code> <code>c`d</code> `e</p>",
        "[x](http://y) [a [b](http://c(d))": "<p><a>x</a> [a <a>b</a></p>",
        "**b** *i* ~~s~~ __u__ 2 * 3": "<p><strong>b</strong> <em>i</em> <s>s</s> <strong>u</strong> 2 * 3</p>",
        "| a | b |\n|---|:-:|": "<div><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody></tbody></table></div>",
        "| a |\n| --- | x |": "<p>| a |</p><p>| --- | x |</p>",
    }  # fmt: skip
    assert dict(zip(drawn, render(*drawn), strict=True)) == drawn


def test_no_text_takes_longer_than_its_length():
    """100 kB of the worst each: a second in all; with patterns of order two it took minutes."""
    size = 100_000
    units = ["[", "[a", "[a](", "`", "`` `", "*", "**a ", "*a ", "~~", "_", "> ", "|", "|-", "http://", "](", "#", "\n"]
    texts = [unit * (size // len(unit)) + "x" for unit in units]
    texts += [f"# a{'#' * size}b", f"| a |\n|-|{' ' * size}x", f"# a{' ' * size}b", f"***{' ' * size}x"]
    texts.append(" ".join("`" * number for number in range(440)))
    assert all(len(drawn) > 0 for drawn in render(*texts))
