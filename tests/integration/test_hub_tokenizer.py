"""A tokenizer by its name on the hub is the one in a folder, chat template and end of text included."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.cli import sft
from megatron_srp.sft.shard import SftShard
from megatron_srp.tokenization import TextTokenizer
from tests.helpers.commands import SRP
from tests.helpers.instruct_tokenizer import CHATML, END, START, instruct_tokenizer
from tests.helpers.small_hub import small_hub

OTHER = "{% for message in messages %}{{ message.content }}{% endfor %}"
# Where the template is: in a file of its own, as transformers saves it since version 4.43, or in the configuration.
FILES: dict[str, tuple[str | None, Any]] = {
    "file": (CHATML, None),
    "configuration": (None, CHATML),
    "configuration, by name": (
        None,
        [{"name": "tool_use", "template": OTHER}, {"name": "default", "template": CHATML}],
    ),
    "file and another in the configuration": (CHATML, OTHER),
}


@pytest.mark.parametrize("where", FILES)
def test_conversations_by_hub_name_and_by_folder(where: str, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    file, configured = FILES[where]
    own = instruct_tokenizer(tokenizer, tmp_path / "tok", configured)
    if file is not None:
        (own.model / "chat_template.jinja").write_text(file)
    if configured is None:
        (own.model / "special_tokens_map.json").write_text(json.dumps({"eos_token": END}))
        (own.model / "tokenizer_config.json").write_text("{}")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    flags = ["--input", str(tmp_path / "chat.jsonl"), "--guard", "heuristic", "--mode", "reflection"]
    flags += ["--eod-token", END]
    with small_hub("acme/tok", own.model) as environment:
        env = os.environ | environment | {"HF_HOME": str(tmp_path / "home")}
        command = [*SRP, "sft", *flags, "--tokenizer-model", "acme/tok", "--output-prefix", str(tmp_path / "hub")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    assert sft.main([*flags, "--tokenizer-model", str(own.model), "--output-prefix", str(tmp_path / "folder")]) == 0
    hub, folder = (SftShard(tmp_path / f"{out}_sft")[0][0].tolist() for out in ("hub", "folder"))
    assert hub == folder and hub[0] == own.token_id(START)
    reference = AutoTokenizer.from_pretrained(own.model)
    prompt = reference.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    assert hub[: len(prompt)] == prompt
