// Part 2 of the page: models of text, side by side with others of the same bound on their scores.

const text = { groups: groupsOf(models.filter(model => !model.missing)), group: [], tokens: [], row: 0, layer: 0 };
const TRIES = {
  "ROMEO:\nGood morrow, neighb": "A word cut short: which letters does the last one look at, in which layer?",
  "never, never, never, nev": "A word again and again: does a head find the letter behind the earlier “nev”?",
  "eeeeeeeeeeeeeeee": "All letters are equal: only their distance to the query can tell them apart.",
  "To be, or not to be: that is the question:": "Choose the second “b” or the “q”: what could come next?",
};
let size = 0;  // tokens in the maps that are drawn

// Lists of models of one bound each, the tightest first, free scores last; those that subtract come first.
function groupsOf(list) {
  const bounds = [...new Set(list.map(model => model.bound))].sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
  return bounds.map(bound => list.filter(model => model.bound === bound).sort((a, b) => b.pairs - a.pairs));
}

const nameOf = ([{ bound }]) => bound ? `scores bounded to ±${bound}` : "free scores";

function buildText() {
  at("text").value = data.text;
  at("text").oninput = () => { at("hint").textContent = ""; read(); showText(); };
  for (const [words, hint] of Object.entries(TRIES)) add(at("tries"), "button", words.replace("\n", " "), { type: "button" }).onclick = () => {
    at("text").value = words;
    at("text").oninput();
    at("hint").textContent = hint;
  };
  text.layer = Math.max(0, Math.min(...models.filter(model => !model.missing).map(model => model.layers.length)) - 1);
  for (const a of [-1, -.1, -.01, 0, .01, .1, 1])
    add(add(at("scale"), "span"), "i", a < 0 ? "−" : "", { style: `background: ${colour(signed(a), strength(a))}; color: ${colour(strength(a) < .75 ? "ink" : "card")}` }).after(String(a).replace("-", "−"));
  matchMedia("(prefers-color-scheme: dark)").onchange = () => text.group.forEach(showMaps);
  setGroup(0);
}

function setGroup(i) {
  text.group = text.groups[i];
  at("head").hidden = !subtracting();
  choices(at("groups"), text.groups.map(nameOf), i, setGroup);
  at("text-models").replaceChildren();
  for (const model of text.group) {
    const card = makeCard(at("text-models"), model);
    if (model.pairs) card.classList.add("wide");
    model.spread = add(card, "p", "", { class: "spread" });
    model.heads = add(add(card, "div", "Head ", { class: "row faint" }), "span", "", { class: "row", role: "group", "aria-label": "Head" });
    model.maps = add(card, "div", "", { class: "maps" });
    (model.pairs ? ["A₁", "λA₂", "A"] : ["A"]).forEach(name => addMap(model, name));
    const under = add(card, "div", "", { class: "cards" }), next = add(under, "div");
    model.title = add(next, "h4");
    model.next = add(next, "div", "", { class: "bars" });
    makeControls(add(under, "div"), model, showText);
    add(card, "small", `${model.name}: ${model.about}`);
  }
  read();
  showText();
}

// Means over all rows, heads and layers, as trained or changed.
function spreadOf({ changed, config: { block_size: L } }) {
  const rows = changed.layers.flatMap(({ A }) => A.flatMap(a => text.tokens.map((_, t) => a.subarray(t * L, t * L + t + 1))));
  const seen = rows.filter(row => row.some(a => a));
  return `All rows: effective tokens ${num(mean(seen.map(effective)))} of ${num((text.tokens.length + 1) / 2)}, negative mass ${percent(mean(seen.map(negativeMass)))}`;
}

function read() {
  const length = Math.min(...text.group.map(model => model.config.block_size)), bytes = [...new TextEncoder().encode(at("text").value)];
  text.tokens = bytes.slice(Math.max(0, Math.ceil((bytes.length - length) / 8) * 8));  // a window that begins anew every 8 bytes
  if (!text.tokens.length) text.tokens = [10];
  text.row = text.tokens.length - 1;
}

// Everything that depends on the text or on the edits.
function showText() {
  for (const model of text.group) {
    think(model, text.tokens);
    const before = loss(model, model.trained), after = loss(model, model.changed);
    model.said.textContent = text.tokens.length < 2 ? "loss: of two letters or more"
      : `loss ${num(before)}${isEdited(model) ? ` → ${num(after)}` : ""} nats per letter`;
    model.spread.textContent = spreadOf(model);
  }
  choices(at("layer"), text.group[0].layers.map((_, i) => i), text.layer, i => { text.layer = i; showText(); });
  for (const model of text.group)
    choices(model.heads, Array.from({ length: headsOf(model) }, (_, i) => i), model.head, i => { model.head = i; showText(); });
  point(text.row);
}

function point(row) {
  text.row = row;
  showTokens();
  text.group.forEach(model => {
    showMaps(model);
    const { tokens } = text, behind = row < tokens.length - 1 ? `; the text has “${visible(tokens[row + 1])}”` : "";
    model.title.textContent = `Next letter behind “${visible(tokens[row])}”${behind}`;
    showNext(model.next, model, row, tokens[row + 1] ?? null);
  });
  clearTimeout(point.later);
  point.later = setTimeout(showHead, 40);  // when the page has been painted
}

// Left and right choose a query in the line of letters, up and down in a map.
function onArrow(element, back, forth) {
  element.onkeydown = event => {
    const to = text.row + ({ [back]: -1, [forth]: 1 }[event.key] ?? NaN);
    if (to in text.tokens) { event.preventDefault(); point(to); }
  };
}

