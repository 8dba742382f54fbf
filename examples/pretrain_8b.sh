#!/usr/bin/env bash
# Pretrain a model of Llama-3.1-8B's shape; usage and settings: pretrain_common.sh.
PRESET=8b
PRECISION=${PRECISION:-fp8-tensorwise}
# shellcheck source=examples/pretrain_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/pretrain_common.sh"
