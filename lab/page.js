// What one sees on the page of lab/page.py, and what happens when one moves something. The models compute in gpt.js.

const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const digits = (a, n = 2) => (Math.abs(a) < 0.5 * 10 ** -n ? 0 : a).toFixed(n).replace("-", "−");
const sum = list => list.reduce((a, b) => a + b, 0);

function add(parent, tag, content = "", attributes = {}) {
  const child = parent.appendChild(document.createElement(tag));
  child.textContent = content;
  for (const [name, value] of Object.entries(attributes)) child.setAttribute(name, value);
  return child;
}

function draw(parent, tag, attributes, content = "") {
  const child = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", tag));
  for (const [name, value] of Object.entries(attributes)) child.setAttribute(name, value);
  child.textContent = content;
  return child;
}

// A labelled slider in a grid of three columns; returns a function that moves it.
function slider(parent, label, { min, max, step, value }, change, shown = digits) {
  const id = `${parent.id}-${parent.childElementCount}`;
  add(parent, "label", label, { for: id });
  const input = add(parent, "input", "", { id, type: "range", min, max, step });
  const output = add(parent, "output", "", { for: id });
  const show = x => { input.value = x; output.textContent = shown(+input.value); };
  input.oninput = () => { show(input.value); change(+input.value); };
  show(value);
  return show;
}

const colour = (name, alpha = 1) => `rgb(var(--${name}) / ${alpha})`;
const signed = a => a < 0 ? "negative" : "positive";

// ---------------------------------------------------------------------------- 1. three tokens

const VALUES = [[0, -54], [-52, 36], [52, 36]];
const three = { scores: [[2, 0, -1], [0, 1, 0]], lam: 0.5 };

function showThree() {
  const [A1, A2] = three.scores.map(S => { const row = Float64Array.from(S); weigh(row, "softmax"); return [...row]; });
  const A = A1.map((a, i) => a - three.lam * A2[i]);
  drawBars(A1, A2.map(a => three.lam * a), A);
  drawPlane(A1, A);
  const gone = [0, 1, 2].filter(i => Math.abs(A[i]) < 0.005), below = [0, 1, 2].filter(i => A[i] <= -0.005);
  const names = list => list.map(i => `token ${i + 1}`).join(" and ");
  at("three-said").className = gone.length > 1 ? "said found" : "said";
  at("three-said").textContent = `A sums to 1 − λ = ${digits(1 - three.lam)}. ` + (
    gone.length > 1 ? `Found: the weights of ${names(gone)} vanish together, because for both A₁ is λ times A₂. No softmax alone can do that.`
    : gone.length ? `The weight of ${names(gone)} vanishes: there A₁ is just λ times A₂.`
    : below.length ? `The weight of ${names(below)} is negative: the second softmax gives it more than a share of 1/λ of the first. The output can leave the triangle of the values.`
    : "All weights are positive: the output stays near the triangle of the values, a softmax could nearly do it.");
}