const strength = a => Math.min(1, Math.log1p(Math.abs(a) / .001) / Math.log1p(1000));  // a symmetric logarithm

// What `of` makes of the chosen head's A₁, λA₂ or A, as trained or changed.
function mapOf(model, name, of) {
  const { maps, A } = model.changed.layers[text.layer], { head } = model;
  if (name === "A") return of(A[head]);
  if (name === "A₁") return of(maps[2 * head]);
  const lam = lamOf(model.layers[text.layer], model.changed.edits, text.layer, head);
  return of(maps[2 * head + 1]).map(a => lam * a);
}

function rowOf(model, name, row = text.row) {
  const from = row * model.config.block_size;
  return [...mapOf(model, name, map => map.subarray(from, from + row + 1))];
}

function showTokens() {
  const parent = at("tokens"), { tokens, row, group: [model] } = text, weights = rowOf(model, "A"), focused = parent.contains(document.activeElement);
  while (parent.childElementCount > tokens.length) parent.lastChild.remove();
  while (parent.childElementCount < tokens.length) {
    const i = parent.childElementCount, button = add(parent, "button", "", { type: "button" });
    button.onclick = () => point(i);
    onArrow(button, "ArrowLeft", "ArrowRight");
  }
  tokens.forEach((token, i) => {
    const button = parent.children[i], a = weights[i] ?? 0;
    button.textContent = visible(token);
    button.style.setProperty("--strength", i <= row ? strength(a) : 0);
    button.style.setProperty("--hue", `var(--${signed(a)})`);
    button.classList.toggle("below", a < 0);
    button.title = i <= row ? num(a) : "not seen";
    button.tabIndex = i === row ? 0 : -1;
    button.ariaPressed = i === row;
  });
  at("tokens-said").textContent = `Choose the query, the letter that looks back. Colours: what layer ${text.layer}, head ${model.head} of ${shortName(model)} gives to each letter; · is a space, ⏎ a new line.`;
  if (focused) parent.children[row].focus({ preventScroll: true });
}

function addMap(model, name) {
  const figure = add(model.maps, "figure");
  add(figure, "figcaption", name === "A" && model.pairs ? "A = A₁ − λA₂" : name);
  const canvas = add(figure, "canvas", "", { tabindex: 0, role: "img", "aria-label": `map ${name} of ${model.name}; arrows up and down choose the query` });
  add(figure, "small");
  const cell = at => Math.floor(at / canvas.clientHeight * size);
  canvas.onpointermove = event => {
    const [i, j] = [event.offsetY, event.offsetX].map(cell), { tokens } = text;
    if (i in tokens && j in tokens && j <= i) figure.lastChild.textContent =
      `“${visible(tokens[i])}” gives “${visible(tokens[j])}” (letter ${j + 1}): ${num(rowOf(model, name, i)[j])}`;
  };
  canvas.onpointerleave = () => showNumbers(model, name, figure);
  canvas.onclick = event => { if (cell(event.offsetY) in text.tokens) point(cell(event.offsetY)); };
  onArrow(canvas, "ArrowUp", "ArrowDown");
}

function showMaps(model) {
  size = text.tokens.length;
  (model.pairs ? ["A₁", "λA₂", "A"] : ["A"]).forEach((name, i) => {
    const figure = model.maps.children[i];
    paint(figure.querySelector("canvas"), model, name);
    showNumbers(model, name, figure);
  });
}

function showNumbers(model, name, figure) {
  const row = rowOf(model, name), said = figure.lastChild;
  said.replaceChildren(`row of “${visible(text.tokens[text.row])}”, ${row.length} letters: `);
  if (name !== "λA₂") {
    add(said, "b", num(effective(row)));
    said.append(" effective tokens, negative mass ");
    add(said, "b", percent(negativeMass(row)));
    said.append(", ");
  }
  said.append(`sum ${num(sum(row))}`);
}

const cells = document.createElement("canvas");  // a pixel per weight

function paint(canvas, model, name) {
  const L = model.config.block_size, cell = Math.max(2, Math.floor(384 / size)), map = mapOf(model, name, list => list);
  const style = getComputedStyle(document.documentElement), rgb = name => style.getPropertyValue(`--${name}`).trim().split(/\s+/).map(Number);
  const [positive, negative, card, ink, mark, line] = ["positive", "negative", "card", "ink", "mark", "line"].map(rgb), pixels = new ImageData(size, size);
  for (let t = 0, i = 0; t < size; t++) for (let j = 0; j < size; j++, i += 4) {
    const a = j > t ? 0 : map[t * L + j], s = j > t ? .4 : strength(a), to = j > t ? line : a < 0 ? negative : positive;
    for (let k = 0; k < 3; k++) pixels.data[i + k] = card[k] + s * (to[k] - card[k]);
    pixels.data[i + 3] = 255;
  }
  cells.width = cells.height = size;
  cells.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = canvas.height = size * cell;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(cells, 0, 0, canvas.width, canvas.height);
  for (let t = 0; t < size; t++) for (let j = 0; j <= t; j++) {
    const a = map[t * L + j];
    if (a > -.003) continue;
    context.fillStyle = `rgb(${strength(a) < .75 ? ink : card})`;
    context.fillRect((j + .25) * cell, (t + .45) * cell, cell / 2, Math.max(1, cell / 8));  // a minus
  }
  context.strokeStyle = `rgb(${mark.join()})`;
  context.lineWidth = 2;
  context.strokeRect(1, text.row * cell, (text.row + 1) * cell, cell);
}
