# shellcheck shell=bash
# Sourced by the scripts here. They take a list of GPUs as $1, such as 0,1,2,3, and run from the repository's root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PWD/.venv/bin:$PATH" # what `make setup` made, where it did

if [[ ! ${1-} =~ ^[0-9]+(,[0-9]+)*$ ]]; then
  echo "usage: $0 GPUS, where GPUS is a list such as 0,1,2,3" >&2
  exit 2
fi
export CUDA_VISIBLE_DEVICES=$1
IFS=, read -ra gpus <<<"$1"
# For several machines: TORCHRUN_FLAGS="--nnodes 2 --node_rank 0 --master_addr HOST --master_port 29500"
read -ra flags <<<"${TORCHRUN_FLAGS:---standalone}"

launch() { # ARGUMENTS of videogpt-plus, in one process a GPU
  torchrun "${flags[@]}" --nproc_per_node "${#gpus[@]}" -m videogpt_plus "$@"
}

pretrain() { # STREAM FOLDER [EXPERIMENT]: another LLM than the 1.5B one has its name behind its folder
  local experiment=${3:-qwen1_5b}
  local folder=results/pretrain/$2
  [[ $experiment == qwen1_5b ]] || folder+=_$experiment
  launch pretrain "$experiment" "$1" --output-dir "$folder" --deepspeed scripts/zero2.json
}

finetune() { # EXPERIMENT FOLDER [SUFFIX of its projectors' folders]
  local start=results/pretrain/mlp2x_gelu
  launch train "$1" --projectors "image=${start}_clip_l14_336px${3-}" "video=${start}_internvideo2${3-}" \
    --output-dir "results/pool_full/$2" --deepspeed scripts/zero3.json
}

evaluate() { # FOLDER; one process, on the first GPU of the list
  videogpt-plus answer "results/pool_full/$1"
  videogpt-plus export "results/pool_full/$1" "json_result/$1"
  videogpt-plus score "results/pool_full/$1"
}
