#!/usr/bin/env bash
# Pretrain the paper's 1.7B model (SmolLM2-1.7B's shape) on 100B tokens; usage and settings: pretrain_common.sh.
PRESET=1p7b
PRECISION=${PRECISION:-fp8-tensorwise}
# shellcheck source=examples/pretrain_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/pretrain_common.sh"
