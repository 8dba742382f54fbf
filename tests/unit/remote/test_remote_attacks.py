"""What a bucket may contain, and what another run may leave: no other file is touched, and no damage goes unseen."""

import json
from pathlib import Path

import pytest

from megatron_srp.cli.inspect import main as inspect
from megatron_srp.cli.merge import main as merge
from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.cli.strip import main as strip
from megatron_srp.cli.verdicts import main as verdicts
from megatron_srp.cli.verify import main as verify
from megatron_srp.errors import InputError, OutputError, SrpError, UsageError
from megatron_srp.remote.copies import reading_folder
from megatron_srp.remote.objects import Objects
from tests.conftest import random_texts
from tests.helpers.object_store import BUCKET


@pytest.fixture(scope="module")
def made(store, tokenizer_models, tmp_path_factory) -> list[str]:
    """Flags that make an output; s3://BUCKET/made/c is one, and made/half has one partition of two."""
    folder = tmp_path_factory.mktemp("made")
    kind, model = tokenizer_models["gpt2"]
    for name in "ab":
        texts = random_texts(ord(name), 20, 60)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    flags = ["--input", str(folder / "*.jsonl"), "--tokenizer-type", kind, "--tokenizer-model", str(model)]
    flags += ["--append-eod", "--guard", "heuristic", "--max-words", "9"]
    place = ["--work-dir", str(folder / "work"), "--output-prefix", f"s3://{BUCKET}/made"]
    assert preprocess([*flags, *place[:-1], f"{place[-1]}/c"]) == 0
    assert preprocess([*flags, "--reflection-tokens", "special", *place[:-1], f"{place[-1]}/special"]) == 0
    half = ["--num-partitions", "2", "--partition-index", "1"]
    assert preprocess([*flags, *half, *place[:-1], f"{place[-1]}/half"]) == 0
    return flags


@pytest.fixture
def place(made, store, tmp_path) -> str:
    """The URL of a folder of the test's own, with a copy of the output c."""
    name = tmp_path.name
    for entry in store.list_objects_v2(Bucket=BUCKET, Prefix="made/c")["Contents"]:
        key = entry["Key"].replace("made/", f"{name}/", 1)
        store.copy_object(Bucket=BUCKET, Key=key, CopySource={"Bucket": BUCKET, "Key": entry["Key"]})
    return f"s3://{BUCKET}/{name}"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(store, url: str, content: bytes) -> None:
    store.put_object(Bucket=BUCKET, Key=url.removeprefix(f"s3://{BUCKET}/"), Body=content)


def get(store, url: str) -> bytes:
    content: bytes = store.get_object(Bucket=BUCKET, Key=url.removeprefix(f"s3://{BUCKET}/"))["Body"].read()
    return content


def change(store, url: str, **fields) -> None:
    put(store, url, json.dumps(json.loads(get(store, url)) | fields).encode())


COMMANDS = {
    "verify": lambda url: verify([url]),
    "inspect": lambda url: inspect([url]),
    "strip": lambda url: strip([url, "out/s"]),
    "merge": lambda url: merge(["out/m", url]),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("climbs", ["ABSOLUTE", "../../../../victim", "c/../../../../../victim", "", "."])
def test_a_manifest_reaches_no_file_outside(command, climbs, place, store, tmp_path):
    (tmp_path / "victim").write_text("mine")
    files = json.loads(get(store, f"{place}/c.srp.json"))["files"]
    name = climbs.replace("ABSOLUTE", str(tmp_path / "victim"))
    put(store, f"{place}/{name}", b"theirs")
    change(store, f"{place}/c.srp.json", files=files | {name: {"bytes": 4, "xxh3_128": "0"}})
    with pytest.raises(InputError, match=r"c.srp.json: lists '.*', which is not next to it"):
        COMMANDS[command](f"{place}/c")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not [path for path in Path("srp-work").rglob("*") if path.is_file()]


def test_object_names_reach_no_file_outside(place, store, tmp_path):
    (tmp_path / "victim.idx").write_text("mine")
    put(store, f"{place}/x/../../../../victim.idx", b"theirs")
    with pytest.raises(UsageError, match="such a name cannot be a file's"):
        preprocess(["--input-shards", f"{place}/**/victim", "--guard", "heuristic", "--output-prefix", "o"])
    with pytest.raises(UsageError, match="such a name cannot be a file's"):
        verdicts([f"{place}/x", "list"])
    with pytest.raises(UsageError, match="such a name cannot be a file's"):
        verify([f"{place}/x/../../../../victim"])
    assert (tmp_path / "victim.idx").read_text() == "mine"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"format_version": 1}'])
def test_broken_manifests(command, content, place, store):
    put(store, f"{place}/c.srp.json", content)
    with pytest.raises(InputError, match=r"^s3://.*/c.srp.json: (not valid JSON|not a manifest|damaged)"):
        COMMANDS[command](f"{place}/c")
    put(store, f"{place}/d.srp.json", content)  # another's: it is of no concern
    with pytest.raises(InputError, match="/c_text_document: no finished output is there"):
        COMMANDS[command](f"{place}/c_text_document")


