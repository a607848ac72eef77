#!/usr/bin/env bash
# Fetches published weights and data with the Hugging Face CLI into .cache/, where the experiments look for them.
#   ./hfd.sh [--dry-run] [--no-unpack] [TARGET ...]     without a TARGET: all weights; a repository's name is one, too
# HF_ENDPOINT names a mirror, HF_TOKEN opens gated repositories. After an interruption the same command goes on.
set -euo pipefail
cd "$(dirname "$0")"

# target | kind | repository | folder | GB as published | what of the repository, in the CLI's words
TARGETS='clip|model|openai/clip-vit-large-patch14-336|.cache/clip-vit-large-patch14-336|1.7|config.json preprocessor_config.json pytorch_model.bin
internvideo2|model|OpenGVLab/InternVideo2-Stage2_1B-224p-f4|.cache/InternVideo2-Stage2_1B-224p-f4|2.8|InternVideo2-stage2_1b-224p-f4.pt
qwen1_5b|model|Qwen/Qwen2.5-1.5B-Instruct|.cache/qwen2_5/1.5b_instruction|3.1|
qwen3b|model|Qwen/Qwen2.5-3B-Instruct|.cache/qwen2_5/3b_instruction|6.2|
projectors1_5b|model|Wangxc1000/qwen2.5_1.5B_projectors|.cache/projectors/qwen1_5b|0.03|
projectors3b|model|Wangxc1000/qwen2.5_3B_projectors|.cache/projectors/qwen3b|0.05|
mvbench|dataset|OpenGVLab/MVBench|.cache/MVBench|17.3|
pretraining|dataset|MBZUAI/VideoGPT-plus_Training_Dataset|.cache/instruction_data|27.7|--include pretraining/*
finetuning|dataset|MBZUAI/VideoGPT-plus_Training_Dataset|.cache/instruction_data|337.4|--exclude pretraining/*'
WEIGHTS=(clip internvideo2 qwen1_5b qwen3b)
MEDIA=.cache/instruction_data/instruction_tuning

# What has to be there at last, for the archives of others choose their own folders.
declare -A EXPECTED=(
  [mvbench]=".cache/MVBench/json .cache/MVBench/video/star .cache/MVBench/video/clevrer .cache/MVBench/video/perception
    .cache/MVBench/video/tvqa .cache/MVBench/video/ssv2_video .cache/MVBench/video/sta .cache/MVBench/video/scene_qa
    .cache/MVBench/video/FunQA_test .cache/MVBench/video/Moments_in_Time_Raw .cache/MVBench/video/vlnqa
    .cache/MVBench/video/nturgbd"
  [pretraining]=".cache/instruction_data/pretraining/CC3M-595K .cache/instruction_data/pretraining/COCO/train2014"
  [finetuning]=".cache/instruction_data/annotations $MEDIA/Activity_Videos $MEDIA/webvid $MEDIA/k710 $MEDIA/ssv2
    $MEDIA/videochat_it $MEDIA/NExTQA $MEDIA/clevrer"
  [projectors1_5b]="results/pretrain/mlp2x_gelu_clip_l14_336px results/pretrain/mlp2x_gelu_internvideo2"
  [projectors3b]="results/pretrain/mlp2x_gelu_clip_l14_336px_qwen3b results/pretrain/mlp2x_gelu_internvideo2_qwen3b"
)

stop() { # CODE LINE
  echo "error: $2" >&2
  exit "$1"
}

rows() { # TARGET: its row, or the rows of the repository of that name
  awk -F'|' -v name="$1" '$1 == name || $3 == name' <<<"$TARGETS"
}

fetch() { # TARGET KIND REPOSITORY FOLDER WHAT...
  local target=$1 kind=$2 repository=$3 folder=$4
  shift 4
  local call=("${cli:-hf}" download "$repository" "$@" --repo-type "$kind" --local-dir "$folder")
  printf '%q ' "${call[@]}" && echo
  [[ $dry == no ]] || return 0
  "${call[@]}" || stop 1 "$target stopped; run the same command again, it goes on. A gated repository wants its terms \
accepted on its page and HF_TOKEN set"
  [[ $unpack == no ]] || unpack "$folder"
  case $target in
    projectors1_5b) place "$folder" "" ;;
    projectors3b) place "$folder" _qwen3b ;;
  esac
  local expected
  for expected in ${EXPECTED[$target]-}; do
    [[ $unpack == no || -e $expected ]] || missing+=("$expected")
  done
}

unpack() { # FOLDER: every archive in it, beside itself, once
  local archive
  while IFS= read -r archive; do
    [[ ! -e $archive.unpacked ]] || continue
    echo "unpack $archive"
    case $archive in
      *.zip) python3 -m zipfile -e "$archive" "$(dirname "$archive")" ;;
      *) tar -xzf "$archive" -C "$(dirname "$archive")" ;;
    esac
    touch "$archive.unpacked"
  done < <(find "$1" -name '*.zip' -o -name '*.tgz' | sort)
}

place() { # FOLDER SUFFIX: published projectors, where scripts/ and `--projectors` look for them
  local name=results/pretrain/mlp2x_gelu
  link "$1/image_mm_projector.bin" "${name}_clip_l14_336px$2"
  link "$1/mm_projector.bin" "${name}_internvideo2$2"
}

link() { # FILE FOLDER
  [[ -f $1 ]] || return 0
  mkdir -p "$2"
  ln -sf "$PWD/$1" "$2/mm_projector.bin"
}

dry=no unpack=yes wanted=() missing=()
for argument in "$@"; do
  case $argument in
    --dry-run) dry=yes ;;
    --no-unpack) unpack=no ;;
    -h | --help)
      sed -n '2,4s/^# \{0,1\}//p' "$0"
      echo "targets: $(cut -d'|' -f1 <<<"$TARGETS" | paste -sd' ' -)"
      exit 0
      ;;
    *) wanted+=("$argument") ;;
  esac
done
[[ ${#wanted[@]} -gt 0 ]] || wanted=("${WEIGHTS[@]}")
table=""
for target in "${wanted[@]}"; do
  found=$(rows "$target")
  [[ -n $found ]] || stop 2 "unknown target '$target'; choose from: $(cut -d'|' -f1 <<<"$TARGETS" | paste -sd' ' -)"
  table+="$found"$'\n'
done
table=$(awk 'NF && !seen[$0]++' <<<"$table")

cli=$(command -v hf || { [[ -x .venv/bin/hf ]] && echo .venv/bin/hf; } || command -v huggingface-cli || true)
[[ -n $cli || $dry == yes ]] || stop 1 "no Hugging Face CLI: run \`make setup\`, or pip install huggingface_hub"

echo "from ${HF_ENDPOINT:-https://huggingface.co}"
awk -F'|' '{ printf "%-15s %7.2f GB  %-40s -> %s\n", $1, $5, $3, $4; sum += $5; archives += $2 == "dataset" }
  END { printf "%-15s %7.2f GB%s\n", "together", sum, archives ? ", and about as much again unpacked" : "" }' <<<"$table"
needed=$(awk -F'|' '{ sum += $5 * ($2 == "dataset" ? 2 : 1) } END { print sum }' <<<"$table")
df -Pk . | awk -v needed="$needed" 'NR == 2 { free = $4 * 1024 / 1e9
  printf "%-15s %7.2f GB%s\n", "free here", free, free < needed ? ": NOT ENOUGH unless some of it is there already" : "" }'
while IFS='|' read -r target kind repository folder _ what <&3; do
  read -ra words <<<"$what"
  fetch "$target" "$kind" "$repository" "$folder" ${words[@]+"${words[@]}"}
done 3<<<"$table"
[[ ${#missing[@]} -gt 0 ]] || exit 0
[[ ${missing[*]} != *nturgbd* ]] || licence="; the clips of nturgbd are given out by NTU RGB+D alone"
stop 1 "not there after unpacking: ${missing[*]}; see what the archives beside them hold and link it there${licence-}"
