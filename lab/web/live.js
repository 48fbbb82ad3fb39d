// Part 3 of the page: trained models, which compute in gpt.js, and what happens when one moves something.

const models = data.models.map(model => ({
  ...model,
  embedding: unpack(model.embedding, data.alphabet),
  layers: model.layers.map(layer => {
    const matrices = ["qkv", "out", "gate", "up", "down"].map(name => [name, unpack(layer[name], data.alphabet)]);
    return { ...layer, ...Object.fromEntries(matrices) };
  }),
  edits: newEdits(),
}));
const TASKS = [
  ["Which one is missing?", models.filter(model => model.missing),
    "The second list has the letters of the first in another order, but one of them is missing. Which one? Look at the row of “?”: where it is orange a list is added, where it is blue it is subtracted. Letters of both lists cancel, and the missing one is left. Replace the negative weights by 0, or move each λ to 0, and see which layer did it. (A model that gives all letters nearly the same chance has not learned the task in so many steps; that does not show that it never could.)"],
  ["Text", models.filter(model => !model.missing),
    "The models guess the next letter of your text. Their loss is the mean of −ln p over its letters, p the probability of the one that is there: less is better."],
].filter(([, list]) => list.length);
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
  writing++;
  const [, list, said] = TASKS[i], { missing } = list[0];
  at("task-said").textContent = said;
  at("write").hidden = !!missing;
  at("actions").replaceChildren();
  if (missing) add(at("actions"), "button", "Deal a new list").onclick = () => { deal(missing); refresh(); };
  else add(at("actions"), "button", "Let the chosen model continue", { id: "continue" }).onclick = continueText;
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
  const bytes = [...new TextEncoder().encode(at("text").value)];
  live.tokens = bytes.slice(Math.max(0, Math.ceil((bytes.length - length) / 8) * 8));  // a window that begins anew every 8 bytes
  if (!live.tokens.length) live.tokens = [10];
  live.row = live.tokens.length - 1;
}

let writing = 0;

function continueText() {
  const mine = ++writing, model = live.model, button = at("continue");
  button.textContent = "Stop";
  button.onclick = () => writing++;
  const next = left => {
    if (!left || mine !== writing || model !== live.model) {
      button.textContent = "Let the chosen model continue";
      button.onclick = continueText;
      return;
    }
    const p = probabilities(model, think(model), live.tokens.length - 1).map(x => x ** 1.25);  // temperature 0.8
    let dart = Math.random() * sum(p), byte = 0;
    while (byte < p.length - 1 && (dart -= p[byte]) > 0) byte++;
    at("text").value += new TextDecoder().decode(Uint8Array.of(byte));
    at("text").scrollTop = at("text").scrollHeight;
    read();
    refresh();
    setTimeout(next, 0, left - 1);
  };
  next(60);
}

// Everything that depends on the tokens or on the edits; the other models follow when the page has been painted.
function refresh() {
  think(live.model);
  showTokens();
  showMaps();
  showNext();
  showModel(live.model);
  clearTimeout(refresh.later);
  refresh.later = setTimeout(() => TASKS[live.task][1].forEach(model => { think(model); showModel(model); }), 60);
}

function showModel(model) {
  if (!model.button) return;
  const [before, after] = [model.trained, model.changed].map(memory => lossOf(model, memory));
  const shown = loss => Number.isNaN(loss) ? "of two letters or more" : digits(loss, 3);
  let text = `loss ${shown(before)}` + (isEdited(model) ? ` → ${shown(after)}` : "");
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
  keepingFocus(at("models"), () => buildModels(list, model));
}

function buildModels(list, model) {
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
  keepingFocus(parent, () => {
    parent.replaceChildren();
    names.forEach((name, i) => add(parent, "button", name, { "aria-pressed": i === chosen }).onclick = () => change(i));
  });
}

function buildEdits() {
  keepingFocus(at("switches"), makeEdits);
}

