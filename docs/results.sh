#!/usr/bin/env bash
# All runs of docs/results.md, in its order; figures and results.json go to docs/results. Two cores take some three hours.
# Stop it whenever you like (timeout -s INT 600 bash docs/results.sh): it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."

keep() { # out/$1's results.json, analysis.json and figures -> docs/results/$1
    mkdir -p "docs/results/$1"
    cp "out/$1"/*.json "out/$1"/*.png "docs/results/$1"
    rm -f "docs/results/$1/steps.json"
}

[ -d data/tinyshakespeare ] || python prepare.py shakespeare
[ -d data/stdlib ] || python prepare.py stdlib
[ -d data/needles ] || python prepare.py needles

python compare.py config/cpu.toml --dataset=tinyshakespeare --eval_interval=200 --jobs=2 --out_dir=out/shakespeare
keep shakespeare
python compare.py config/needles.toml --seeds=1,2,3 --jobs=2 --out_dir=out/needles
keep needles
python compare.py config/cpu.toml --eval_interval=200 --jobs=2 --out_dir=out/stdlib
keep stdlib
python compare.py config/cpu.toml --dataset=tinyshakespeare --eval_interval=200 --equal=time --jobs=2 --out_dir=out/equal-time
keep equal-time

python analyze.py out/shakespeare/{vanilla,softmax1,temperature,differential}-0.003-1 --out_dir=out/analysis
keep analysis
python analyze.py out/shakespeare/differential-0.003-{1,2,3,4} --out_dir=out/analysis-seeds
keep analysis-seeds
python analyze.py out/needles/{vanilla,softmax1,temperature,differential}-0.002-1 --out_dir=out/analysis-needles
keep analysis-needles
