#!/usr/bin/env bash
# All runs of docs/results.md, in its order; numbers and figures go to docs/results. Two cores take some two hours.
# Stop it whenever you like (timeout -s INT 600 bash docs/results.sh): it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."

keep() { # NAME FIGURE...: out/NAME's json and those figures of it -> docs/results/NAME
    mkdir -p "docs/results/$1"
    cp out/"$1"/{results,analysis}.json "docs/results/$1" 2> /dev/null || true
    for figure in "${@:2}"; do cp "out/$1/$figure" "docs/results/$1"; done
}
checkpoints() { # NAME RATE SEED...: the runs of out/NAME
    for attention in vanilla softmax1 temperature differential; do
        for seed in "${@:3}"; do echo "out/$1/$attention-$2-$seed"; done
    done
}

[ -d data/tinyshakespeare ] || python prepare.py shakespeare
[ -d data/stdlib ] || python prepare.py stdlib
[ -d data/needles ] || python prepare.py needles

python compare.py config/cpu.toml --dataset=tinyshakespeare --eval_interval=200 --jobs=2 --out_dir=out/shakespeare
keep shakespeare loss.png lam.png g.png
python compare.py config/cpu.toml --dataset=tinyshakespeare --eval_interval=200 --equal=time --jobs=2 --out_dir=out/equal-time
keep equal-time loss.png
python compare.py config/cpu.toml --eval_interval=200 --jobs=2 --out_dir=out/stdlib
keep stdlib loss.png lam.png
python compare.py config/needles.toml --seeds=1,2,3 --jobs=2 --out_dir=out/needles
keep needles loss.png needles.png lam.png

python analyze.py $(checkpoints shakespeare 0.003 1) --out_dir=out/analysis
keep analysis {map,maps}-{vanilla,softmax1,temperature,differential}.png weights.png losses.png
python analyze.py $(checkpoints shakespeare 0.003 1 2 3 4) --tokens=16384 --out_dir=out/analysis-seeds
keep analysis-seeds
python analyze.py $(checkpoints needles 0.002 2) --tokens=16384 --out_dir=out/analysis-needles
keep analysis-needles needles.png map-{vanilla,differential}.png
