#!/usr/bin/env bash
# Fine-tunes Qwen2.5-3B at pool level 4: GPUS
source "$(dirname "$0")/../common.sh"
finetune qwen3b_pool4 finetune_qwen3b_poolbranch_pool4 _qwen3b
