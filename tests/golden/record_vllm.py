"""Record vLLM's API, as far as `vllm_engine.py` and `vllm_generator.py` use it, from the source in a wheel, without installing it.

pip download --no-deps vllm==0.33.0
python tests/golden/record_vllm.py vllm-0.33.0-*.whl
"""

import ast
import json
import re
import sys
import zipfile
from pathlib import Path

# file, class, method; without a method, the class's fields.
PARTS = {
    "LLM": ("vllm/entrypoints/llm.py", "LLM", "__init__"),
    "LLM.generate": ("vllm/entrypoints/llm.py", "LLM", "generate"),
    "LLMEngine.from_engine_args": ("vllm/v1/engine/llm_engine.py", "LLMEngine", "from_engine_args"),
    "LLMEngine.add_request": ("vllm/v1/engine/llm_engine.py", "LLMEngine", "add_request"),
    "LLMEngine.abort_request": ("vllm/v1/engine/llm_engine.py", "LLMEngine", "abort_request"),
    "LLMEngine.step": ("vllm/v1/engine/llm_engine.py", "LLMEngine", "step"),
    "ModelConfig.try_get_generation_config": ("vllm/config/model.py", "ModelConfig", "try_get_generation_config"),
    "EngineArgs": ("vllm/engine/arg_utils.py", "EngineArgs", None),
    "SamplingParams": ("vllm/sampling_params.py", "SamplingParams", None),
    "TokensPrompt": ("vllm/inputs/llm.py", "TokensPrompt", None),
    "CompletionOutput": ("vllm/outputs.py", "CompletionOutput", None),
    "Logprob": ("vllm/logprobs.py", "Logprob", None),
    "RequestOutput": ("vllm/outputs.py", "RequestOutput", "__init__"),
}


def parameters(method: ast.FunctionDef) -> list[str]:
    """All but self as in a signature: `name`, `name=` with a default, `*` before keywords, `**name`."""
    arguments = method.args
    named = [*arguments.posonlyargs, *arguments.args]
    missing = len(named) - len(arguments.defaults)
    found = [a.arg if i < missing else f"{a.arg}=" for i, a in enumerate(named)][1:]
    found += ["*"] if arguments.kwonlyargs else []
    for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(a.arg if default is None else f"{a.arg}=")
    return found + ([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])


def fields(kind: ast.ClassDef) -> list[str]:
    found = [node for node in kind.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    named = [(ast.unparse(f.target), f.value) for f in found]
    return [f"{name}{'' if value is None else '='}" for name, value in named if name[0] != "_"]


def record(wheel: Path) -> dict:
    with zipfile.ZipFile(wheel) as archive:
        api = {}
        for name, (path, kind_name, method_name) in PARTS.items():
            tree = ast.parse(archive.read(path))
            kind = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == kind_name)
            method = next((n for n in kind.body if isinstance(n, ast.FunctionDef) and n.name == method_name), None)
            api[name] = parameters(method) if method else fields(kind)
        exported = re.findall(r'^    "(\w+)": "', archive.read("vllm/__init__.py").decode(), re.MULTILINE)
    return {"version": wheel.name.split("-")[1], "exported": exported, "api": api}


if __name__ == "__main__":
    contract = record(Path(sys.argv[1]))
    target = Path(__file__).with_name(f"vllm-{contract['version']}.json")
    lines = (f"  {json.dumps(name)}: {json.dumps(signature)}" for name, signature in contract.pop("api").items())
    head = json.dumps(contract, indent=1)[:-2]
    target.write_text(head + ',\n "api": {\n' + ",\n".join(lines) + "\n }\n}\n")
    json.loads(target.read_text())
    print(f"wrote {target}")
