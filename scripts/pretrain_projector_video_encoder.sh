#!/usr/bin/env bash
# Pre-trains the projector of the video stream: GPUS [EXPERIMENT]
source "$(dirname "$0")/common.sh"
pretrain video mlp2x_gelu_internvideo2 "${2-}"
