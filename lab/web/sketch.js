// Part 3 of the page, with nothing trained: two rows of scores, g times what is typed, and n tokens.

const sketch = { typed: [], g: 1, n: 3, lam: 0 };
// cos(q, k) of the 64 random keys of chapter 3.
const KEYS = [
  1, .19, .04, .03, -.03, -.44, -.27, .51, .12, .13, -.18, -.08, -.05, -.16, .39, .44, -.05, -.06, -.12, .01, -.00,
  -.23, -.42, -.32, -.33, .45, .01, -.05, .14, .11, .38, -.25, .17, .10, -.25, .15, -.13, -.14, -.28, .30, .26, -.10,
  -.23, -.44, -.52, -.19, .19, .32, -.10, .63, .30, -.05, -.08, -.05, .18, -.04, .14, -.42, .17, -.16, .22, -.22, -.15,
  .25,
];
const EXAMPLES = {
  "by hand: 2, 1, 0 and 0, 1, 0": { typed: [[2, 1, 0], [0, 1, 0]], g: 1, n: 3, lam: .3 },
  "one token above 63 others": { typed: [[1], [0]], g: 2, n: 64, lam: .5 },
  "64 random keys": { typed: [KEYS, [0]], g: 2, n: 64, lam: .8 },
};

// Weights of a typed row of scores: times g, with zeros up to n.
function weightsOf(typed) {
  const S = Float64Array.from({ length: sketch.n }, (_, i) => sketch.g * (typed[i] ?? 0));
  weigh(S, "softmax");
  return [...S];
}

// The weight of token `first`, without its sign, divided by the mean of the others'; NaN where all are zero.
const contrast = (row, first) => Math.abs(row[first]) / mean(row.filter((_, i) => i !== first).map(Math.abs));
const minus = (A1, A2, lam) => A1.map((a, i) => a - lam * A2[i]);

function showSketch() {
  const [A1, A2] = sketch.typed.map(weightsOf), { lam, n } = sketch, A = minus(A1, A2, lam), first = likeliest(A1);
  const range = Math.log(Math.max(...A1) / Math.min(...A1)), labels = n > 64 ? [] : A1.map((_, i) => n > 30 && (i + 1) % 8 ? "" : i + 1);
  const about = row => `sum ${num(sum(row))}, ${num(effective(row))} effective tokens`;
  if (at("sketch-rows").classList.contains("cards") !== n <= 16) {
    at("sketch-rows").classList.toggle("cards");
    widths.clear();
  }
  const second = A2.map(a => lam * a), scale = { others: [...A1, ...second, ...A] };
  sketch.figures[0].show(A1, labels, about(A1), first, scale);
  sketch.figures[1].show(second, labels, `sum ${num(lam)}`, first, scale);
  sketch.figures[2].show(A, labels, `${about(A)}, negative: ${A.filter(a => a < 0).length} of ${n}`, first, scale);
  drawContrast(A1, A2, first, range);
  const most = contrast(A, first), others = A.filter((_, i) => i !== first), gone = others.every(a => Math.abs(a) < 2e-3 * Math.abs(A[first]));
  at("range").textContent = num(range);
  at("bound").textContent = num(Math.exp(range));
  at("sketch-said").textContent = Number.isNaN(most) ? "Everything cancels: A₁ is λA₂." : `The weight of token ${first + 1} is ${num(contrast(A1, first))} times the mean of the others in A₁, and ${num(most)} times in A, ${most > Math.exp(range) ? "above" : "below"} the bound.`
    + (gone ? ` The ${others.length > 1 ? "others vanish together" : "other one vanishes"}: there A₁ is λ times A₂.` : "");
}

