// Part 1 of the page: which letter of a list is missing in a second one? Models of the task `missing` of lab.tasks.

const MOST = 22;
const task = { models: models.filter(model => model.missing), first: [], answer: "", tokens: [], layer: 0 };
const [known, room] = task.models.length ? [
  [...data.symbols].slice(0, Math.min(...task.models.map(model => model.missing.n_symbols))),
  Math.min(MOST, ...task.models.map(model => Math.floor((model.config.block_size - 2) / 2))),
] : [[], 0];

// The letters of a list that someone types, and what was done to them.
function readList(typed) {
  const list = [], notes = [], twice = [], unknown = [], capitals = [];
  for (const c of typed.replace(/[\s,;]/g, "")) {
    const letter = known.includes(c) ? c : known.includes(c.toUpperCase()) ? c.toUpperCase() : null;
    if (!letter) unknown.push(c);
    else if (list.includes(letter)) twice.push(letter);
    else {
      list.push(letter);
      if (letter !== c) capitals.push(letter);
    }
  }
  if (unknown.length) notes.push(`The models know ${known.join("")} and not ${unknown.join(" ")}.`);
  if (capitals.length) notes.push(`Read as capitals: ${capitals.join(" ")}.`);
  if (twice.length) notes.push(`Each letter counts once: ${twice.join(" ")}.`);
  if (list.length > room) notes.push(`Only the first ${room} letters are read.`);
  if (list.length < 3) notes.push("A list needs at least 3 different letters.");
  return { list: list.slice(0, room), notes: notes.join(" ") };
}

function shuffled(list) {
  const left = [...list];
  return list.map(() => left.splice(Math.floor(Math.random() * left.length), 1)[0]);
}

// Ask about the list; the second one is dealt unless it is given.
function ask(first, answer = first[Math.floor(Math.random() * first.length)], second = shuffled(first.filter(c => c !== answer))) {
  Object.assign(task, { first, answer, tokens: question(first, second) });
  showTask();
}

const question = (first, second) => [...first, "|", ...second, "?"].map(c => c.charCodeAt(0));

// How many of 50 other lists as long as this one does each model, as it is changed, answer right?
function askMany() {
  const lists = Array.from({ length: 50 }, () => shuffled(known).slice(0, task.first.length));
  for (const model of task.models) {
    const memory = newMemory(model, model.edits);
    const right = lists.filter(([answer, ...second]) => {
      const tokens = question(shuffled([answer, ...second]), second);
      return likeliest(probabilities(model, forward(model, memory, tokens), tokens.length - 1)) === answer.charCodeAt(0);
    });
    model.score.textContent = `right in ${right.length} of 50 other lists of ${task.first.length} letters`;
  }
}

function typeList(list) {
  at("list").value = list.join("");
  at("list-said").textContent = "";
}

function buildTask() {
  const { models: [one] } = task, differential = task.models.find(model => model.pairs) ?? one;
  const lams = differential.layers.map(layer => layer.lam ? mean(layer.lam) : 0);
  task.answering = task.layer = lams.indexOf(Math.max(...lams));  // the layer that subtracts most
  at("list").oninput = () => {
    const { list, notes } = readList(at("list").value);
    at("list-said").textContent = notes;
    if (list.length > 2) ask(list);
  };
  at("shuffle").onclick = () => ask(task.first);
  at("many").onclick = askMany;
  at("new-list").onclick = () => {
    const list = shuffled(known).slice(0, Math.min(12, room));
    typeList(list);
    ask(list);
  };
  for (const model of task.models) {
    const card = makeCard(at("task-models"), model);
    model.next = add(card, "div", "", { class: "bars" });
    model.score = add(card, "p", "", { "aria-live": "polite" });
    makeControls(add(card, "div"), model, showTask);
    const rows = add(at("task-rows"), "div");
    model.rows = Array.from({ length: headsOf(model) }, (_, head) => rowFigure(rows, `head ${head}`));
    add(rows, "small", `${model.name}: ${model.about}`);
  }
  const isExample = room > 11 && known.includes("X"), start = isExample ? [..."GEPIMAXRWTKB"] : shuffled(known).slice(0, Math.min(5, room));
  typeList(start);
  isExample ? ask(start, "W", [..."TPKAXMGBRIE"]) : ask(start);
}

function showTask() {
  const { first, answer, tokens, layer, models: [one] } = task;
  at("question").textContent = String.fromCharCode(...tokens);
  choices(at("take"), first, first.indexOf(answer), i => ask(first, first[i]));
  choices(at("task-layer"), one.layers.map((_, i) => i), layer, i => { task.layer = i; showTask(); });
  for (const model of task.models) {
    model.score.textContent = "";
    const memory = think(model, tokens), last = tokens.length - 1, L = model.config.block_size;
    showNext(model.next, model, last, answer.charCodeAt(0), 4);
    const p = probabilities(model, memory, last), said = likeliest(p), right = said === answer.charCodeAt(0);
    model.said.textContent = `${right ? "✓" : "✗"} answers ${visible(said)}, ${right ? "which is right" : `but ${answer} is missing`}`;
    model.said.classList.toggle("right", right);
    if (model.pairs) document.querySelectorAll(".outcome").forEach((place, i) =>  // of the step for λ, and of that for the switch
      place.textContent = isEdited(model) && model.edits.negative !== !!i ? `${model.name}: ${model.said.textContent}` : "");
    model.rows.forEach((figure, head) => {
      const row = [...memory.layers[layer].A[head].slice(last * L, last * L + last + 1)], n = first.length;
      const parts = [["first list", 0, n], ["bar", n, n + 1], ["second list", n + 1, last], ["?", last, last + 1]];
      const words = "Sums: " + parts.map(([name, from, to]) => `${name} ${num(sum(row.slice(from, to)))}`).join(", ");
      figure.show(row, tokens.map(visible), words, first.indexOf(answer), { name: `${model.name}, layer ${layer}, head ${head}` });
    });
  }
}
