#!/usr/bin/env bash
# Fine-tune a post-trained model on a user's data, which srp sft --mode reflection, mix-sft or original wrote:
# without reflections in it, the model forgets to write them. Usage and settings: sft_common.sh.
# The paper fine-tunes on benign data for 5 epochs, and on adversarial data for 20; learning rate and batch are ours.
PRESET=${PRESET:-1p7b}
OUT=${OUT:-out/finetune-$PRESET}
EPOCHS=${EPOCHS:-5}
if [ "$PRESET" = debug ]; then
    LR=${LR:-1e-3} BATCH=${BATCH:-4}
else
    LR=${LR:-1e-4} BATCH=${BATCH:-16}
fi
# shellcheck source=examples/sft_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/sft_common.sh"
