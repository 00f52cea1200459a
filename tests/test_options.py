"""One dialect for all scripts: a YAML, `--key value` and `--key=value`, types, unset values, help, what is refused."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import chat
import export
import finetune_dialogue
import prepare_corpus
import score
import train
from errors import InputError
from options import Options, option, parse_arguments


@dataclass
class Port(Options):
    """Where a server listens."""

    port: int = option(8000, "TCP port, 100% free", within=(1, 65535))
    key: str | None = option(None, "secret")
    hosts: list[str] = option([], "names")
    is_loud: bool = option(False, "say all")
    is_fast: bool | None = option(None, "hurry", needs="--share or --kind udp")
    share: float | None = option(0.5, "part", replaced_by="--is_loud or --kind udp")
    kind: str = option("tcp", "protocol", choices=("tcp", "udp"))


@dataclass
class Paths(Options):
    """Options of which some are paths."""

    corpus: list[str] = option([], "Files")
    output_dir: str = option("out", "Folder")
    prompt: str = option("", "Words")


def parse(*argv: str, recipe: Path | None = None, positional: str | None = None) -> Port:
    return parse_arguments((Port,), list(argv), recipe, "Listens.", positional=positional)[0]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], Port()),
        (["--port", "80", "--key", "7", "--hosts", "a", "b", "--is_loud"], Port(80, "7", ["a", "b"], True)),
        (["--port=80", "--key=--x", "--is-loud=true"], Port(80, "--x", is_loud=True)),
        (["--is_loud", "false", "--is_fast", "--share", "-1e-3"], Port(is_fast=True, share=-1e-3)),
        (["--share", "unset", "--key", ""], Port(share=None, key="")),
        (["--port", "1", "--port", "2"], Port(2)),
    ],
)
def test_values_have_the_type_of_their_field(argv, expected):
    assert parse(*argv) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--port", "0"], "command line: --port 0 is outside 1 to 65535"),
        (["--port", "many"], "command line: --port: a whole number is expected, not 'many'"),
        (["--port", "8.5"], "command line: --port: a whole number is expected, not '8.5'"),
        (["--share", "half"], "command line: --share: a number is expected, not 'half'"),
        (["--is_loud=maybe"], "command line: --is_loud: true or false is expected, not 'maybe'"),
        (["--is_loud", "maybe"], "command line: --is_loud: true or false is expected, not 'maybe'"),
        (["--hosts", "--kind", "udp"], "command line: --hosts: a value is expected"),
        (["--port"], "command line: --port: a value is expected"),
        (["--port", "1", "2"], "command line: '2' is neither a .yaml file nor an option (--key value)"),
        (["stray", "--port", "1"], "command line: 'stray' is neither a .yaml file nor an option (--key value)"),
        (["--kind", "icmp"], "command line: --kind icmp: use one of tcp, udp"),
        (["--prt", "1"], "command line: unknown key 'prt'; did you mean 'port'?"),
        (["--no_is_loud"], "command line: unknown key 'no_is_loud'; write --is_loud false"),
        (["--zzz"], "command line: unknown key 'zzz'; see --help for all"),
        (["--output", "1"], "command line: 'output' is now --output_dir"),
        (
            ["--share", "unset", "--is_fast"],
            "command line: --is_fast has no effect without --share or --kind udp; leave it out",
        ),
        (
            ["--kind", "udp", "--share", "0"],
            "command line: --share has no effect with --kind udp; leave out one of the two",
        ),
    ],
)
def test_mistakes_are_one_line(argv, message):
    with pytest.raises(InputError) as caught:
        parse(*argv)
    assert str(caught.value) == message


def test_precedence_is_dataclass_yaml_command_line_and_what_was_given_is_known(tmp_path):
    recipe, own = tmp_path / "recipe.yaml", tmp_path / "own.yaml"
    recipe.write_text("port: 1\nkey: recipe\nshare: null\n")
    own.write_text("port: 2\nhosts: [a, {b: 1}]\nis_fast: no\n")
    found = parse("--key", "typed", recipe=recipe)
    assert (found.port, found.key, found.share, found.given) == (1, "typed", 0.5, {"key"})
    found = parse(str(own), "--key", "typed", recipe=recipe)
    assert (found.port, found.key, found.hosts, found.is_fast) == (2, "typed", ["a", '{"b": "1"}'], False)
    assert (found.given, found.typed) == ({"port", "hosts", "is_fast", "key"}, {"key"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prt: 1\n", ": unknown key 'prt'; did you mean 'port'?"),
        ("output: 1\n", ": 'output' is now --output_dir"),
        ("port: many\n", ": port: a whole number is expected, not 'many'"),
        ("port: [1, 2]\n", ": port: one value is expected, not 2"),
    ],
)
def test_mistakes_of_a_yaml_name_it(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        parse(str(path))
    assert str(caught.value) == f"{path}{message}"


def test_a_path_in_the_home_is_found_where_no_shell_has_seen_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    recipe = tmp_path / "a.yaml"
    recipe.write_text("corpus: [~/a.txt, b/~/c.txt, ~b]\n")
    [found] = parse_arguments((Paths,), [str(recipe), "--output_dir=~/out", "--prompt", "~/x"], None, "")
    assert found.corpus == [str(tmp_path / "a.txt"), "b/~/c.txt", "~b"]
    assert (found.output_dir, found.prompt) == (str(tmp_path / "out"), "~/x")


def test_an_option_without_effect_is_refused_on_the_command_line_alone(tmp_path):
    (tmp_path / "own.yaml").write_text("share: 0.1\n")
    assert parse(str(tmp_path / "own.yaml"), "--kind", "udp").share == 0.1
    assert parse("--share", "0", "--is_fast").is_fast  # 0 is a value


def test_one_option_may_stand_without_its_name():
    assert parse("a", "b", "--port", "1", positional="hosts").hosts == ["a", "b"]
    assert parse("--is_loud", "a", positional="hosts").hosts == ["a"]
    with pytest.raises(InputError, match="'a' is neither"):
        parse("a", "--hosts", "b", positional="hosts")


def test_help_shows_each_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as left:
        parse("--help")
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for shown in (
        "--port (8000) TCP port, 100% free", "--key (unset) secret", "--hosts (unset) names",
        "--is_loud (false) say all", "--kind (tcp) protocol; one of: tcp, udp",
    ):  # fmt: skip
        assert shown in text


@pytest.mark.parametrize("script", [train, finetune_dialogue, chat, export, prepare_corpus, score])
def test_every_script_teaches_and_takes_the_same_dialect(script, capsys):
    with pytest.raises(SystemExit) as left:
        script.main(["--help"])
    assert left.value.code == 0
    assert script.__doc__.strip().splitlines()[0] in capsys.readouterr().out
    with pytest.raises(InputError, match=r"^command line: unknown key 'overwrit'"):
        script.main(["--overwrit", "true"])


@pytest.mark.parametrize(
    ("script", "argv", "message"),
    [
        (train, ["--streaming", "true"], "'streaming' is gone"),
        (train, ["--remove_stop_words", "true"], "'remove_stop_words' is gone"),
        (export, ["ckpt", "--to", "gguf", "--output", "x"], "'output' is now --output_dir"),
    ],
)
def test_old_spellings_are_refused_with_the_new_one_named(script, argv, message):
    with pytest.raises(InputError, match=message):
        script.main(argv)
