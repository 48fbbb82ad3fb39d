#!/usr/bin/env bash
# All runs of docs/results.md, in its order; numbers and figures go to docs/results. Two cores take some three hours.
# Entries 1 to 5 give other numbers than those shown, since first weights are now drawn by name: commit 48b9d41 gives them.
# Stop it whenever you like (timeout -s INT 600 bash docs/results.sh): it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."

keep() { # NAME FILE...: those files of out/NAME -> docs/results/NAME
    mkdir -p "docs/results/$1"
    for file in "${@:2}"; do cp "out/$1/$file" "docs/results/$1"; done
}
look() { # NAME ARGUMENT...: lab.analyze into out/NAME, once: remove out/NAME/looked to look again
    [ -f "out/$1/looked" ] || {
        python -m lab.analyze "${@:2}" --out_dir="out/$1"
        touch "out/$1/looked"
    }
}
checkpoints() { # NAME RATE SEED...: the runs of out/NAME
    for attention in vanilla softmax1 temperature differential; do
        for seed in "${@:3}"; do echo "out/$1/$attention-$2-$seed"; done
    done
}

[ -d data/tinyshakespeare ] || python prepare.py shakespeare
[ -d data/stdlib ] || python prepare.py stdlib
[ -d data/needles ] || python -m lab.needles

python -m lab.compare config/cpu.toml --dataset=tinyshakespeare --eval_interval=200 --jobs=2 --out_dir=out/shakespeare
mkdir -p docs/results/first-weights # entry 7; docs/results/shakespeare keeps the runs of entry 1, from other first weights
cp out/shakespeare/{results.json,loss.png} docs/results/first-weights
python -m lab.compare config/cpu.toml --dataset=tinyshakespeare --eval_interval=200 --equal=time --jobs=2 --out_dir=out/equal-time
keep equal-time results.json loss.png
python -m lab.compare config/cpu.toml --eval_interval=200 --jobs=2 --out_dir=out/stdlib
keep stdlib results.json loss.png lam.png
python -m lab.compare config/needles.toml --seeds=1,2,3 --jobs=2 --out_dir=out/needles
keep needles results.json loss.png needles.png lam.png
python -m lab.compare config/needles.toml --attentions=vanilla --seeds=1,2,3 --init_std=0.02 --jobs=2 --out_dir=out/needles-small
keep needles-small results.json needles.png

look analysis $(checkpoints shakespeare 0.003 1)
keep analysis analysis.json {map,maps}-{vanilla,softmax1,temperature,differential}.png weights.png losses.png
look analysis-seeds $(checkpoints shakespeare 0.003 1 2 3 4) --tokens=16384
keep analysis-seeds analysis.json
look analysis-needles $(checkpoints needles 0.002 2) --tokens=16384
keep analysis-needles analysis.json needles.png map-{vanilla,differential}.png
look analysis-needles-seeds $(checkpoints needles 0.002 1 2 3) --tokens=16384
keep analysis-needles-seeds analysis.json

python -m lab.compare docs/mistakes.toml --jobs=2 # the mistakes of chapter 6
keep mistakes results.json
python -m docs.figures