function drawBars(A1, second, A) {
  const parent = at("three-bars"), zero = 112, unit = 88;
  parent.replaceChildren();
  for (let i = 0; i < 3; i++) {
    [[A1[i], "faint", .75, "A₁"], [-second[i], "faint", .4, "−λA₂"], [A[i], signed(A[i]), 1, "A"]].forEach(([a, name, alpha, label], k) => {
      const x = 10 + 104 * i + 31 * k, height = Math.min(105, Math.abs(a) * unit);
      draw(parent, "rect", { x, y: a < 0 ? zero : zero - height, width: 26, height: Math.max(height, 1), style: `fill: ${colour(name, alpha)}` });
      draw(parent, "text", { x: x + 13, y: a < 0 ? zero + Math.min(height, 80) + 13 : zero - height - 4, "text-anchor": "middle", style: "font-size: 10px" }, digits(a));
      draw(parent, "text", { x: x + 13, y: 12, "text-anchor": "middle", style: `font-size: 10px; fill: ${colour("faint")}` }, label);
    });
    draw(parent, "text", { x: 54 + 104 * i, y: 207, "text-anchor": "middle" }, `token ${i + 1}`);
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
  VALUES.forEach(([x, y], i) => draw(parent, "text", { x: x * .66, y: y * .66 + 4, "text-anchor": "middle" }, `v${"₁₂₃"[i]}`));
  const [[x1, y1], [x, y]] = [output(A1), output(A)];
  draw(parent, "line", { x1, y1, x2: x, y2: y, class: "thin" });
  draw(parent, "circle", { cx: x1, cy: y1, r: 5, style: `fill: none; stroke: ${colour("ink")}; stroke-width: 2` });
  draw(parent, "circle", { cx: x, cy: y, r: 6, style: `fill: ${colour("positive")}` });
  draw(parent, "text", { x: -162, y: -114, style: "font-size: 11px" }, "○ A₁V   ● AV");
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

// ---------------------------------------------------------------------------- 2. many tokens

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
  draw(parent, "text", { x: right, y: 250, "text-anchor": "end", style: "font-size: 11px" }, "tokens in the row, n");
  const curve = of => { const path = []; for (let log = .3; log <= 7; log += .01) path.push(`${x(log).toFixed(1)},${inside(of(10 ** log)).toFixed(1)}`); return path.join(" "); };
  draw(parent, "polyline", { points: curve(n => weightsOf(n).before), style: `fill: none; stroke: ${colour("negative")}; stroke-width: 2; stroke-dasharray: 6 4` });
  draw(parent, "polyline", { points: curve(n => Math.max(0, ratio(n))), style: `fill: none; stroke: ${colour("positive")}; stroke-width: 2.5` });
  draw(parent, "line", { x1: x(many.n), x2: x(many.n), y1: top, y2: bottom, style: `stroke: ${colour("mark")}` });
  draw(parent, "text", { x: right - 4, y: 22, "text-anchor": "end", style: `fill: ${colour("negative")}` }, "dashed: one softmax");
  draw(parent, "text", { x: right - 4, y: 38, "text-anchor": "end", style: `fill: ${colour("positive")}` }, "solid: A₁ − λA₂");
  const n = Math.round(10 ** many.n), { before, needle, other } = weightsOf(n), factor = ratio(n) / before;
  const others = other < 0 ? "the others' weights are negative" : "the others' weights are positive";
  at("many-said").textContent = `With ${n.toLocaleString("en")} tokens the needle has ${digits(before, 3)} times the weight of all others in A₁, and ${digits(ratio(n), 3)} times in A (${others}). ` + (
    needle <= 0 ? "Subtracting has taken the needle itself." : many.lam === 0 ? "With λ = 0 nothing is subtracted."
    : factor > 1.02 ? `Subtracting pays: × ${digits(factor, factor < 10 ? 2 : 0)}. The peak is where λA₂ is just what A₁ gives the others, so that they vanish.`
    : factor > .98 ? "Subtracting changes nothing here."
    : `Subtracting hurts here: × ${digits(factor, 3)}. It takes more than the others had, and what is left of them has the other sign.`);
}

// ---------------------------------------------------------------------------- 3. trained models

const models = data.models.map(model => ({
  ...model,
  embedding: unpack(model.embedding, data.alphabet),
  layers: model.layers.map(layer => {
    const matrices = ["qkv", "out", "gate", "up", "down"].map(name => [name, unpack(layer[name], data.alphabet)]);
    return { ...layer, ...Object.fromEntries(matrices) };
  }),
  edits: { lam: [], second: "on", negative: true, sharp: 1 },
}));
const TASKS = [["Text", models.filter(model => !model.missing)], ["Which one is missing?", models.filter(model => model.missing)]]
  .filter(([, list]) => list.length);
const live = { task: 0, model: null, layer: 0, head: 0, row: 0, tokens: [], answer: null };
let size = 0;  // tokens in the maps that are drawn

const mean = list => sum(list) / list.length;
const isEdited = ({ edits }) => edits.lam.some(lam => lam !== undefined) || edits.second !== "on" || !edits.negative || edits.sharp !== 1;
const visible = byte => byte === 10 ? "⏎" : byte === 32 ? "·" : byte > 32 && byte < 127 ? String.fromCharCode(byte) : byte.toString(16).padStart(2, "0");

// The model's memories of the tokens: `trained`, and with its edits `changed`.
function think(model) {
  model.trained ??= newMemory(model);
  forward(model, model.trained, live.tokens);
  if (!isEdited(model)) return model.changed = model.trained;
  const memory = model.edited ??= newMemory(model), edits = { ...model.edits, lam: [...model.edits.lam] };
  memory.dirty = firstChange(memory.edits, edits, model.layers.length);
  memory.edits = edits;
  return model.changed = forward(model, memory, live.tokens);
}

// The first layer that two edits treat differently; n, the number of layers, where there is none.
function firstChange(a, b, n) {
  if (["second", "negative", "sharp"].some(name => a[name] !== b[name])) return 0;
  let i = 0;
  while (i < n && a.lam[i] === b.lam[i]) i++;
  return i;
}

function lossOf(model, memory) {
  if (live.answer === null) return live.tokens.length > 1 ? loss(model, memory) : NaN;
  return -Math.log(probabilities(model, memory, live.tokens.length - 1)[live.answer]);
}

function choose(model) {
  live.model = model;
  live.layer = Math.min(live.layer, model.layers.length - 1);
  buildChoices();
  buildEdits();
  refresh();
}

function setTask(i) {
  live.task = i;
  const list = TASKS[i][1], { missing } = list[0];
  at("write").hidden = !!missing;
  at("actions").replaceChildren();
  if (missing) add(at("actions"), "button", "Deal a new list").onclick = () => { deal(missing); refresh(); };
  else add(at("actions"), "button", "Let the chosen model continue").onclick = continueText;
  missing ? deal(missing) : read();
  live.model = list.find(model => model.mechanism === "differential") ?? list.at(-1);
  if (missing) live.layer = answering(live.model);
  choose(live.model);
}

// The layer whose λ is largest: on the task of the missing one it is the one that answers.
function answering(model) {
  const lams = model.layers.map(layer => layer.lam ? mean(layer.lam) : 0);
  return lams.indexOf(Math.max(...lams));
}

function deal({ n_items, n_symbols }) {
  const pick = (list, n) => Array.from({ length: n }, () => list.splice(Math.floor(Math.random() * list.length), 1)[0]);
  const items = pick([...data.symbols.slice(0, n_symbols)], n_items), left = pick(items.slice(1), n_items - 1);
  live.answer = items[0].charCodeAt(0);
  live.tokens = [...`${pick([...items], n_items).join("")}|${left.join("")}?`].map(c => c.charCodeAt(0));
  live.row = live.tokens.length - 1;
}

function read() {
  const length = Math.min(...TASKS[live.task][1].map(model => model.config.block_size));
  live.answer = null;
  const bytes = [...new TextEncoder().encode(at("text").value)], half = Math.ceil(length / 2);
  live.tokens = bytes.slice(Math.max(0, Math.ceil((bytes.length - length) / half) * half));  // begins anew every half a window
  if (!live.tokens.length) live.tokens = [10];
  live.row = live.tokens.length - 1;
}

let writing = 0;

function continueText() {
  const mine = ++writing, model = live.model;
  const next = left => {
    if (!left || mine !== writing || model !== live.model) return;
    const p = probabilities(model, think(model), live.tokens.length - 1).map(x => x ** 1.25);  // temperature 0.8
    let dart = Math.random() * sum(p), byte = 0;
    while (byte < p.length - 1 && (dart -= p[byte]) > 0) byte++;
    at("text").value += new TextDecoder().decode(Uint8Array.of(byte));
    read();
    refresh();
    setTimeout(next, 0, left - 1);
  };
  next(60);
}

// Everything that depends on the tokens or on the edits; the other models follow when the page has been painted.
function refresh() {
  const started = performance.now();
  think(live.model);
  showTokens();
  showMaps();
  showNext();
  showModel(live.model);
  refresh.milliseconds = performance.now() - started;
  clearTimeout(refresh.later);
  refresh.later = setTimeout(() => TASKS[live.task][1].forEach(model => { think(model); showModel(model); }), 60);
}

function showModel(model) {
  if (!model.button) return;
  const [before, after] = [model.trained, model.changed].map(memory => lossOf(model, memory));
  let text = `loss ${digits(before, 3)}` + (isEdited(model) ? ` → ${digits(after, 3)}` : "");
  if (live.answer !== null) {
    const p = probabilities(model, model.changed, live.tokens.length - 1), said = p.indexOf(Math.max(...p));
    text = `says ${visible(said)}, ${said === live.answer ? "which is right" : `not ${visible(live.answer)}`}; ${text}`;
  }
  model.button.lastChild.textContent = text;
}

// ------------------------------------------------------------- choices

function buildChoices() {
  const [, list] = TASKS[live.task], { model } = live, heads = model.config.n_head / (model.pairs ? 2 : 1);
  live.head = Math.min(live.head, heads - 1);
  choices(at("tasks"), TASKS.map(([name]) => name), live.task, setTask);
  choices(at("layer"), model.layers.map((_, i) => i), live.layer, i => { live.layer = i; choose(model); });
  choices(at("head"), Array.from({ length: heads }, (_, i) => i), live.head, i => { live.head = i; choose(model); });
  at("models").replaceChildren();
  for (const one of list) {
    one.button = add(at("models"), "button", "", { class: "model", "aria-pressed": one === model });
    add(one.button, "b", one.name);
    add(one.button, "small", one.about);
    add(one.button, "div", "…");
    one.button.onclick = () => choose(one);
    if (one.changed) showModel(one);
  }
}

function choices(parent, names, chosen, change) {
  const focused = [...parent.children].indexOf(document.activeElement);
  parent.replaceChildren();
  names.forEach((name, i) => add(parent, "button", name, { "aria-pressed": i === chosen }).onclick = () => change(i));
  if (focused >= 0) parent.children[Math.min(focused, names.length - 1)].focus();
}

function buildEdits() {
  const { model } = live, { edits } = model, parent = at("edits");
  parent.replaceChildren();
  at("switches").replaceChildren();
  if (model.pairs) model.layers.forEach((layer, i) => {
    const learned = mean(layer.lam), range = { min: Math.min(-1, Math.floor(learned)), max: Math.max(2, Math.ceil(learned)), step: .01 };
    slider(parent, `λ, layer ${i} (learned ${digits(learned)})`, { ...range, value: edits.lam[i] ?? learned }, lam => {
      edits.lam[i] = lam;
      refresh();
    });
  });
  slider(parent, "scores ×", { min: -2, max: 2, step: .1, value: Math.log2(edits.sharp) }, log => { edits.sharp = 2 ** log; refresh(); }, log => digits(2 ** log));
  const flip = (label, checked, change) => {
    const box = add(at("switches"), "label"), input = add(box, "input", "", { type: "checkbox" });
    box.append(label);
    input.checked = checked;
    input.onchange = () => { change(input.checked); buildEdits(); refresh(); };
  };
  if (model.pairs) {
    flip("negative weights by 0", !edits.negative, on => edits.negative = !on);
    flip("no second map", edits.second === "off", on => edits.second = on ? "off" : "on");
    flip("second map spread evenly", edits.second === "flat", on => edits.second = on ? "flat" : "on");
  }
  add(at("switches"), "button", "As trained").onclick = () => {
    model.edits = { lam: [], second: "on", negative: true, sharp: 1 };
    buildEdits();
    refresh();
  };
}

// ------------------------------------------------------------- what is shown

const strength = a => Math.min(1, Math.log1p(Math.abs(a) / .001) / Math.log1p(1000));  // a symmetric logarithm

function rowOf(name) {
  const { model, layer, head, row } = live, L = model.config.block_size, memory = model.changed;
  const from = row * L, of = list => [...list.subarray(from, from + row + 1)];
  return mapOf(name, memory, model, layer, head, of);
}

// What `of` makes of the chosen head's A₁, λA₂ or A.
function mapOf(name, memory, model, depth, head, of) {
  const { maps, A } = memory.layers[depth];
  if (name === "A") return of(A[head]);
  const first = of(maps[model.pairs ? 2 * head : head]);
  if (name === "A₁") return first;
  const { edits } = memory, { lam } = model.layers[depth], second = of(maps[2 * head + 1]);
  const factor = edits.second === "off" ? 0 : edits.lam[depth] ?? lam[head % lam.length];
  return second.map(a => factor * a);
}

function showTokens() {
  const parent = at("tokens"), { tokens, row } = live, weights = rowOf("A"), focused = parent.contains(document.activeElement);
  while (parent.childElementCount > tokens.length) parent.lastChild.remove();
  while (parent.childElementCount < tokens.length) {
    const i = parent.childElementCount, button = add(parent, "button");
    button.onclick = () => point(i);
    button.onkeydown = event => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && live.row + step in live.tokens) { event.preventDefault(); point(live.row + step); }
    };
  }
  tokens.forEach((token, i) => {
    const button = parent.children[i], a = weights[i] ?? 0;
    button.textContent = visible(token);
    button.style.setProperty("--strength", i <= row ? strength(a) * .8 : 0);
    button.style.setProperty("--hue", `var(--${signed(a)})`);
    button.classList.toggle("below", a < -.0005);
    button.title = i <= row ? digits(a, 4) : "not seen";
    button.tabIndex = i === row ? 0 : -1;
    button.ariaPressed = i === row;
  });
  if (focused) parent.children[row].focus({ preventScroll: true });
}

