#!/usr/bin/env bash
# Pre-trains the projector of the image stream: GPUS [EXPERIMENT]
source "$(dirname "$0")/common.sh"
pretrain image mlp2x_gelu_clip_l14_336px "${2-}"
