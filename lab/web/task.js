// Part 1 of the page: which letter of a list is missing in a second one? Models of the task `missing` of lab.tasks.

const task = { models: models.filter(model => model.missing), layer: 0 };
const [known, room] = task.models.length ? [
  [...data.symbols].slice(0, Math.min(26, ...task.models.map(model => model.missing.n_symbols))),
  Math.min(22, ...task.models.map(model => Math.floor((model.config.block_size - 2) / 2))),
] : [[], 0];

// The letters of a list that someone types, and what was done to them.
function readList(typed) {
  const letters = [...typed.replace(/[\s,;]/g, "")];
  const read = letters.map(c => c.toUpperCase()).filter(c => known.includes(c));
  const list = [...new Set(read)], notes = [];
  if (letters.length > read.length) notes.push(`Only the letters A to ${known.at(-1)} are read.`);
  if (read.length > list.length) notes.push("Repeated letters are read once.");
  if (list.length > room) notes.push(`Only the first ${room} letters are read.`);
  const n = list.length, { min_items: least, max_items: most } = task.models[0].missing;
  if (n < 3) notes.push("A list needs at least 3 different letters.");
  else if (n < least || n > most) notes.push(`The models were trained on lists of ${least} to ${most} letters only.`);
  return { list: list.slice(0, room), notes: notes.join(" ") };
}

function shuffled(list) {
  const left = [...list];
  return list.map(() => left.splice(Math.floor(Math.random() * left.length), 1)[0]);
}

// A question about a list; the answer and the second list are drawn unless they are given.
function deal(first, answer = shuffled(first)[0], second = shuffled(first.filter(c => c !== answer))) {
  return { first, answer, tokens: [...first, "|", ...second, "?"].map(c => c.charCodeAt(0)) };
}

function ask(...given) {
  document.querySelectorAll("#task .step > output").forEach(output => output.textContent = "");  // of the list before
  Object.assign(task, deal(...given));
  task.row = task.tokens.length - 1;
  showTask();
}

const answerOf = memory => likeliest(probabilities(memory, memory.tokens.length - 1));
const isRight = (memory, answer) => answerOf(memory) === answer.charCodeAt(0);

// How many of 50 new lists as long as this one does each of the models, as it is changed, answer right?
function askMany(models) {
  const n = task.first.length, lists = Array.from({ length: 50 }, () => deal(shuffled(known).slice(0, n)));
  const right = models.map(model => `${changedName(model)} `
    + lists.filter(({ answer, tokens }) => isRight(forward(model, tokens, model.edits), answer)).length);
  return `Right in 50 new lists of ${n} letters: ${right.join(", ")}. A guess would get about ${Math.round(50 / n)}.`;
}

// Say what `words` gives, when it has been painted that they are asked for.
function later(output, words) {
  output.textContent = "asking 50 lists …";
  setTimeout(() => output.textContent = words(), 30);
}

function buildTask() {
  const lams = (task.models.find(model => model.pairs) ?? task.models[0]).layers.map(({ lam }) => lam ? mean(lam) : 0);
  task.answering = task.layer = lams.indexOf(Math.max(...lams));  // the layer that subtracts most
  at("room").textContent = Math.min(room, known.length);
  at("list").oninput = () => {
    const { list, notes } = readList(at("list").value);
    tell("list", notes, list.length < 3);
    if (list.length > 2) ask(list);
  };
  at("shuffle").onclick = () => ask(task.first, task.answer);
  const start = (list, ...given) => { at("list").value = list.join(""); tell("list", ""); ask(list, ...given); };
  at("new-list").onclick = () => start(shuffled(known).slice(0, Math.min(12, room)));
  for (const model of task.models) makeCard(at("task-models"), model, showTask, rowFigure);
  at("task-models").append(at("try"));
  for (const model of task.models.filter(model => model.pairs)) {
    const button = add(model.controls, "button", "Ask 50 lists");
    button.onclick = () => later(model.more, () => askMany([model]));
  }
  at("task-about").textContent = about(task.models);
  if (room > 11 && known.includes("X")) start([..."GEPIMAXRWTKB"], "W", [..."TPKAXMGBRIE"]);
  else at("new-list").onclick();
}

function showTask() {
  const { first, answer, tokens, row, layer } = task, letters = tokens.map(visible), n = first.length;
  choices(at("take"), first, first.indexOf(answer), i => ask(first, first[i]));
  choices(at("question"), letters, row, i => { task.row = i; showTask(); });
  const layers = Math.min(...task.models.map(model => model.layers.length));
  choices(at("task-layer"), [...Array(layers).keys()], layer, i => { task.layer = i; showTask(); });
  task.models.forEach(model => think(model, tokens));
  const rowsOf = model => mapNames(model).map(name => [...mapOf(model, layer, name)[row]]);
  const parts = { "first list": n, bar: n + 1, "second list": 2 * n, "?": 2 * n + 1 };
  const scale = task.models.flatMap(rowsOf).flat();
  for (const model of task.models) {
    const said = visible(answerOf(model.changed)), right = isRight(model.changed, answer);
    model.said.textContent = (right ? `✓ ${said}, which is right` : `✗ ${said}, but ${answer} is missing`)
      + changes(model);
    showNext(model, 2 * n, answer.charCodeAt(0));
    showHeads(model, showTask);
    rowsOf(model).forEach((values, i, rows) => {
      let from = 0;
      const sums = Object.entries(parts).map(([name, to]) => `${name} ${num(sum(values.slice(from, from = to)))}`);
      const name = mapNames(model)[i], seen = sums.slice(0, 1 + (row >= n) + (row > n) + (row === 2 * n));
      const words = `Sums: ${seen.join(", ")}${name === "λA₂" ? saysCancelled(rows[0], values) : ""}`;
      model.show[i](titleOf(model, name), values, letters, words, { scale, mark: first.indexOf(answer) });
    });
  }
}
