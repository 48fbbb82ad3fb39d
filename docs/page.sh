#!/usr/bin/env bash
# docs/page.html, the example that the README shows, from runs of docs/results.sh. Where there is a Chromium, also pictures of
# it: docs/page.png for the README, and in out/ the whole page at three widths, to be looked at.
set -euo pipefail
cd "$(dirname "$0")/.."

best() { # MECHANISM: the run of seed 1 at its best setting on tiny Shakespeare
    python - "$1" <<'PYTHON'
import json, sys
print("out/text/" + json.load(open("docs/results/text/results.json"))["chosen"][sys.argv[1]] + "-1")
PYTHON
}
python -m lab.page out/missing/{differential,vanilla}-0.002-1 "$(best differential)" "$(best vanilla)" --out=docs/page.html

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || exit 0
picture() { # PAGE FILE WIDTH HEIGHT
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=5000 \
        --window-size="$3,$4" --screenshot="$PWD/$2" "file://$PWD/$1" 2> /dev/null
}
for width in 360 800 1600; do picture docs/page.html out/page-$width.png $width 4200; done
# Of its third part only what the README's picture needs
hidden='#three, #many, h1, h1 + p, #made, #live-title, #live-title + p, #tasks, #task-said, #write, #actions, #switches, #maps ~ *, #maps small'
sed "s|</style>|$hidden { display: none !important }</style>|" docs/page.html > out/live.html
picture out/live.html docs/page.png 1000 900