function point(row) {
  live.row = row;
  showTokens();
  showMaps();
  showNext();
}

function showMaps() {
  const { model, tokens, row } = live, names = model.pairs ? ["A₁", "λA₂", "A"] : ["A"], parent = at("maps");
  if (parent.childElementCount !== names.length) {
    parent.replaceChildren();
    names.forEach(name => addMap(parent, name));
  }
  size = tokens.length;
  names.forEach((name, i) => {
    const figure = parent.children[i], weights = rowOf(name);
    figure.firstChild.textContent = names.length > 1 && name === "A" ? "A = A₁ − λA₂" : name;
    paint(figure.children[1], name);
    figure.lastChild.textContent = `row of “${visible(tokens[row])}”: sum ${digits(sum(weights))}, largest ${digits(Math.max(...weights))}, least ${digits(Math.min(...weights))}`;
  });
}

function addMap(parent, name) {
  const figure = add(parent, "figure");
  add(figure, "h3", name);
  const canvas = add(figure, "canvas", "", { tabindex: 0, role: "img", "aria-label": `map ${name}; arrows up and down choose a row` });
  add(figure, "small", "");
  const go = event => {
    const row = Math.floor((event.offsetY / canvas.clientHeight) * size);
    if (row in live.tokens && row !== live.row) point(row);
  };
  canvas.onpointermove = event => event.pointerType === "mouse" && go(event);
  canvas.onclick = go;
  canvas.onkeydown = event => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step && live.row + step in live.tokens) { event.preventDefault(); point(live.row + step); }
  };
}

