#!/usr/bin/env bash
# Download the published weights into .cache/ with huggingface_hub (installed by `make setup`).
# HF_ENDPOINT is respected for a mirror, HF_TOKEN for gated files. Run it again after an interruption: it goes on.
set -euo pipefail
cd "$(dirname "$0")"
make --quiet setup
get() { # repository folder [file ...]
  local repository=$1 folder=$2; shift 2
  echo "$repository -> $folder"
  .venv/bin/hf download "$repository" "$@" --local-dir "$folder"
}
get openai/clip-vit-large-patch14-336 .cache/clip-vit-large-patch14-336 config.json preprocessor_config.json pytorch_model.bin
get OpenGVLab/InternVideo2-Stage2_1B-224p-f4 .cache/InternVideo2-Stage2_1B-224p-f4 InternVideo2-stage2_1b-224p-f4.pt
get Qwen/Qwen2.5-1.5B-Instruct .cache/qwen2_5/1.5b_instruction
get Qwen/Qwen2.5-3B-Instruct .cache/qwen2_5/3b_instruction
