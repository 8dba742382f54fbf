#!/usr/bin/env bash
# Pretrain SmolLM2-360M's shape: too narrow for FP8 to pay; usage and settings: pretrain_common.sh.
PRESET=360m
PRECISION=${PRECISION:-bf16}
# shellcheck source=examples/pretrain_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/pretrain_common.sh"