const cells = document.createElement("canvas");  // a pixel per weight

function paint(canvas, name) {
  const { model, layer, head, row } = live, L = model.config.block_size, cell = Math.max(2, Math.floor(384 / size));
  const style = getComputedStyle(document.documentElement), rgb = name => style.getPropertyValue(`--${name}`).trim().split(/\s+/).map(Number);
  const [positive, negative, paper, mark] = ["positive", "negative", "card", "mark"].map(rgb);
  const map = mapOf(name, model.changed, model, layer, head, list => list), pixels = new ImageData(size, size);
  for (let t = 0, i = 0; t < size; t++) for (let j = 0; j < size; j++, i += 4) {
    const a = j > t ? 0 : map[t * L + j], s = strength(a), to = a < 0 ? negative : positive;
    for (let k = 0; k < 3; k++) pixels.data[i + k] = paper[k] + s * (to[k] - paper[k]);
    pixels.data[i + 3] = 255;
  }
  cells.width = cells.height = size;
  cells.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = canvas.height = size * cell;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(cells, 0, 0, canvas.width, canvas.height);
  context.strokeStyle = `rgb(${mark.join()})`;
  context.lineWidth = 2;
  context.strokeRect(1, row * cell, (row + 1) * cell, cell);
}

function showNext() {
  const { model, row, tokens } = live, parent = at("next");
  const [before, after] = [model.trained, model.changed].map(memory => probabilities(model, memory, row));
  const best = [...after.keys()].sort((a, b) => after[b] - after[a]).slice(0, 6);
  at("next-title").textContent = `What comes after “${visible(tokens[row])}”${row < tokens.length - 1 ? `, where the text has “${visible(tokens[row + 1])}”` : ""}`;
  parent.replaceChildren();
  for (const byte of best) {
    add(parent, "code", visible(byte));
    const bars = add(parent, "div");
    add(bars, "i", "", { style: `--p: ${after[byte]}` });
    add(bars, "i", "", { style: `--p: ${before[byte]}` });
    add(parent, "span", digits(after[byte], 3));
  }
}

