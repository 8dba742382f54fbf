"""A tokenizer by its name on the hub is the one in a folder, chat template and end of text included."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from megatron_srp.sft.shard import SftShard
from megatron_srp.tokenization import TextTokenizer
from tests.helpers.commands import SRP
from tests.helpers.instruct_tokenizer import CHATML, END, START, instruct_tokenizer
from tests.helpers.small_hub import small_hub


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
def test_conversations_by_hub_name_and_by_folder(where: str, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    own = instruct_tokenizer(tokenizer, tmp_path / "tok", CHATML if where == "tokenizer_config.json" else None)
    if where == "chat_template.jinja":  # as transformers saves it since version 4.43
        (own.model / where).write_text(CHATML)
        (own.model / "special_tokens_map.json").write_text(json.dumps({"eos_token": END}))
        (own.model / "tokenizer_config.json").write_text("{}")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    common = ["--input", "chat.jsonl", "--guard", "heuristic", "--mode", "reflection", "--eod-token", END]
    with small_hub("acme/tok", own.model) as environment:
        env = os.environ | environment | {"HF_HOME": str(tmp_path / "home")}
        for name, out in (("acme/tok", "hub"), (str(own.model), "folder")):
            command = [*SRP, "sft", *common, "--tokenizer-model", name, "--output-prefix", out]
            done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
    hub, folder = (SftShard(tmp_path / f"{out}_sft")[0][0].tolist() for out in ("hub", "folder"))
    assert hub == folder and hub[0] == own.token_id(START)
