#!/usr/bin/env bash
# Post-train on conversations with reflections, which srp sft --mode sft wrote. Usage and settings: sft_common.sh.
# The learning rate is the paper's, and the batch its 512 conversations where four are packed into a sequence (the
# first line of a run says how many are); it does not say how many epochs.
PRESET=${PRESET:-1p7b}
OUT=${OUT:-out/sft-$PRESET}
EPOCHS=${EPOCHS:-2}
if [ "$PRESET" = debug ]; then
    LR=${LR:-2e-3} BATCH=${BATCH:-4}
else
    LR=${LR:-5e-4} BATCH=${BATCH:-128}
fi
# shellcheck source=examples/sft_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/sft_common.sh"
