// Parts 1 and 2 of the page, with nothing trained: three tokens, and many.

// ---------------------------------------------------------------------------- three tokens

const VALUES = [[0, -54], [-52, 36], [52, 36]];
const three = { scores: [[2, 0, -1], [0, 1, 0]], lam: 0.5 };

function showThree() {
  const [A1, A2] = three.scores.map(S => { const row = Float64Array.from(S); weigh(row, "softmax"); return [...row]; });
  const A = A1.map((a, i) => a - three.lam * A2[i]);
  drawBars(A1, A2.map(a => three.lam * a), A);
  drawPlane(A1, A);
  const gone = [0, 1, 2].filter(i => Math.abs(A[i]) < 0.005 && A1[i] > 0.015), below = [0, 1, 2].filter(i => A[i] <= -0.005);
  const names = list => (list.length > 1 ? "tokens " : "token ") + list.map(i => i + 1).join(" and ");
  at("three-said").className = gone.length === 2 ? "said found" : "said";
  at("three-said").textContent = `A sums to 1 − λ = ${digits(1 - three.lam)}. ` + (
    three.lam === 0 ? "Nothing is subtracted: A is A₁."
    : gone.length === 3 ? "Everything cancels: the two rows of weights are alike."
    : gone.length === 2 ? `Found: the weights of ${names(gone)} vanish together. For both, A₁ is λ times A₂: the first scores of these two tokens differ by as much as their second scores. No softmax alone can do that.`
    : gone.length ? `The weight of ${names(gone)} vanishes: there A₁ is just λ times A₂.`
    : below.length ? `Below zero: ${names(below)}, where λA₂ is larger than A₁. The output can leave the triangle of the values.`
    : "No weight is below zero: the output is one that a softmax could make, but shorter, since the weights sum to less than 1.");
}

function drawBars(A1, second, A) {
  const parent = at("three-bars"), zero = 102, unit = 74;
  parent.replaceChildren();
  for (let i = 0; i < 3; i++) {
    [[A1[i], "faint", .75, "A₁"], [-second[i], "faint", .4, "−λA₂"], [A[i], signed(A[i]), 1, "A"]].forEach(([a, name, alpha, label], k) => {
      const x = 4 + 106 * i + 34 * k, height = Math.abs(a) * unit;
      draw(parent, "rect", { x, y: a < 0 ? zero : zero - height, width: 25, height: Math.max(height, 1), style: `fill: ${colour(name, alpha)}` });
      draw(parent, "text", { x: x + 13, y: a < 0 ? zero + height + 12 : zero - height - 4, "text-anchor": "middle", style: "font-size: 9.5px" }, digits(a));
      draw(parent, "text", { x: x + 13, y: 12, "text-anchor": "middle", style: `font-size: 10px; fill: ${colour("faint")}` }, label);
    });
    draw(parent, "text", { x: 51 + 106 * i, y: 207, "text-anchor": "middle" }, `token ${i + 1}`);
  }
  draw(parent, "line", { x1: 0, x2: 320, y1: zero, y2: zero, class: "thin" });
}

function drawPlane(A1, A) {
  const parent = at("three-plane"), points = list => list.map(p => p.map(x => x.toFixed(1)).join()).join(" ");
  const output = weights => [0, 1].map(k => sum(weights.map((a, i) => a * VALUES[i][k])));
  const corners = VALUES.flatMap(v => VALUES.map(w => v.map((x, k) => x - three.lam * w[k])));
  parent.replaceChildren();
  draw(parent, "polygon", { points: points(around(corners)), style: `fill: ${colour("mark", .08)}; stroke: ${colour("mark")}; stroke-dasharray: 4 3` });
  draw(parent, "polygon", { points: points(VALUES), class: "thin" });
  VALUES.forEach(([x, y], i) => draw(parent, "text", { x: x * 1.2, y: y * 1.2 + 4, "text-anchor": "middle" }, `v${"₁₂₃"[i]}`));
  const [[x1, y1], [x, y]] = [output(A1), output(A)];
  draw(parent, "line", { x1, y1, x2: x, y2: y, class: "thin" });
  draw(parent, "circle", { cx: x1, cy: y1, r: 5, style: `fill: none; stroke: ${colour("ink")}; stroke-width: 2` });
  draw(parent, "circle", { cx: x, cy: y, r: 6, style: `fill: ${colour("positive")}` });
  draw(parent, "path", { d: "M-4,0H4M0,-4V4", class: "thin" });
  draw(parent, "text", { x: 6, y: 12, style: "font-size: 10px" }, "0");
  draw(parent, "circle", { cx: -156, cy: -118, r: 5, style: `fill: none; stroke: ${colour("ink")}; stroke-width: 2` });
  draw(parent, "text", { x: -146, y: -114, style: "font-size: 11px" }, "A₁V");
  draw(parent, "circle", { cx: -112, cy: -118, r: 5, style: `fill: ${colour("positive")}` });
  draw(parent, "text", { x: -102, y: -114, style: "font-size: 11px" }, "AV");
  draw(parent, "text", { x: -162, y: 126, style: "font-size: 11px" }, "dashed: all that AV can reach, corners vᵢ − λvⱼ");
}

// The convex hull of points in the plane.
function around(points) {
  const sorted = [...points].sort(([a, b], [c, d]) => a - c || b - d);
  const half = list => list.reduce((hull, p) => {
    const left = ([a, b], [c, d]) => (c - a) * (p[1] - b) - (d - b) * (p[0] - a);
    while (hull.length > 1 && left(...hull.slice(-2)) <= 0) hull.pop();
    return [...hull, p];
  }, []);
  return [...half(sorted).slice(0, -1), ...half(sorted.reverse()).slice(0, -1)];
}