function makeEdits() {
  const { model } = live, { edits } = model, parent = at("edits");
  parent.replaceChildren();
  at("switches").replaceChildren();
  if (model.pairs) model.layers.forEach((layer, i) => {
    const learned = mean(layer.lam), range = { min: Math.min(-1, Math.floor(learned)), max: Math.max(2, Math.ceil(learned)), step: .01 };
    slider(parent, `λ, layer ${i} (learned ${digits(learned)})`, { ...range, value: edits.lam[i] ?? learned }, lam => {
      edits.lam[i] = Math.abs(lam - learned) < .005 ? undefined : lam;
      refresh();
    });
  });
  slider(parent, "all scores ×", { min: -2, max: 2, step: .1, value: Math.log2(edits.sharp) }, log => { edits.sharp = 2 ** log; refresh(); }, log => digits(2 ** log));
  const flip = (label, checked, change) => {
    const box = add(at("switches"), "label"), input = add(box, "input", "", { type: "checkbox" });
    box.append(label);
    input.checked = checked;
    input.onchange = () => { change(input.checked); buildEdits(); refresh(); };
  };
  if (model.pairs) {
    flip("replace negative weights by 0", !edits.negative, on => edits.negative = !on);
    flip("take the second map away", edits.second === "off", on => edits.second = on ? "off" : "on");
    flip("spread the second map evenly", edits.second === "flat", on => edits.second = on ? "flat" : "on");
  }
  add(at("switches"), "button", "As trained").onclick = () => {
    model.edits = newEdits();
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
  const { edits } = memory, { lam } = model.layers[depth], second = of(edits.second === "flat" ? even(model.config.block_size) : maps[2 * head + 1]);
  const factor = edits.second === "off" ? 0 : edits.lam[depth] ?? lam[head % lam.length];
  return second.map(a => factor * a);
}

// A map that spreads each row evenly over what it sees.
function even(L) {
  return Float32Array.from({ length: L * L }, (_, i) => i % L > Math.floor(i / L) ? 0 : 1 / (Math.floor(i / L) + 1));
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
    figure.lastChild.textContent = `row of “${visible(tokens[row])}”: sum ${digits(sum(weights))}, largest ${digits(Math.max(...weights))}, smallest ${digits(Math.min(...weights))}`;
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
  canvas.onpointermove = event => {
    const [i, j] = [event.offsetY, event.offsetX].map(at => Math.floor(at / canvas.clientHeight * size));
    const { model, tokens, layer, head } = live, map = mapOf(name, model.changed, model, layer, head, list => list);
    if (event.pointerType === "mouse") go(event);
    if (i in tokens && j <= i) figure.lastChild.textContent =
      `“${visible(tokens[i])}” gives “${visible(tokens[j])}” (token ${j + 1}): ${digits(map[i * model.config.block_size + j], 4)}`;
  };
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
  const [positive, negative, paper, mark, line] = ["positive", "negative", "card", "mark", "line"].map(rgb);
  const map = mapOf(name, model.changed, model, layer, head, list => list), pixels = new ImageData(size, size);
  for (let t = 0, i = 0; t < size; t++) for (let j = 0; j < size; j++, i += 4) {
    const a = j > t ? 0 : map[t * L + j], s = j > t ? .4 : strength(a), to = j > t ? line : a < 0 ? negative : positive;
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
  const best = [...after.keys()].sort((a, b) => after[b] - after[a]).slice(0, 6), right = row === tokens.length - 1 ? live.answer : null;
  if (right !== null && !best.includes(right)) best[5] = right;
  at("next-title").textContent = `What comes after “${visible(tokens[row])}”${row < tokens.length - 1 ? `, where the text has “${visible(tokens[row + 1])}”` : ""}`;
  parent.replaceChildren();
  for (const byte of best) {
    add(parent, "code", byte === right ? `✓ ${visible(byte)}` : visible(byte));
    const bars = add(parent, "div");
    add(bars, "i", "", { style: `--p: ${after[byte]}` });
    add(bars, "i", "", { style: `--p: ${before[byte]}` });
    add(parent, "span", after[byte] < .0005 ? "< 0.001" : digits(after[byte], 3));
  }
}

// ---------------------------------------------------------------------------- begin

at("text").value = data.text;
at("text").oninput = () => { writing++; read(); refresh(); };
for (const a of [-1, -.1, -.01, 0, .01, .1, 1])
  add(at("scale"), "span", digits(a), { style: `background: ${colour(signed(a), strength(a))}` });
at("made").textContent = `Made by nanodiff, python -m lab.page, which also says what it costs that weights are rounded to ${data.alphabet.length} levels.`;
matchMedia("(prefers-color-scheme: dark)").onchange = () => showMaps();
if (TASKS.length) setTask(0); else at("live").hidden = true;
