"""A guarded conversation in the terminal. Ctrl-C ends an answer; an empty line or Ctrl-D ends the conversation."""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from megatron_srp.errors import InputError
from megatron_srp.generation.engines.request import Options, Request
from megatron_srp.generation.guard.policy import Generation

if TYPE_CHECKING:
    from megatron_srp.generation.engines.prompted_model import PromptedModel

# What a model writes must not move the cursor, rename the window or clear the screen.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
Turns = list[dict[str, str]]


def converse(model: "PromptedModel", options: Options, prefill: str = "") -> None:
    """Talk until an empty line or the end of input; raises UsageError without a chat template."""
    turns: Turns = []
    for line in _lines():
        turns.append({"role": "user", "content": line})
        try:
            request = _request(model, turns, options, prefill)
            (answer,) = model.generator.generate([request], lambda _, text: print(_plain(text), end="", flush=True))
        except InputError as error:
            print(f"[{error}]", flush=True)
            turns.pop()
        except KeyboardInterrupt:
            print("\n[interrupted]", flush=True)
            turns.pop()
        else:
            print(f"\n[{_summary(answer)}]", flush=True)
            turns.append({"role": "assistant", "content": answer.text})


def _lines() -> Iterator[str]:
    """What the user says. In a terminal with a prompt, and with line editing where readline is available."""
    asking = sys.stdin.isatty()
    if asking:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        print("A guarded conversation; Ctrl-C ends an answer, an empty line the conversation.", flush=True)
    while True:
        try:
            line = input("> " if asking else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def _request(model: "PromptedModel", turns: Turns, options: Options, prefill: str) -> Request:
    """The request for an answer; a conversation that has grown too long restarts from its last turn."""
    try:
        return model.chat(turns, options, prefill)
    except InputError:
        if len(turns) == 1:
            raise
        del turns[:-1]
        request = model.chat(turns, options, prefill)
        print("[the conversation is too long for the model and restarts here]", flush=True)
        return request


def _plain(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _summary(answer: Generation) -> str:
    """Why it ended, and what was reflected."""
    written = ", ".join(label.verdict for label in answer.reflections) or "none"
    worst = max((one.controversial + one.unsafe for one in answer.forced), default=None)
    forced = "" if worst is None else f"; forced: {len(answer.forced)}, at most {worst:.0%} unsafe"
    return f"{answer.stop_reason}; reflections: {written}{forced}"
