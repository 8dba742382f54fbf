# make demo    the paper's controlled experiment in small: Filtering against SRP, on this machine's CPU
# make smoke   the whole path on a small corpus, in a minute or two
# make test    the tests; make test-all runs the exhaustive ones too
# make real    a real model's whole way, from its GGUF file to its evaluation: fetched, then 10 to 20 minutes
# make test-hosts MEGATRON_LM=CHECKOUT   the scripts of a checkout of Megatron-LM, unchanged, on data with reflections
# make soak    harm a training on two simulated nodes for an hour (MINUTES, SEED), and write BENCHMARKS.md; needs root
# make bench   measure, and write BENCHMARKS.md
# make docs    build the documentation into out/site
# make gpu-rehearsal   what measures on a GPU (tools/gpu_check.sh), without one, on a machine made bare
# make docker  build the training image; make docker-check only lints it
.PHONY: setup demo smoke real test test-all test-hosts coverage soak bench gpu-rehearsal lint types format docs
.PHONY: docker docker-check
# Without byte code Megatron's imports take twice as long.
unexport PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS ?= 1
# After a worker that has crashed, xdist can wait for ever for another's tests.
IN_PARALLEL = -n 2 --dist loadfile --max-worker-restart 0

KERNELS = megatron_srp/_arrays.h megatron_srp/corpus/_text.c megatron_srp/data/_tokens.c

setup: .venv/ready

.venv/ready: setup.cfg constraints.txt setup.py pyproject.toml $(KERNELS) tools/setup_venv.sh
	tools/setup_venv.sh
	@touch $@

demo: setup
	.venv/bin/srp world run --preset mini --settings filtering,srp --stages sft,sft-recovery \
		--first-seed 100 --seeds 1 out/demo

smoke: setup
	.venv/bin/srp smoke

real: .venv/gguf
	tests/real/fetch.sh || echo "going on with what is there"
	.venv/bin/python -m megatron_srp.benchmarks.real.tour

.venv/gguf: .venv/ready
	tools/setup_venv.sh gguf
	@touch $@

test: setup
	.venv/bin/python -m pytest $(IN_PARALLEL)

test-all: setup
	tools/setup_comparisons.sh
	.venv/bin/python -m pytest $(IN_PARALLEL) -m ''

test-hosts: setup
	MEGATRON_LM=$(abspath $(MEGATRON_LM)) .venv/bin/python -m pytest tests/hosts
	@cat out/hosts/*.md

coverage: setup
	.venv/bin/python -m pytest $(IN_PARALLEL) --cov --cov-report=term

soak: setup
	.venv/bin/python -m tests.soak --minutes $(or $(MINUTES),60) --seed $(or $(SEED),0) --out BENCHMARKS.md

bench: setup
	.venv/bin/srp bench

gpu-rehearsal: setup
	.venv/bin/python -m tests.helpers.bare_machine out/gpu-rehearsal $(if $(WHEELS),--wheels $(WHEELS)) --minutes 15

lint: setup types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/shellcheck --external-sources examples/*.sh examples/slurm/*.sbatch tools/*.sh
	.venv/bin/hadolint Dockerfile

types: setup
	.venv/bin/mypy

format: setup
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@echo "wrote out/site/index.html"

.venv/docs: .venv/ready
	tools/setup_venv.sh docs
	@touch $@

docker:
	docker build --tag megatron-srp .

# Parses and lints it; needs no container engine.
docker-check: setup
	.venv/bin/hadolint Dockerfile
