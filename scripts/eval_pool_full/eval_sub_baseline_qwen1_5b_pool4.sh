#!/usr/bin/env bash
# Asks the 1.5B model at pool level 4 all of MVBench: GPUS
source "$(dirname "$0")/../common.sh"
evaluate finetune_qwen1b_poolbranch_pool4