// Contrast against λ, on a logarithmic scale: the bound e^Δ, one softmax, the difference.
function drawContrast(A1, A2, first, range) {
  const svg = at("contrast"), width = widthOf(svg), [left, right, top, bottom] = [44, width - 8, 12, 200];
  const decades = Math.max(3, Math.ceil(range / Math.LN10) + 1), x = lam => left + lam / 1.2 * (right - left);
  const y = a => bottom - Math.max(-.5, Math.min(decades, Math.log10(a || 1))) / decades * (bottom - top) * .92 - 12;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} 236`);
  const text = (x, y, words, anchor = "middle", style = "") => draw(svg, "text", { x, y, "text-anchor": anchor, style }, words);
  for (let i = 0; i <= decades; i++) {
    draw(svg, "path", { d: `M${left},${y(10 ** i)}H${right}`, class: "axis" });
    text(left - 6, y(10 ** i) + 4, i < 4 ? 10 ** i : `10${RAISED[i]}`, "end");
  }
  for (const lam of [0, .2, .4, .6, .8, 1, 1.2]) text(x(lam), 216, lam, lam > 1 ? "end" : "middle");
  text((left + right) / 2, 233, "λ");
  const line = (of, style) => draw(svg, "polyline", { points: Array.from({ length: 601 }, (_, i) => `${x(i / 500).toFixed(1)},${y(of(i / 500)).toFixed(1)}`).join(" "), style: `fill: none; ${style}` });
  line(() => Math.exp(range), `stroke: ${colour("ink")}; stroke-width: 2; stroke-dasharray: 7 4`);
  line(() => contrast(A1, first), `stroke: ${colour("positive")}; stroke-width: 2.5`);
  line(lam => contrast(minus(A1, A2, lam), first), `stroke: ${colour("negative")}; stroke-width: 2.5`);
  draw(svg, "path", { d: `M${x(sketch.lam)},${top}V${bottom}`, class: "thin" });
  draw(svg, "circle", { cx: x(sketch.lam), cy: y(contrast(minus(A1, A2, sketch.lam), first)), r: 5, style: `fill: ${colour("negative")}` });
}

// A list of numbers that someone types; null where it is none.
function numbersIn(typed) {
  const list = typed.replaceAll("−", "-").split(/[\s,;]+/).filter(Boolean).map(Number);
  return list.length && list.length <= 256 && list.every(s => Math.abs(s) <= 20) ? list : null;
}

function setSketch(example) {
  Object.assign(sketch, example);
  sketch.typed.forEach((row, i) => at(`scores-${i}`).value = row.join(", "));
  buildSliders();
  showSketch();
}

function buildSliders() {
  const parent = at("sketch-sliders"), change = name => value => { sketch[name] = value; showSketch(); };
  parent.replaceChildren();
  slider(parent, "λ", { min: 0, max: 1.2, step: .001, value: sketch.lam }, change("lam"), x => x.toFixed(3));
  slider(parent, "g, by which all scores are multiplied", { min: 0, max: 6, step: .1, value: sketch.g }, change("g"), x => x.toFixed(1));
  slider(parent, "n, tokens in the row", { min: 2, max: 256, step: 1, value: sketch.n }, change("n"), String);
}

function buildSketch() {
  sketch.figures = ["A₁ = softmax(S₁)", "λA₂ = λ softmax(S₂)", "A = A₁ − λA₂"].map(name => rowFigure(at("sketch-rows"), name));
  for (const [name, example] of Object.entries(EXAMPLES))
    add(at("examples"), "button", name, { type: "button" }).onclick = () => setSketch(example);
  for (const i of [0, 1]) at(`scores-${i}`).oninput = event => {
    const list = numbersIn(event.target.value);
    event.target.setCustomValidity(list ? "" : "numbers between −20 and 20");
    at("scores-said").textContent = list ? "" : "Type numbers between −20 and 20, for example 2, 1, 0.";
    if (!list) return;
    sketch.typed = sketch.typed.map((row, k) => k === i ? list : row);
    sketch.n = Math.max(2, ...sketch.typed.map(row => row.length));
    buildSliders();
    showSketch();
  };
  setSketch(EXAMPLES["by hand: 2, 1, 0 and 0, 1, 0"]);
}
