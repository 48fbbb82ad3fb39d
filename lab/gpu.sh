#!/usr/bin/env bash
# What lab/records/speed.md has not measured yet, on one GPU, in some ten minutes:
# bash lab/gpu.sh PATH_TO_NANOGPT [folder for results]
# Needs tiny Shakespeare here (python prepare.py shakespeare) and in nanoGPT (python data/shakespeare_char/prepare.py).
# The most wanted comes first; what time cuts off can be repeated by its own line.
set -uo pipefail
peer=$(realpath "$1") out=$(realpath -m "${2:-out/gpu}")
cd "$(dirname "$0")/.."
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv > "$out/device.csv"

measure() { # name, seconds allowed, options of lab.bench
  timeout "$2" python -m lab.bench config/gpt2.toml --repetitions=10 --out_dir="$out/$1" "${@:3}" > "$out/$1.md" 2> "$out/$1.err"
}

compiled="--parts=step --paths=fused --modes=compiled --tokens=16384"
measure differential-1024 90 $compiled --lengths=1024 --attentions=vanilla,differential
measure others-1024 120 $compiled --lengths=1024 --attentions=vanilla,softmax1,temperature
measure nanogpt-1024 80 $compiled --lengths=1024 --attentions=vanilla --peer="$peer"
measure race 180 --parts=race --repetitions=1 --peer="$peer"
measure differential-4096 80 $compiled --lengths=4096 --attentions=vanilla,differential
measure memory-8192 30 --parts=step --modes=eager --lengths=8192 --attentions=vanilla,differential --repetitions=3
measure attention 30 --parts=attention --modes=eager --lengths=1024,4096 --tokens=16384
measure sampling 30 --parts=sampling --attentions=vanilla,differential --repetitions=3
timeout 60 python -m pytest -s -m gpu > "$out/pytest.txt" 2>&1
