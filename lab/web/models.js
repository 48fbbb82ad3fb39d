// The trained models of the page, which compute in gpt.js; their cards, with what can be changed in them.

const models = data.models.map(model => ({
  ...model,
  embedding: unpack(model.embedding, data.alphabet),
  layers: model.layers.map(layer => {
    const matrices = ["qkv", "out", "gate", "up", "down"].map(name => [name, unpack(layer[name], data.alphabet)]);
    return { ...layer, ...Object.fromEntries(matrices) };
  }),
  edits: newEdits(), head: 0,
}));

const mean = list => sum(list) / list.length;
const headsOf = model => model.config.n_head / (model.pairs ? 2 : 1);
const isEdited = ({ edits }) => edits.lam.some(lam => lam !== undefined) || !edits.negative;

// The model's memories of the tokens: `trained`, and with its edits `changed`.
function think(model, tokens) {
  model.trained ??= newMemory(model);
  forward(model, model.trained, tokens);
  if (!isEdited(model)) return model.changed = model.trained;
  const memory = model.edited ??= newMemory(model), edits = { ...model.edits, lam: [...model.edits.lam] };
  memory.dirty = firstChange(memory.edits, edits, model.layers.length);
  memory.edits = edits;
  return model.changed = forward(model, memory, tokens);
}

// The first layer that two edits treat differently; n, the number of layers, where there is none.
function firstChange(a, b, n) {
  if (a.negative !== b.negative) return 0;
  let i = 0;
  while (i < n && a.lam[i] === b.lam[i]) i++;
  return i;
}

const likeliest = p => p.indexOf(Math.max(...p));

// The name beside others of the same bound.
const shortName = ({ name, bound }) => bound ? name.replace(/^bounded-\d+-?/, "") || "vanilla" : name;

// A card with the model's name, and places for what the parts of the page show in it.
function makeCard(parent, model) {
  const card = add(parent, "article");
  add(card, "h3", shortName(model), { title: `${model.name}: ${model.about}` });
  model.said = add(card, "p", "", { class: "answer", "aria-live": "polite" });
  return card;
}

// λ per layer, the switch and the way back, for a model that subtracts.
function makeControls(parent, model, change) {
  parent.replaceChildren();
  if (!model.pairs) return add(parent, "p", "One softmax per head: every weight is above zero, and there is no λ to move.", { class: "faint" });
  const sliders = add(parent, "div", "", { class: "sliders", id: `lam-${models.indexOf(model)}` });
  model.layers.forEach((layer, i) => {
    const learned = mean(layer.lam), range = { min: Math.min(-1, Math.floor(learned)), max: Math.max(1.5, Math.ceil(learned)), step: .01 };
    slider(sliders, `λ of layer ${i}, learned ${num(learned)}`, { ...range, value: model.edits.lam[i] ?? learned }, lam => { model.edits.lam[i] = lam; change(); });
  });
  const row = add(parent, "div", "", { class: "row" }), label = add(row, "label"), box = add(label, "input", "", { type: "checkbox" });
  label.append("set negative weights to 0");
  box.checked = !model.edits.negative;
  box.onchange = () => { model.edits.negative = !box.checked; change(); };
  add(row, "button", "As trained", { type: "button" }).onclick = () => setEdits(model, newEdits());
  model.setControls = () => { makeControls(parent, model, change); change(); };
}

function setEdits(model, edits) {
  const buttons = () => [...document.querySelectorAll("button")], focused = buttons().indexOf(document.activeElement);
  model.edits = edits;
  model.setControls();
  buttons()[focused]?.focus();
}

// The likeliest next tokens behind position t, thick, and as trained, thin where the model was changed; `right` is ticked.
function showNext(parent, model, t, right = null, n = 5) {
  const [before, after] = [model.trained, model.changed].map(memory => probabilities(model, memory, t));
  const best = [...after.keys()].sort((a, b) => after[b] - after[a]).slice(0, n);
  if (right !== null && !best.includes(right)) best[n - 1] = right;
  parent.replaceChildren();
  for (const byte of best) {
    add(parent, "code", byte === right ? `✓ ${visible(byte)}` : visible(byte));
    const bars = add(parent, "div");
    add(bars, "i", "", { style: `--p: ${after[byte]}` });
    if (isEdited(model)) add(bars, "i", "", { style: `--p: ${before[byte]}` });
    add(parent, "span", chance(after[byte]));
  }
  if (isEdited(model)) add(parent, "small", "thick: with your changes, thin: as trained");
}