// ---------------------------------------------------------------------------- many tokens

const many = { n: 3, gap: 8, lam: 0.8, second: 0 };

// Weights of the needle and of each other token, in A₁ and in A₂.
function weightsOf(n) {
  const of = gap => 1 / (1 + (n - 1) * Math.exp(-gap)), first = of(many.gap), second = of(many.second);
  const rest = (1 - first) / (n - 1), others = (1 - second) / (n - 1);
  return { before: first / (1 - first), needle: first - many.lam * second, other: rest - many.lam * others };
}

function ratio(n) {
  const { needle, other } = weightsOf(n);
  return needle / ((n - 1) * Math.abs(other));
}

function showMany() {
  const parent = at("many-plot"), [left, right, top, bottom] = [44, 540, 8, 222];
  const x = log => left + (log - .3) / 6.7 * (right - left), y = value => top + (4 - Math.log10(Math.max(value, 1e-9))) / 8 * (bottom - top);
  const inside = value => Math.max(top, Math.min(bottom, y(value)));
  parent.replaceChildren();
  for (let log = 1; log <= 7; log++) {
    draw(parent, "line", { x1: x(log), x2: x(log), y1: top, y2: bottom, class: "axis" });
    draw(parent, "text", { x: x(log), y: 238, "text-anchor": "middle" }, ["", "10", "100", "1000", "10⁴", "10⁵", "10⁶", "10⁷"][log]);
  }
  for (const [value, label] of [[1e4, "10⁴"], [100, "100"], [1, "1"], [.01, "0.01"], [1e-4, "10⁻⁴"]]) {
    draw(parent, "line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "axis" });
    draw(parent, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, label);
  }
  draw(parent, "text", { x: right, y: 254, "text-anchor": "end" }, "tokens in the row, n");
  const curve = of => { const path = []; for (let log = .3; log <= 7; log += .01) path.push(`${x(log).toFixed(1)},${inside(of(10 ** log)).toFixed(1)}`); return path.join(" "); };
  draw(parent, "polyline", { points: curve(n => weightsOf(n).before), style: `fill: none; stroke: ${colour("faint")}; stroke-width: 2; stroke-dasharray: 6 4` });
  draw(parent, "polyline", { points: curve(n => Math.max(0, ratio(n))), style: `fill: none; stroke: ${colour("mark")}; stroke-width: 2.5` });
  draw(parent, "line", { x1: x(many.n), x2: x(many.n), y1: top, y2: bottom, style: `stroke: ${colour("ink", .5)}` });
  draw(parent, "text", { x: right - 4, y: 22, "text-anchor": "end", style: `fill: ${colour("faint")}` }, "dashed: one softmax");
  draw(parent, "text", { x: right - 4, y: 38, "text-anchor": "end", style: `fill: ${colour("mark")}` }, "solid: A₁ − λA₂");
  const n = Math.round(10 ** many.n), { before, needle, other } = weightsOf(n), factor = ratio(n) / before;
  const short = x => Number.isFinite(x) ? (+x.toPrecision(2) >= 100 ? Math.round(x).toLocaleString("en") : String(+x.toPrecision(2))).replace("-", "−") : "any number of";
  const peak = weightsOf(10 ** .5).other * weightsOf(1e7).other < 0, others = other < 0 ? "the others' weights are negative" : "the others' weights are positive";
  at("many-said").textContent = `With ${n.toLocaleString("en")} tokens the needle has ${short(before)} times the weight of all others in A₁, and ${short(ratio(n))} times in A (${others}). ` + (
    Math.abs(needle) < 1e-9 && Math.abs(other) < 1e-12 ? "Everything cancels: both maps are alike."
    : needle <= 0 ? "Subtracting has taken the needle itself." : many.lam === 0 ? "With λ = 0 nothing is subtracted."
    : factor > 1.02 ? `Subtracting pays: × ${short(factor)}.${peak && factor > 10 ? " The peak is where λA₂ is just what A₁ gives the others, so that they vanish." : ""}`
    : factor > .98 ? "Subtracting changes nothing here."
    : `Subtracting hurts here: × ${short(factor)}. It takes more than the others had, and what is left of them has the other sign.`);
}

// ---------------------------------------------------------------------------- begin

[["first", 0], ["second", 1]].forEach(([name, row]) => [0, 1, 2].forEach(i =>
  slider(at("three-sliders"), `${name} score of token ${i + 1}`, { min: -4, max: 4, step: .1, value: three.scores[row][i] }, s => { three.scores[row][i] = s; showThree(); }, x => digits(x, 1))));
slider(at("three-sliders"), "λ", { min: 0, max: 1.2, step: .005, value: three.lam }, lam => { three.lam = lam; showThree(); }, x => digits(x, 3));
showThree();

slider(at("many-sliders"), "tokens, n", { min: .5, max: 7, step: .01, value: many.n }, n => { many.n = n; showMany(); }, log => Math.round(10 ** log).toLocaleString("en"));
slider(at("many-sliders"), "gap of the needle", { min: 0, max: 14, step: .1, value: many.gap }, gap => { many.gap = gap; showMany(); }, x => digits(x, 1));
slider(at("many-sliders"), "λ", { min: 0, max: 1, step: .01, value: many.lam }, lam => { many.lam = lam; showMany(); });
slider(at("many-sliders"), "gap of the needle in A₂ (0: A₂ is even)", { min: -4, max: 14, step: .1, value: many.second }, gap => { many.second = gap; showMany(); }, x => digits(x, 1));
showMany();
