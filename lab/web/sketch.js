// Part 3 of the page, with nothing trained: two rows of scores that someone types, and λ.

// 2 cos(q, k) of the 64 random keys of chapter 3.
const KEYS = [
  100, 19, 4, 3, -3, -44, -27, 51, 12, 13, -18, -8, -5, -16, 39, 44, -5, -6, -12, 1, 0, -23, -42, -32, -33, 45, 1, -5,
  14, 11, 38, -25, 17, 10, -25, 15, -13, -14, -28, 30, 26, -10, -23, -44, -52, -19, 19, 32, -10, 63, 30, -5, -8, -5,
  18, -4, 14, -42, 17, -16, 22, -22, -15, 25,
].map(key => key / 50);
const EXAMPLES = {
  "Three tokens": { typed: [[2, 1, 0], [0, 1, 0]], lam: (2 + Math.E) / (1 + Math.E + Math.E ** 2) },
  "One above 63 others": { typed: [[2, ...Array(63).fill(0)], [0]], lam: 64 / (63 + Math.E ** 2) },
  "64 random keys": { typed: [KEYS, [0]], lam: .8 },
};
const sketch = {};

// In `row` the weight of token `first` ÷ the mean size of the others; NaN where all of the row is zero.
function contrast(row, first) {
  const sizes = row.map(Math.abs);
  return Math.max(...sizes) < 1e-12 ? NaN : row[first] / mean(sizes.filter((_, i) => i !== first));
}
const minus = (A1, A2, lam) => A1.map((a, i) => Math.abs(1 - lam * A2[i] / a) < 1e-12 ? 0 : a - lam * A2[i]);

function showSketch() {
  const { typed, lam } = sketch, n = Math.max(2, ...typed.map(row => row.length));
  const [A1, A2] = typed.map(row => weigh(Array.from({ length: n }, (_, i) => row[i] ?? 0)));
  const A = minus(A1, A2, lam), second = A2.map(a => lam * a), first = likeliest(A1);
  const scale = [...A1, ...second, ...A], labels = A1.map((_, i) => n > 16 ? "" : i + 1);
  const uniform = lam && new Set(A2).size === 1 ? ", uniform" : "", negative = A.filter(a => a < 0).length;
  at("sketch-rows").classList.toggle("cards", n <= 16);
  sketch.figures[0]("A₁ = softmax(S₁)", A1, labels, `sum 1, ${spreadOf(A1)}`, { scale });
  const words = `sum ${num(lam)}, ${spreadOf(second)}${uniform}`;
  sketch.figures[1]("λA₂ = λ softmax(S₂)", second, labels, words, { scale });
  sketch.words = `sum ${num(1 - lam)}, ${spreadOf(A)}, negative weights: ${negative}`;
  sketch.figures[2]("A = A₁ − λA₂", A, labels, sketch.words, { scale });
  const range = Math.log(Math.max(...A1) / Math.min(...A1)), most = contrast(A, first);
  drawContrast(A1, A2, first, range);
  at("range").textContent = num(range);
  at("bound").textContent = num(Math.exp(range));
  const gone = A.every((a, i) => i === first || a === 0);
  const end = most < 0 ? `${num(most)} in A: it is itself below zero.` : most < 1000 ? `${num(most)} in A.`
    : "more than 1000 in A: the others "
      + (gone ? "vanish, since A₁ and λA₂ give each the same weight." : "nearly vanish.");
  at("sketch-says").textContent = Number.isNaN(most) ? "Everything cancels: A₁ is λA₂."
    : `The contrast of token ${first + 1} is ${num(contrast(A1, first))} in A₁ and ${end}`;
}

// Contrast against λ, on a logarithmic scale from 0.1 to 1000 or more: the bound e^Δ, one softmax, the difference.
function drawContrast(A1, A2, first, range) {
  const svg = at("contrast"), decades = Math.max(3, Math.ceil(range / Math.LN10) + 1), x = lam => 58 + 332 * lam / 1.2;
  const y = a => a < .1 ? NaN : 180 - 160 * (1 + Math.min(decades, Math.log10(a))) / (1 + decades);
  svg.replaceChildren();
  for (let i = -1; i <= decades; i++) {
    add(svg, "path", "", { d: `M58,${y(10 ** i)}H390`, class: "axis" });
    const size = i < 4 ? 10 ** i : `10${raised(i)}`;
    add(svg, "text", i < decades ? size : `≥ ${size}`, { x: 53, y: y(10 ** i) + 4, "text-anchor": "end" });
  }
  for (const lam of [0, .2, .4, .6, .8, 1, 1.2])
    add(svg, "text", lam || "λ = 0", { x: x(lam), y: 204, "text-anchor": "middle" });
  const zeros = A1.map((a, i) => a / A2[i]).filter(lam => lam <= 1.2);  // where a weight of the difference is zero
  const lams = [...Array.from({ length: 601 }, (_, i) => i / 500), ...zeros].sort((a, b) => a - b);
  const line = (of, name) => {
    const points = lams.map(lam => [x(lam), y(of(lam))]);
    add(svg, "polyline", "", { points: points.filter(([, y]) => !Number.isNaN(y)).join(" "), class: name });
  };
  line(() => contrast(A1, first), "softmax");
  line(lam => contrast(minus(A1, A2, lam), first), "difference");
  line(() => Math.exp(range), "bound");
  const cy = y(contrast(minus(A1, A2, sketch.lam), first));
  if (!Number.isNaN(cy)) add(svg, "circle", "", { cx: x(sketch.lam), cy, r: 5 });
}

// A list of numbers that someone types; null where it is none.
function numbersIn(typed) {
  const list = typed.replaceAll("−", "-").split(/[\s,;]+/).filter(Boolean).map(Number);
  return list.length && list.length <= 256 && list.every(s => Math.abs(s) <= 20) ? list : null;
}

function setSketch(example) {
  Object.assign(sketch, example);
  sketch.typed.forEach((row, i) => at(`scores-${i}`).value = row.join(", "));
  sketch.slide(sketch.lam);
  tell("scores", "");
  showSketch();
}

function buildSketch() {
  sketch.figures = [1, 2, 3].map(() => rowFigure(at("sketch-rows")));
  const show = () => { at("example-says").textContent = ""; showSketch(); };
  const range = { min: 0, max: 1.2, step: .005 }, set = lam => { sketch.lam = lam; show(); };
  sketch.slide = slider(at("sketch-slider"), "λ", range, set);
  for (const [name, example] of Object.entries(EXAMPLES)) add(at("examples"), "button", name).onclick = () => {
    setSketch(example);
    const words = `${name}, λ = ${num(sketch.lam)}: ${sketch.words}.`;
    at("example-says").textContent = `${words} ${at("sketch-says").textContent}`;
  };
  const read = () => {
    const typed = [0, 1].map(i => numbersIn(at(`scores-${i}`).value)), ok = typed.every(Boolean);
    tell("scores", ok ? "" : "Type numbers between −20 and 20, for example 2, 1, 0.", !ok);
    at("contrast").classList.toggle("stale", !ok);
    if (!ok) return;
    sketch.typed = typed;
    show();
  };
  at("scores-0").oninput = at("scores-1").oninput = read;
  setSketch({ ...Object.values(EXAMPLES)[0], lam: .3 });
}