@pytest.mark.parametrize("info", [None, [], {"shard": None}, {"shard": {"name": 5}}, {"shard": {"name": ""}}])
def test_broken_sidecars(info, place, store, capsys):
    sidecar = get(store, f"{place}/c_text_document.srp")
    field = sidecar.index(b'"info":') + len('"info":')
    text = sidecar[field:].decode("latin-1").lstrip()
    whole = text[: json.JSONDecoder().raw_decode(text)[1]].encode("latin-1")
    broken = json.dumps(info).encode().ljust(len(whole))
    put(store, f"{place}/c_text_document.srp", sidecar.replace(whole, broken))  # it is there twice
    assert verify([f"{place}/c"]) == 2
    assert f"damaged: {place}/c_text_document.srp: not a reflection sidecar" in capsys.readouterr().out
    for command in ("inspect", "strip"):
        with pytest.raises(InputError, match=rf"^{place}/c_text_document.srp: not a reflection sidecar"):
            COMMANDS[command](f"{place}/c")


@pytest.mark.parametrize("suffix", ["bin", "idx", "srp"])
def test_a_missing_object_is_damage(suffix, place, store, capsys):
    store.delete_object(Bucket=BUCKET, Key=f"{place.rpartition('/')[2]}/c_text_document.{suffix}")
    assert verify([f"{place}/c"]) == 2
    assert f"damaged: {place}/c_text_document.{suffix}: no such file" in capsys.readouterr().out


def test_what_earlier_runs_left_is_not_taken_for_what_is_there(place, store, tmp_path, capsys):
    """Neither a copy nor an output that waits for its upload, which stays."""
    folder = place.replace("://", "/")
    before = get(store, f"{place}/c_text_document.bin")
    for tree in ("srp-work", "srp-work/read"):
        (tmp_path / tree / folder).mkdir(parents=True)
        for name in ("c_text_document.bin", "c.srp.json"):
            (tmp_path / tree / folder / name).write_bytes(get(store, f"{place}/{name}"))
    put(store, f"{place}/c_text_document.bin", before[:-2] + b"xx")
    assert verify([f"{place}/c"]) == 2
    assert "its checksum is not the manifest's" in capsys.readouterr().out
    inspect([f"{place}/c"])
    assert (tmp_path / "srp-work" / folder / "c_text_document.bin").read_bytes() == before
    assert not [path for path in (tmp_path / "srp-work" / "read").rglob("*") if path.is_file()]


def test_two_runs_do_not_share_copies(place):
    with reading_folder(Path("srp-work/read")), pytest.raises(UsageError, match=r"another run reads .* --work-dir"):
        verify([f"{place}/c"])
    assert verify([f"{place}/c", "--work-dir", "other"]) == 0


def test_overwriting_leaves_no_sidecar_of_what_was_there(made, place, store, capsys):
    with pytest.raises(UsageError, match="exists already; pass --overwrite"):
        strip([f"s3://{BUCKET}/made/c", f"{place}/c"])
    strip([f"s3://{BUCKET}/made/c", f"{place}/c", "--overwrite"])
    assert not Objects(place).exists("c_text_document.srp")
    assert verify([f"{place}/c"]) == 0


def test_files_of_no_output_are_not_replaced(made, place, store):
    put(store, f"{place}/s_text_document.bin", b"precious")
    with pytest.raises(
        OutputError, match=r"s_text_document.bin is there, and no finished output lists it: move it away"
    ):
        strip([f"{place}/c", f"{place}/s"])
    assert get(store, f"{place}/s_text_document.bin") == b"precious"


@pytest.mark.parametrize("command", ["strip", "merge"])
def test_a_failed_upload_is_made_up_for_by_the_same_command(command, place, monkeypatch):
    argv = [f"{place}/c", f"{place}/o"] if command == "strip" else [f"{place}/o", f"{place}/c"]
    run = {"strip": strip, "merge": merge}[command]
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "write", lambda *_: (_ for _ in ()).throw(OutputError("the network is down")))
        with pytest.raises(OutputError, match="the network is down"):
            run(argv)
    run(argv)
    assert verify([f"{place}/o"]) == 0
    assert not [path for path in Path("srp-work").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        (f"s3://{BUCKET}/made/", "pass s3://BUCKET/FOLDER/NAME"),
        (f"s3://{BUCKET}", "pass s3://BUCKET/FOLDER/NAME"),
        ("s3://", "pass s3://BUCKET/FOLDER/NAME"),
        ("s3:///x", "pass s3://BUCKET/FOLDER/NAME"),
        (f"s3://{BUCKET}/made/half", "of 2 partitions, 0 is not finished there"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_prefixes_that_name_no_output(command, prefix, said, made):
    with pytest.raises(SrpError, match=said) as error:
        COMMANDS[command](prefix)
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_was_made_for_the_shards_is_found_next_to_them(made, capsys):
    inspect([f"s3://{BUCKET}/made/special", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["sample"] and not shown["no_texts"]


def test_the_work_folder_is_on_this_machine():
    with pytest.raises(UsageError, match=r"--work-dir: s3://.*: only local files can be used here"):
        verify([f"s3://{BUCKET}/made/c", "--work-dir", f"s3://{BUCKET}/w"])
