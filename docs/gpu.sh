#!/usr/bin/env bash
# All that speed.md has not measured yet, on one GPU, in under ten minutes: bash docs/gpu.sh /path/to/nanoGPT [folder for results]
# Needs data/tinyshakespeare (python prepare.py shakespeare). The most wanted first: what comes late may be cut short.
set -uo pipefail
cd "$(dirname "$0")/.."
peer=$1 out=${2:-out/gpu}
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv > "$out/device.csv"

measure() { # name, seconds allowed, what
  timeout "$2" python bench.py config/gpt2.toml --repetitions=10 --out_dir="$out/$1" "${@:3}" > "$out/$1.md" 2> "$out/$1.err"
}

measure step-1024 240 --parts=step --paths=fused --modes=compiled --lengths=1024 --tokens=16384 --peer="$peer"
measure step-4096 110 --parts=step --paths=fused --modes=compiled --lengths=4096 --tokens=16384 --attentions=vanilla,differential
measure memory-8192 40 --parts=step --modes=eager --lengths=8192 --attentions=vanilla,differential --repetitions=3
measure attention 40 --parts=attention --modes=eager --lengths=1024,4096 --tokens=16384
timeout 60 python -m pytest -s -k cuda > "$out/pytest.txt" 2>&1
measure sampling 30 --parts=sampling --attentions=vanilla,differential --repetitions=3 --peer="$peer"
measure race 300 --parts=race --repetitions=1 --peer="$peer"
