// Part 1 of the page: which letter of a list is missing in a second one? Models of the task `missing` of lab.tasks.

const task = { models: models.filter(model => model.missing), layer: 0, lists: [], right: {} };
const [known, room] = task.models.length ? [
  [..."ABCDEFGHIJKLMNOPQRSTUVWXYZ"].slice(0, Math.min(...task.models.map(model => model.missing.n_symbols))),
  Math.min(22, ...task.models.map(model => Math.floor((model.config.block_size - 2) / 2))),
] : [[], 0];

// The letters of a list that someone types, and what was done to them.
function readList(typed) {
  const letters = [...new Set(typed.toUpperCase().replace(/[\s,;]/g, ""))];
  const list = letters.filter(c => known.includes(c));
  const notes = letters.length > list.length ? [`The models know ${known.join("")} only.`] : [];
  if (list.length > room) notes.push(`Only the first ${room} letters are read.`);
  if (list.length < 3) notes.push("A list needs at least 3 different letters.");
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
  Object.assign(task, deal(...given));
  task.row = task.tokens.length - 1;
  showTask();
}

const isRight = (memory, answer) =>
  likeliest(probabilities(memory, memory.tokens.length - 1)) === answer.charCodeAt(0);

// How many of 50 lists as long as this one does each model, as it is changed, answer right? Kept for these lists.
function askMany() {
  const n = task.first.length;
  if (task.lists[0]?.first.length !== n)
    Object.assign(task, { right: {}, lists: Array.from({ length: 50 }, () => deal(shuffled(known).slice(0, n))) });
  for (const model of task.models) task.right[changedName(model)] ??=
    task.lists.filter(({ answer, tokens }) => isRight(forward(model, tokens, model.edits), answer)).length;
  const guess = ["a guess among the letters of the list", `about ${num(50 / n)}`];
  fillTable(at("many-rows"), [[`50 other lists of ${n} letters`, "right"], ...Object.entries(task.right), guess]);
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
  const start = (list, ...given) => {
    at("list").value = list.join("");
    tell("list", "");
    ask(list, ...given);
  };
  at("new-list").onclick = () => start(shuffled(known).slice(0, Math.min(12, room)));
  for (const model of task.models) makeCard(at("task-models"), model, showTask, rowFigure);
  if (room > 11 && known.includes("X")) start([..."GEPIMAXRWTKB"], "W", [..."TPKAXMGBRIE"]);
  else at("new-list").onclick();
}

function showTask() {
  const { first, answer, tokens, row, layer } = task, letters = tokens.map(visible), n = first.length;
  const { min_items: least, max_items: most } = task.models[0].missing;
  at("guess").textContent = `A guess among the letters of this list is right once in ${n}.`
    + (n < least || n > most ? ` The models were trained on lists of ${least} to ${most} letters only.` : "");
  choices(at("take"), first, first.indexOf(answer), i => ask(first, first[i]));
  choices(at("question"), letters, row, i => { task.row = i; showTask(); });
  const layers = Math.min(...task.models.map(model => model.layers.length));
  choices(at("task-layer"), [...Array(layers).keys()], layer, i => { task.layer = i; showTask(); });
  task.models.forEach(model => think(model, tokens));
  const rowsOf = model => mapNames(model).map(name => [...mapOf(model, layer, name)[row]]);
  const parts = { "first list": n, bar: n + 1, "second list": 2 * n, "?": 2 * n + 1 };
  const scale = task.models.flatMap(rowsOf).flat();
  for (const model of task.models) {
    const said = visible(likeliest(probabilities(model.changed, 2 * n))), right = isRight(model.changed, answer);
    const words = right ? `✓ answers ${said}, which is right` : `✗ answers ${said}, but ${answer} is missing`;
    model.said.textContent = words;
    showNext(model, 2 * n, answer.charCodeAt(0));
    showHeads(model, showTask);
    rowsOf(model).forEach((values, i, rows) => {
      let from = 0;
      const sums = Object.entries(parts).map(([name, to]) => `${name} ${num(sum(values.slice(from, from = to)))}`);
      const name = mapNames(model)[i], seen = sums.slice(0, 1 + (row >= n) + (row > n) + (row === 2 * n));
      const cancels = name === "λA₂" ? `; ${percent(cancelled(rows[0], values))} of it cancels` : "";
      const words = `Sums: ${seen.join(", ")}${cancels}`;
      model.show[i](titleOf(model, name), values, letters, words, { scale, mark: first.indexOf(answer) });
    });
  }
}
