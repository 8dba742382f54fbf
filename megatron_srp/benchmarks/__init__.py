"""Benchmarks: what `make bench` measures, one module for each section of BENCHMARKS.md.

A new benchmark is a module with `run(quick: bool) -> Section` and one line in `SECTIONS`.
"""

SECTIONS = {
    "guard-cpu": "megatron_srp.benchmarks.guard_cpu:run",
    "data": "megatron_srp.benchmarks.data_plane:run",
}
