#!/usr/bin/env bash
# Fine-tunes Qwen2.5-1.5B at pool level 1: GPUS
source "$(dirname "$0")/../common.sh"
finetune qwen1_5b_pool1 finetune_qwen1b_poolbranch_pool1
