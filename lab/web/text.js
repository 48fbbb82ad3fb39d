// Part 2 of the page: models of text, side by side with others of the same bound on their scores.

const text = { models: models.filter(model => !model.missing), group: [], tokens: [], row: 0, layer: 0 };
const bounds = [...new Set(text.models.map(model => model.bound))].sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
// Models of one bound each, the tightest first, free scores last.
text.groups = bounds.map(bound => text.models.filter(model => model.bound === bound).sort((a, b) => a.pairs - b.pairs));

const nameOf = ({ bound }) => bound ? `±${bound}` : "free";

function buildText() {
  text.length = Math.min(...text.models.map(model => model.config.block_size));
  at("length").textContent = text.length;
  at("text-about").textContent = about(text.models);
  at("text").value = data.text;
  const later = () => { clearTimeout(text.typing); text.typing = setTimeout(read, 30); };
  at("text").oninput = later;  // when the letter has been painted
  text.layer = Math.min(...text.models.map(model => model.layers.length)) - 1;
  matchMedia("(prefers-color-scheme: dark)").onchange = showQuery;
  read();
  setGroup(0);
}

function setGroup(i) {
  text.group = text.groups[i];
  choices(at("groups"), text.groups.map(([model]) => nameOf(model)), i, setGroup);
  at("text-models").replaceChildren();
  for (const model of text.group) makeCard(at("text-models"), model, showText, addMap);
  showText();
}

function read() {
  const typed = [...new TextEncoder().encode(at("text").value)], bytes = typed.slice(-text.length), notes = [];
  const isShort = bytes.length < 2, begin = bytes.slice(0, 12).map(visible).join("");
  if (isShort) notes.push("Type two letters or more.");
  if (typed.length > bytes.length) notes.push(`The models read from “${begin}” on, the last ${text.length} letters.`);
  if (bytes.some(byte => byte > 126))
    notes.push("The models read bytes: a letter such as é, or an emoji, is several of them, shown as hex digits.");
  tell("text", notes.join(" "), isShort);
  if (isShort) return;
  text.tokens = bytes;
  text.row = bytes.length - 1;
  if (text.group.length) showText();
}

// Everything that depends on the text or on the edits.
function showText() {
  for (const model of text.group) {
    think(model, text.tokens);
    const [before, after] = [model.trained, model.changed].map(loss);
    model.said.textContent = `loss ${num(before)}${isEdited(model) ? ` → ${num(after)}` : ""} nats per letter`;
    showHeads(model, showText);
  }
  choices(at("layer"), text.group[0].layers.map((_, i) => i), text.layer, i => { text.layer = i; showText(); });
  showQuery();
  clearTimeout(text.later);
  text.later = setTimeout(showSpread, 100);  // when the page has been painted
}

// Effective tokens, the mean over all rows of all maps that `of` takes from a layer.
const spread = (layers, of) => num(mean(layers.flatMap(of).flat().filter(row => row.some(a => a)).map(effective)));

// The same of A₁ and of A, found once for what a model makes of a text.
function spreads(model) {
  const { changed } = model, odd = (_, i) => i % 2 === 0;
  return changed.spreads ??= [
    model.pairs ? spread(changed.layers, ({ maps }) => maps.filter(odd)) : "", spread(changed.layers, ({ A }) => A)];
}

// Effective tokens of A₁ and of A, and the loss: of this text, as the model is changed; of the validation text.
function showSpread() {
  const n = text.tokens.length, rows = text.groups.flat().map(model => {
    think(model, text.tokens);
    const [first, all] = spreads(model), name = `${nameOf(model)}, ${shortName(model)}`;
    if (model.more) model.more.textContent = `${all} effective tokens, the mean over all rows`;
    const validation = model.loss.toFixed(3) + (isEdited(model) ? " as trained" : "");
    const spreading = first ? `A₁ ${first} → A ${all}` : all;
    return [name + (isEdited(model) ? ", changed" : ""), spreading, num(loss(model.changed)), validation];
  });
  at("spread").replaceChildren();
  for (const words of [...rows, [`a uniform causal map of ${n} letters`, num((n + 1) / 2), "", ""]]) {
    const row = add(at("spread"), "tr");
    for (const word of words) add(row, "td", word);
  }
}

// Everything that depends on the query, too.
function showQuery() {
  const { tokens, row, layer, group } = text, letters = tokens.map(visible), last = group.at(-1);
  choices(at("tokens"), letters, row, i => { text.row = i; showQuery(); });
  const weights = mapOf(last, layer, "A")[row];
  [...at("tokens").children].forEach((label, i) => {
    const a = weights[i] ?? 0;
    label.style.setProperty("--strength", strength(a));
    label.style.setProperty("--hue", `var(--${signed(a)})`);
    label.classList.toggle("below", a < 0);
    label.title = i <= row ? num(a) : "not seen";
  });
  at("tokens-name").textContent = `layer ${layer}, head ${last.head} of ${shortName(last)}`;
  for (const model of group) {
    const next = row < tokens.length - 1 ? `; the text has “${letters[row + 1]}”` : "";
    model.title.textContent = `Next letter after “${letters[row]}”${next}`;
    showNext(model, row, tokens[row + 1] ?? null);
    model.show.forEach(show => show());
  }
  showHead();
}

const strength = a => Math.min(1, Math.log1p(Math.abs(a) / .001) / Math.log1p(1000));  // a symmetric logarithm

// A canvas of a map, with words on the row of the query. Gives a function that draws both.
function addMap(parent, model, name) {
  const figure = add(parent, "figure"), title = add(figure, "figcaption"), canvas = add(figure, "canvas");
  const said = add(figure, "small");
  canvas.onclick = event => {
    text.row = Math.min(text.tokens.length - 1, Math.floor(event.offsetY / canvas.clientHeight * text.tokens.length));
    showQuery();
  };
  return () => {
    const map = mapOf(model, text.layer, name), row = map[text.row];
    title.textContent = titleOf(model, name);
    paint(canvas, map);
    const mass = name === "A" && model.pairs && row.some(a => a) ? `, negative mass ${percent(negativeMass(row))}` : "";
    const end = name === "λA₂" ? saysCancelled(mapOf(model, text.layer, "A₁")[text.row], row) : mass;
    said.textContent = `Row of “${visible(text.tokens[text.row])}”: sum ${total(row)}, ${spreadOf(row)}${end}`;
  };
}

function paint(canvas, map) {
  const n = map.length, cell = Math.max(2, Math.floor(384 / n)), context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colour = (name, alpha = 1) => `rgb(${style.getPropertyValue(`--${name}`)} / ${alpha})`;
  const fill = (x, y, width, height, colour) => {
    context.fillStyle = colour;
    context.fillRect(x * cell, y * cell, width * cell, height * cell);
  };
  canvas.width = canvas.height = n * cell;
  map.forEach((row, t) => {
    row.forEach((a, j) => {
      fill(j, t, 1, 1, colour(signed(a), strength(a)));
      if (a < -.003) fill(j + .25, t + .4, .5, .15, colour(strength(a) < .75 ? "ink" : "card"));  // a minus
    });
    fill(t + 1, t, n, 1, colour("line", .4));
  });
  context.strokeStyle = colour("mark");
  context.lineWidth = 2;
  context.strokeRect(1, text.row * cell, (text.row + 1) * cell, cell);
}
