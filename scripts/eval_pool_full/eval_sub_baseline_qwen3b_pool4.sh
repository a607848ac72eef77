#!/usr/bin/env bash
# Asks the 3B model at pool level 4 all of MVBench: GPUS
source "$(dirname "$0")/../common.sh"
evaluate finetune_qwen3b_poolbranch_pool4
