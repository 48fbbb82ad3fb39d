#!/usr/bin/env bash
# All runs of docs/results.md; numbers and figures go to docs/results. Two cores take many hours. The needles give other numbers
# than those shown, since first weights are now drawn by name: commit 48b9d41 gives them.
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

# The first recipe of cpu.toml
python -m lab.compare config/cpu.toml --init_std=0.02 --learning_rate=3e-3 --eval_interval=200 --dataset=tinyshakespeare --jobs=2 \
    --out_dir=out/first-recipe
keep first-recipe results.json
python -m lab.compare config/needles.toml --seeds=1,2,3 --jobs=2 --out_dir=out/needles
keep needles results.json needles.png lam.png
python -m lab.compare config/needles.toml --attentions=vanilla --seeds=1,2,3 --init_std=0.02 --jobs=2 --out_dir=out/needles-small
keep needles-small results.json

look analysis-needles $(checkpoints needles 0.002 2) --tokens=16384
keep analysis-needles analysis.json needles.png map-differential.png
look analysis-needles-seeds $(checkpoints needles 0.002 1 2 3) --tokens=16384
keep analysis-needles-seeds analysis.json

# Which one is missing? What decides (written when out/missing and a first out/missing-controls had run, before all others):
# subtraction helps if differential's accuracy at the end is above that of each of the other three for all seeds, at
# the preset and with each mechanism at its best of 27 settings; and it is the sign that helps if add-only, wide-values and
# lambda-zero stay with vanilla. Faster learning, not a better end, if vanilla too is above 99 % after 1600 steps.
[ -d data/missing ] || python -m lab.missing
controls=add-only,no-norm,fixed-lambda,lambda-zero,wide-values,normed-vanilla,sum,v2,tied,tied-0.9,init-0.8,init-0.5,no-scale
python -m lab.compare config/missing.toml --attentions=vanilla,differential,$controls --seeds=1,2,3,4 --jobs=2 --out_dir=out/missing-controls
keep missing-controls results.json
python -m lab.compare config/missing.toml --attentions=vanilla,tied-narrow --seeds=1,2,3,4 --jobs=2 --out_dir=out/missing-narrow
keep missing-narrow results.json
python -m lab.compare config/missing.toml --seeds=1,2,3,4,5,6,7,8 --jobs=2 --out_dir=out/missing
keep missing results.json accuracy.png lam.png
python -m lab.compare config/missing.toml --seeds=1,2,3,4 --max_iters=1600 --jobs=2 --out_dir=out/missing-long
keep missing-long results.json accuracy.png
python -m lab.tune config/missing.toml --init_stds=0.02,0.088,0.125 --learning_rates=1e-3,2e-3,4e-3 --n_heads=2,4,8 \
    --seeds=1,2,3,4,5,6,7,8 --jobs=2 --out_dir=out/missing-tune
keep missing-tune results.json
python -m lab.tune config/missing.toml --chosen_in=docs/results/missing-tune/results.json --max_iters=1600 --seeds=1,2,3,4 --jobs=2 \
    --out_dir=out/missing-tuned-long # each at its best setting, and with more steps: do the others get there?
keep missing-tuned-long results.json
python -m lab.solved out/missing-tuned-long/{vanilla-0.088-0.001-4,softmax1-0.088-0.001-4,temperature-0.088-0.004-8,differential-0.088-0.004-4}-{1,2,3,4} \
    --out_dir=out/solved-tuned # how do they do it, and with other numbers of items?
