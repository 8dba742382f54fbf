"""The examples for Slurm and Kubernetes, with stubs of Slurm's commands and the schemas of Kubernetes' API."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_srp.cli import annotate, preprocess

EXAMPLES = Path(__file__).parents[2] / "examples"


def stub(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder / name).chmod(0o755)


def submit(folder: Path, name: str, *argv: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a batch script as Slurm would, in `folder`, which holds the stubs."""
    env = {"PATH": f"{folder}:{os.environ['PATH']}"} | settings
    command = ["bash", str(EXAMPLES / "slurm" / name), *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=env, cwd=folder)


INPUT = ["--input", "corpus/*.jsonl.zst", "--store", "out/verdicts"]
SHARDS = [
    "--append-eod",
    "--output-prefix",
    "out/corpus",
    "--tokenizer-model",
    "tokenizer",
    "--tokenizer-type",
    "HuggingFaceTokenizer",
]


@pytest.mark.parametrize(
    ("name", "argv", "parser"),
    [
        ("annotate", [*INPUT, "--guard", "qwen3guard"], annotate.build_parser),
        ("preprocess", [*INPUT, *SHARDS], preprocess.build_parser),
    ],
)
def test_a_task_of_an_array(name: str, argv: list[str], parser: Any, tmp_path: Path) -> None:
    """Its partition is its index, however many tasks are submitted."""
    stub(tmp_path, "srun", 'exec "${@:3}"')
    stub(tmp_path, "srp", 'printf "%s\\n" "$@"')
    task = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MAX": "7"}
    done = submit(tmp_path, f"{name}.sbatch", *argv, PARTITIONS="16", **task)
    assert done.returncode == 0, done.stderr
    command, *flags = done.stdout.splitlines()
    assert command == name
    args = parser().parse_args(flags)
    assert (args.num_partitions, args.partition_index) == (16, 7)
    assert args.input == ["corpus/*.jsonl.zst"]


@pytest.mark.parametrize("name", ["annotate.sbatch", "preprocess.sbatch"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SLURM_ARRAY_TASK_ID": "7"}, "PARTITIONS: set it to the number of partitions"),
        ({"PARTITIONS": "16"}, "SLURM_ARRAY_TASK_ID: submit a job array, such as sbatch --array 0-15"),
    ],
)
def test_what_an_array_needs(name: str, settings: dict[str, str], message: str, tmp_path: Path) -> None:
    done = submit(tmp_path, name, **settings)
    assert done.returncode != 0 and message in done.stderr


SRUN = """
while [[ $1 == --* ]]; do
    case $1 in --nodes | --ntasks | --nodelist) shift 2 ;; *) shift ;; esac
done
SLURM_NODEID=0 exec "$@"
"""
RAY = """
echo "ray $*" >>calls
echo "${RAY_AUTH_MODE} ${#RAY_AUTH_TOKEN}" >>calls
[ "$1" = start ] && exec sleep 60
[ -z "${NO_RAY:-}" ]
"""
JOB = {"SLURM_JOB_NODELIST": "node[0-3]", "SLURM_JOB_ID": "25"}


def ray_job(folder: Path, *argv: str, **settings: str) -> subprocess.CompletedProcess[str]:
    for name, text in {"scontrol": "echo node0", "srun": SRUN, "ray": RAY, "sleep": "exec /bin/sleep 0.2"}.items():
        stub(folder, name, text)
    return submit(folder, "ray.sbatch", *argv, **JOB, **settings)


def test_a_command_on_ray(tmp_path: Path) -> None:
    done = ray_job(tmp_path, "bash", "-c", 'echo "at $RAY_ADDRESS"; exit 3')
    assert (done.returncode, done.stdout) == (3, "at node0:20025\n"), done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert {"ray start --head --port 20025 --block", "ray status", "token 64"} >= set(calls)
    assert "ray status" in calls


def test_ray_that_does_not_start(tmp_path: Path) -> None:
    done = ray_job(tmp_path, "true", NO_RAY="1", RAY_START_TRIES="2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Ray does not answer at node0:20025; ")


def check_schema(resource: Any) -> None:
    """Against the schema of the newest Kubernetes; unknown fields are errors."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    kubernetes_validate.validate(resource, str(kubernetes_validate.latest_version()), strict=True)


def manifest(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / "kubernetes" / name).read_text())


def run_container(container: dict[str, Any], folder: Path, **env: str) -> list[str]:
    """The arguments that a container's command passes to the program of the image, which a stub replaces."""
    settings = {entry["name"]: entry["value"] for entry in container.get("env", [])}
    settings |= {"PATH": f"{folder}:{os.environ['PATH']}"} | env
    (text,) = container["args"]
    text = text.replace("/opt/megatron-srp/examples/", f"{folder}/")
    done = subprocess.run([*container["command"], text], capture_output=True, text=True, timeout=600, env=settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_indexed_job(tmp_path: Path) -> None:
    job = manifest("annotate.yaml")
    check_schema(job)
    assert job["spec"]["completionMode"] == "Indexed"
    stub(tmp_path, "srp", 'printf "%s\\n" "$@"')
    (container,) = job["spec"]["template"]["spec"]["containers"]
    command, *flags = run_container(container, tmp_path, JOB_COMPLETION_INDEX="3")
    args = annotate.build_parser().parse_args(flags)
    assert command == "annotate"
    assert (args.num_partitions, args.partition_index) == (job["spec"]["completions"], 3)


def test_the_training_job(tmp_path: Path) -> None:
    """The operator has no schema of its own there; what it is made of has: pods."""
    job = manifest("pretrain.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert replicas["Master"]["replicas"] == 1
    stub(tmp_path, "pretrain_1p7b.sh", 'echo "$NNODES $NODE_RANK ${RANK:-none} ${WORLD_SIZE:-none}"')
    for part in replicas.values():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": part["template"]["spec"]}
        check_schema(pod)
        (container,) = pod["spec"]["containers"]
        assert container["name"] == "pytorch"
        nodes = str(sum(part["replicas"] for part in replicas.values()))
        assert run_container(container, tmp_path, RANK="2", WORLD_SIZE="4") == [f"{nodes} 2 none none"]
