"""A corpus to and from a real server of object storage: sent whole, read by ranges, and no key in a record."""

import json

import pytest

import prepare_corpus
import train
from data_utils.readers import remote
from data_utils.sources.source import is_corpus_folder, open_source, read_manifest
from errors import InputError, RunError

BUCKET = "s3://corpora"
KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}


@pytest.fixture
def storage(monkeypatch):
    """A server of this machine that speaks as S3 does, with an empty bucket; returns its client."""
    server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", (0.0,) * 2)
    s3fs.S3FileSystem.clear_instance_cache()
    client = s3fs.S3FileSystem()
    client.mkdir("corpora")
    yield client
    client.rm("corpora", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.mark.slow
def test_a_corpus_goes_there_and_is_trained_on_from_there(storage, own_documents, train_options, tmp_path, capsys):
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in own_documents]
    with storage.open("corpora/raw/a.jsonl", "w") as file:
        file.write("\n".join(lines))
    address = f"{BUCKET}/talk"
    options = ["--sources", f"{BUCKET}/raw", "--workers", "1", "--clean", "length", "--duplicates", "exact"]
    options += ["--output_dir", address]
    assert prepare_corpus.main(options) == 0
    assert f"next: python train.py --corpus {address} --output_dir ckpt_talk" in capsys.readouterr().out
    manifest = read_manifest(address)
    assert manifest["documents"] > 0.9 * len(set(own_documents))
    assert prepare_corpus.main(options) == 0
    assert f"{address}: prepared already" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"prepared with --clean length, not unicode"):
        prepare_corpus.main([*options, "--clean", "unicode"])

    source = open_source(address)
    read = [row["text"] for part in source.parts() for row in source.read(part)]
    assert len(read) == manifest["documents"]
    assert set(read) <= set(own_documents)

    given = dict(zip(train_options[::2], train_options[1::2], strict=True))
    given |= {"--corpus": address, "--max_steps": "2", "--eval_steps": "2", "--eval_fraction": "0.02"}
    given |= {"--save_steps": "2", "--output_dir": str(tmp_path / "ckpt")}
    assert train.main([word for pair in given.items() for word in pair]) == 0
    assert (tmp_path / "ckpt" / "model.safetensors").exists()
    written = "".join((tmp_path / "ckpt" / name).read_text() for name in ("run.yaml", "report.md", "metrics.jsonl"))
    assert address in written
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in written + capsys.readouterr().out


def test_what_is_cut_off_on_its_way_is_no_corpus(storage, tmp_path, monkeypatch):
    """The manifest goes last, and an old one goes first."""
    (tmp_path / "data").mkdir()
    for name in ("data/0.parquet", "data/1.parquet", "corpus.json"):
        (tmp_path / name).write_text("new")
    with storage.open("corpora/cut/corpus.json", "w") as file:
        file.write("old")
    send, sent = storage.put_file, []

    def send_or_fail(here, there, **more):
        sent.append(there)
        if there.endswith("1.parquet"):
            raise ConnectionResetError("the store hung up")
        return send(here, there, **more)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "put_file", send_or_fail)
        with pytest.raises(RunError, match="failed in 3 tries, the store hung up"):
            remote.send_folder(tmp_path, f"{BUCKET}/cut", last="corpus.json")
    assert [name.rpartition("/")[2] for name in sent] == ["0.parquet", *["1.parquet"] * 3]
    assert not is_corpus_folder(f"{BUCKET}/cut")
    remote.send_folder(tmp_path, f"{BUCKET}/cut", last="corpus.json")
    assert is_corpus_folder(f"{BUCKET}/cut")


def test_a_bucket_that_is_not_there_and_keys_in_an_address_are_one_line(storage):
    with pytest.raises(InputError, match=r"s3://nowhere/x.jsonl: (no such file|cannot be opened)"):
        open_source("s3://nowhere/x.jsonl").versions()
    with pytest.raises(InputError, match="the address holds a password or a key"):
        open_source("s3://someone:hunter2@corpora/raw").versions()


def test_a_store_that_cannot_be_asked_is_one_line(storage, tmp_path, monkeypatch):
    """The libraries' errors for these are no OSErrors, and a fault of the store is no answer."""
    (tmp_path / "corpus.json").write_text("{}")
    with pytest.raises(InputError, match=r"s3://nowhere/x: cannot be written: .*does not exist; all is kept in"):
        remote.send_folder(tmp_path, "s3://nowhere/x", last="corpus.json")
    with pytest.raises(InputError, match="cannot be opened: Parameter validation failed: Invalid bucket name"):
        is_corpus_folder("s3://No_Where!!/x")
    with monkeypatch.context() as patched, pytest.raises(RunError, match="failed in 3 tries"):
        patched.setattr(storage, "info", lambda *_, **__: (_ for _ in ()).throw(TimeoutError("slow down")))
        is_corpus_folder(f"{BUCKET}/talk")


@pytest.mark.parametrize(
    ("library", "error", "kind", "words"),
    [
        ("aiohttp", "ClientPayloadError", RunError, "failed in 3 tries"),
        ("botocore.exceptions", "NoCredentialsError", InputError, "cannot be opened: Unable to locate credentials"),
    ],
)
def test_errors_that_are_no_os_errors_are_one_line(library, error, kind, words, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_SECONDS", (0.0,) * 2)
    raised = getattr(pytest.importorskip(library), error)

    def fail() -> None:
        raise raised()

    with pytest.raises(kind, match=f"s3://a/b: {words}"):
        remote.ask("s3://a/b", fail)