keep solved-tuned solved.json
# When does it happen? λ, both maps and minus signs over training. Decides about a conjecture (a head dares to be sharp where a
# second map can correct it): it is wrong if A₁ is not sharper than the map of lambda-zero at the end, in the mean of four seeds.
python -m lab.course config/missing.toml --steps=0,25,50,75,100,150,200,400 --jobs=2 --out_dir=out/course-missing
keep course-missing results.json course.png
python -m lab.solved out/missing/differential-0.002-{1,2,3,4,5,6,7,8} --out_dir=out/solved
keep solved solved.json
cp out/solved/answer-out-missing-differential-0.002-1.png docs/results/solved/answer-1.png
cp out/solved-tuned/answer-out-missing-tuned-long-vanilla-0.088-0.001-4-1.png docs/results/solved/answer-vanilla.png
look analysis-missing out/missing/differential-0.002-1 --tokens=2600 --layer=0
cp out/analysis-missing/map-differential.png docs/results/solved/map-1.png
look analysis-missing-seeds out/missing/differential-0.002-{1,2,3,4} --tokens=26000
keep analysis-missing-seeds analysis.json
for layers in 1 4; do # decides: the same order of mechanisms as with two layers, in all seeds
    python -m lab.compare config/missing.toml --n_layer=$layers --seeds=1,2,3,4 --jobs=2 --out_dir=out/missing-$layers-layers
    keep missing-$layers-layers results.json
done
missing() { # ITEMS SYMBOLS STEPS: the task with more or fewer items; decides: the same order in all seeds
    [ -d "data/missing-$1" ] || python -m lab.missing --n_items=$1 --n_symbols=$2 --name=missing-$1
    python -m lab.compare config/missing.toml --dataset=missing-$1 --block_size=$((2 * $1 + 2)) --max_iters=$3 \
        --attentions=vanilla,differential --seeds=1,2,3,4 --jobs=2 --out_dir=out/missing-$1
    keep missing-$1 results.json
}
missing 6 16 400
missing 24 64 800
missing 48 88 800

# Text, a fair recipe. Decides: a mechanism is ahead of or behind vanilla if the 95 % interval of its paired difference over
# six fresh seeds, each mechanism at its best of 12 settings, does not hold 0; else there is no difference that we can see.
# The settings are chosen on tiny Shakespeare; the standard library and a vanilla as large as v2 get the same ones.
text=(config/cpu.toml --jobs=2) five=vanilla,softmax1,temperature,differential,v2
python -m lab.tune "${text[@]}" --dataset=tinyshakespeare --attentions=$five --init_stds=0.02,0.088 \
    --learning_rates=1e-3,2e-3,4e-3 --n_heads=4,8 --tuning_seeds=101,102 --out_dir=out/text
keep text results.json loss.png lam.png
edge=("${text[@]}" --dataset=tinyshakespeare --init_std=0.125 --seeds=101,102) # larger first weights than were tried above
python -m lab.compare "${edge[@]}" --attentions=vanilla,softmax1,differential,v2 --out_dir=out/text-edge
keep text-edge results.json
python -m lab.compare "${edge[@]}" --attentions=temperature --n_head=8 --learning_rate=4e-3 --out_dir=out/text-edge-temperature
keep text-edge-temperature results.json
python -m lab.tune "${text[@]}" --dataset=tinyshakespeare --attentions=vanilla --n_embd=136 --chosen_in=docs/results/text/results.json \
    --out_dir=out/text-wider
keep text-wider results.json
python -m lab.tune "${text[@]}" --dataset=tinyshakespeare --attentions=vanilla,differential --chosen_in=docs/results/text/results.json \
    --out_dir=out/text-again # since 628bca8 differential multiplies in another order
keep text-again results.json