// ---------------------------------------------------------------------------- begin

[["first", 0], ["second", 1]].forEach(([name, row]) => [0, 1, 2].forEach(i =>
  slider(at("three-sliders"), `${name} score of token ${i + 1}`, { min: -4, max: 4, step: .1, value: three.scores[row][i] }, s => { three.scores[row][i] = s; showThree(); }, x => digits(x, 1))));
slider(at("three-sliders"), "λ", { min: 0, max: 1.2, step: .005, value: three.lam }, lam => { three.lam = lam; showThree(); }, x => digits(x, 3));
showThree();

slider(at("many-sliders"), "tokens, n", { min: .5, max: 7, step: .01, value: many.n }, n => { many.n = n; showMany(); }, log => Math.round(10 ** log).toLocaleString("en"));
slider(at("many-sliders"), "gap of the needle", { min: 0, max: 14, step: .1, value: many.gap }, gap => { many.gap = gap; showMany(); }, x => digits(x, 1));
slider(at("many-sliders"), "λ", { min: 0, max: 1, step: .01, value: many.lam }, lam => { many.lam = lam; showMany(); });
slider(at("many-sliders"), "its gap in A₂ (0: even)", { min: -4, max: 14, step: .1, value: many.second }, gap => { many.second = gap; showMany(); }, x => digits(x, 1));
showMany();

at("text").value = data.text;
at("text").oninput = () => { writing++; read(); refresh(); };
for (const a of [-1, -.1, -.01, 0, .01, .1, 1])
  add(at("scale"), "span", digits(a), { style: `background: ${colour(signed(a), strength(a))}` });
at("made").textContent = `Made by ${data.command}. Colours: orange above 0, blue below, on a scale that shows 0.01 beside 1. Computed here with weights rounded to ${data.alphabet.length} levels.`;
matchMedia("(prefers-color-scheme: dark)").onchange = () => showMaps();
if (TASKS.length) setTask(0); else at("live").hidden = true;
