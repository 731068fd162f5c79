#!/bin/bash
# Every benchmark that needs a GPU, at 7B with random weights, one after another: bash benchmarks/gpu.sh FOLDER
# About 7 minutes on an H100 of 80 GB. Each one's output goes to FOLDER and to the terminal; a failure stops none of
# the others. Names after FOLDER choose some: training, bagel, verification, adapters, speculative, probing, loss.
out=${1:?name a folder for the results}
mkdir -p "$out"
cd "$(dirname "$0")/.." || exit 1
chosen=" ${*:2} "
gpu="--device cuda --size 7b"

measure() { # name, seconds at most, command
  [[ "$chosen" == "  " || "$chosen" == *" $1 "* ]] || return
  local began=$SECONDS
  echo "== $1: python ${*:3}"
  PYTHONUNBUFFERED=1 timeout "$2" python "${@:3}" >"$out/$1.txt" 2>"$out/$1.log" || { echo "failed or too slow ($?):"; tail -5 "$out/$1.log"; }
  grep -v "^step \|real_accelerator" "$out/$1.txt"
  echo "($((SECONDS - began)) s)"
}

export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
measure training 120 benchmarks/training_step.py $gpu
measure bagel 200 benchmarks/bagel_editing.py $gpu
measure verification 150 benchmarks/verification.py $gpu --k 1 8
measure speculative 150 benchmarks/speculative.py $gpu --share 0.75 --block 16
measure probing 60 benchmarks/shared_prefix.py $gpu
measure loss 90 benchmarks/weighted_cross_entropy.py
measure adapters 150 benchmarks/verification.py $gpu --k 1 8 --adapters
measure liquid 60 benchmarks/training_step.py $gpu --family liquid --batch 4
