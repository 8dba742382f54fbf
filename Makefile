# make demo    the whole path on a small corpus, on this machine's CPU
# make test    the tests; make test-all runs the exhaustive ones too
# make bench   measure, and write BENCHMARKS.md
.PHONY: setup demo test test-all bench lint format
# Without byte code Megatron's imports take twice as long.
unexport PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS ?= 1

setup: .venv/ready

.venv/ready: setup.cfg setup.py pyproject.toml megatron_srp/_kernels.c tools/setup_venv.sh
	tools/setup_venv.sh
	@touch $@

demo: setup
	.venv/bin/python tools/demo.py

test: setup
	.venv/bin/python -m pytest

test-all: setup
	.venv/bin/python -m pytest -m ''

bench: setup
	.venv/bin/python tools/bench.py

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy megatron_srp

format: setup
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