python -m lab.tune "${text[@]}" --dataset=stdlib --attentions=$five --chosen_in=docs/results/text/results.json --out_dir=out/code
keep code results.json loss.png
fair() { # SEED...: the runs of out/text with these seeds, each mechanism at its best
    for attention in vanilla softmax1 temperature differential; do
        setting=$(python -c "import json; print(json.load(open('docs/results/text/results.json'))['chosen']['$attention'])")
        for seed in "$@"; do echo "out/text/$setting-$seed"; done
    done
}
look analysis-text $(fair 1)
keep analysis-text analysis.json map-differential.png maps-{vanilla,softmax1,temperature,differential}.png weights.png losses.png
look analysis-text-seeds $(fair 1 2 3 4 5 6) --tokens=16384
keep analysis-text-seeds analysis.json
python -m lab.course config/cpu.toml --dataset=tinyshakespeare --steps=0,50,100,200,400,800,1200 --jobs=2 --out_dir=out/course-text
keep course-text results.json course.png
# Longer and wider, each mechanism at the setting that it has above. Decides: the lag grows (or shrinks) if all of three seeds
# have a larger (or smaller) difference to vanilla than the mean over six seeds above, by more than its standard deviation.
for change in block_size=256 max_iters=4800; do
    python -m lab.tune "${text[@]}" --dataset=tinyshakespeare --attentions=vanilla,differential --chosen_in=docs/results/text/results.json \
        --$change --seeds=1,2,3 --out_dir=out/text-$change
    keep text-$change results.json
done
python -m lab.compare "${text[@]}" --dataset=tinyshakespeare --attentions=vanilla,differential --n_head=8 --seeds=1,2,3 \
    --out_dir=out/text-8-maps
keep text-8-maps results.json
python -m lab.tune "${text[@]}" --dataset=tinyshakespeare --attentions=vanilla,differential --n_heads=16 --init_stds=0.02,0.088 \
    --learning_rates=1e-3,2e-3,4e-3 --tuning_seeds=101 --seeds=1,2,3 --out_dir=out/text-16-maps
keep text-16-maps results.json
python -m lab.compare "${text[@]}" --dataset=tinyshakespeare --attentions=vanilla,differential --equal=time --seeds=1,2,3 \
    --out_dir=out/equal-time
keep equal-time results.json
# Which part? Decides: a part costs (or is worth) something on text if the interval of its paired difference to differential does
# not hold 0, four seeds.
parts=no-norm,no-scale,fixed-lambda,lambda-zero,tied,tied-0.9,tied-narrow,init-0.8,init-0.5,normed-vanilla,wide-values,sum
python -m lab.compare "${text[@]}" --dataset=tinyshakespeare --attentions=vanilla,differential,$parts --seeds=1,2,3,4 \
    --out_dir=out/text-parts
keep text-parts results.json
python -m lab.compare "${text[@]}" --dataset=tinyshakespeare --attentions=vanilla --n_head=2 --seeds=1,2,3,4 --out_dir=out/text-2-heads
keep text-2-heads results.json # vanilla with as many heads as differential has

# Shared noise. Decides: theory holds if the mean of λ over four seeds is within 0.01 of σ²/(σ² + 1/n) at each of twelve (σ, n),
# and the error within a tenth of σ²/(nσ² + 1); the width of the values decides if vanilla is level where it is C/2.
python -m lab.one_layer --out_dir=out/noise
keep noise results.json noise.png
python -m lab.one_layer --n_items=16 --widths=16,32 --sigmas=1 --out_dir=out/noise-narrow
keep noise-narrow results.json
python -m lab.one_layer --n_items=16 --n_heads=1,4 --sigmas=1 --out_dir=out/noise-heads
keep noise-heads results.json
for rate in 2e-3 1e-2; do # is the order of the mechanisms that of this rate alone? Two other seeds
    python -m lab.one_layer --n_items=16 --sigmas=1 --seeds=101,102 --learning_rate=$rate --out_dir=out/noise-$rate
    keep noise-$rate results.json
done
# Regression in the context. Decides: signs help if differential is ahead of vanilla with 2 and 4 heads in all four seeds.
python -m lab.one_layer --task=regression --n_items=20 --widths=1,48 --n_heads=1,2,4 --out_dir=out/regression
keep regression results.json regression.png
# Does the order of the examples matter? Only where queries and keys are rotated by their place.
python -m lab.one_layer --task=regression --n_items=20 --widths=1,48 --attentions=vanilla,differential,no-norm --positions=true \
    --out_dir=out/regression-positions
keep regression-positions results.json

python -m lab.compare docs/mistakes.toml --jobs=2 # the mistakes of chapter 6
keep mistakes results.json
python -m docs.figures
