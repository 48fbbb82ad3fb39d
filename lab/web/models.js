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

const isEdited = ({ edits }) => edits.lam.some(lam => lam !== undefined) || !edits.negative;

// What the model makes of the tokens: `trained`, and with its edits `changed`.
function think(model, tokens) {
  if (model.trained?.tokens.join() !== tokens.join()) model.trained = forward(model, tokens);
  model.changed = isEdited(model) ? forward(model, tokens, model.edits) : model.trained;
}

const likeliest = p => p.indexOf(Math.max(...p));

// What the models of a part of the page are, once.
const about = of => `The models of this page: ${[...new Set(of.map(model => model.about))].join("; ")}, one seed.`;

// The name beside others of the same bound; what is changed; both.
const shortName = ({ name, bound }) => bound ? name.replace(/^bounded-\d+-?/, "") || "vanilla" : name;
function changes({ edits }) {
  const words = edits.lam.map((lam, i) => `λ of layer ${i} = ${num(lam)}`).filter(Boolean);
  if (!edits.negative) words.push("negative weights at 0");
  return words.length ? ` (${words.join(", ")})` : "";
}
const changedName = model => shortName(model) + changes(model);

// The maps that are shown of a head, their titles, their rows.
const mapNames = ({ pairs }) => pairs ? ["A₁", "λA₂", "A"] : ["A"];

const titleOf = ({ pairs, edits }, name) =>
  name !== "A" || !pairs ? name : edits.negative ? "A = A₁ − λA₂" : "A = max(0, A₁ − λA₂)";

function mapOf({ head, changed }, layer, name) {
  const { maps, lam, A } = changed.layers[layer];
  if (name === "A") return A[head];
  return name === "A₁" ? maps[2 * head] : maps[2 * head + 1].map(row => row.map(a => lam[head] * a));
}

// How much of a row of λA₂ meets weight in A₁: the share that cancels.
const cancelled = (first, second) => sum(second.map((a, j) => Math.min(a, first[j]))) / sum(second);
const saysCancelled = (...rows) => sum(rows[1]) ? `; ${percent(cancelled(...rows))} of it cancels against A₁` : "";

// A card of a model: what it says, the next token, controls, and per map of a head what `addMap` draws.
function makeCard(parent, model, change, addMap) {
  const card = add(parent, "article"), under = add(card, "div", "", { class: "cards" }), next = add(under, "div");
  const name = add(next, "h3", shortName(model));
  if (model.pairs) card.classList.add("wide");
  model.said = add(next, "p", "", { class: "answer", "aria-live": "polite" });
  model.more = add(next, "p");
  model.title = add(next, "h4");
  model.next = add(next, "div", "", { class: "bars" });
  if (model.pairs) makeControls(add(under, "div"), model, change);
  model.heads = add(add(card, "div", "Head ", { class: "row" }), "span", "", { class: "choices", role: "group" });
  model.heads.id = `heads-${models.indexOf(model)}`;
  const maps = add(card, "div", "", { class: "maps" });
  model.show = mapNames(model).map(map => addMap(maps, model, map));
  name.title = model.name;
}

// λ per layer, the switch and the way back, of a model that subtracts.
function makeControls(parent, model, change) {
  const learned = model.layers.map(({ lam }) => mean(lam));
  const sliders = learned.map((lam, i) => {
    const [min, max] = [Math.min(0, Math.floor(lam)), Math.max(1.5, Math.ceil(lam))];
    const set = to => { model.edits.lam[i] = to; change(); };
    return slider(parent, `λ of layer ${i}, learned ${num(lam)}`, { min, max, step: .01 }, set);
  });
  const row = add(parent, "div", "", { class: "row" }), label = add(row, "label");
  const box = add(label, "input", "", { type: "checkbox" });
  label.append("negative weights at 0");
  box.onchange = () => { model.edits.negative = !box.checked; change(); };
  model.edit = edits => {
    model.edits = edits;
    sliders.forEach((set, i) => set(edits.lam[i] ?? learned[i]));
    box.checked = !edits.negative;
    change();
  };
  add(row, "button", "As trained").onclick = () => model.edit(newEdits());
  model.controls = row;
  sliders.forEach((set, i) => set(learned[i]));
}

const showHeads = (model, change) => choices(
  model.heads, model.changed.layers[0].A.map((_, i) => i), model.head, i => { model.head = i; change(); });

// The likeliest tokens after position t, of the model as it is changed; `right` is ticked.
function showNext(model, t, right = null, n = 4) {
  const p = probabilities(model.changed, t), order = [...p.keys()].sort((a, b) => p[b] - p[a]);
  const best = order.slice(0, n), parent = model.next;
  if (right !== null && !best.includes(right)) best.push(right);
  parent.replaceChildren();
  for (const byte of best) {
    const place = order.indexOf(byte);
    add(parent, "code", byte === right ? `✓ ${visible(byte)}` : visible(byte));
    add(parent, "i", "", { style: `--p: ${p[byte]}` });
    add(parent, "span", chance(p[byte]) + (place < n ? "" : ` (no. ${place + 1})`));
  }
}
