// Part 4 of the page: a diagram of one head that subtracts; each part shows its numbers for the query chosen in part 2.

const diagram = { part: "A" };
const PARTS = {  // where each part is drawn, its title, what it does; boxes of a row are joined to those below
  S0: [6, 30, "S₁ = Q₁K₁ᵀ", "Scores of the first map: the query compared with the key of each letter up to its own"],
  S1: [124, 30, "S₂ = Q₂K₂ᵀ", "Scores of the second map, from queries and keys of its own"],
  V: [242, 30, "V", "Values, one vector per letter, shared by both maps; here the length of each"],
  A0: [6, 122, "A₁ = softmax", "The first row of weights: all above zero, their sum is 1"],
  A1: [124, 122, "A₂ = softmax", "The second row of weights: all above zero, their sum is 1"],
  lam: [124, 214, "times λ", "λA₂, what is subtracted; λ is learned"],
  A: [6, 306, "A = A₁ − λA₂", "The difference: positive where A₁ is larger, negative where λA₂ is larger"],
  y: [124, 306, "A V", "The sum of the values, each times its weight"],
  out: [242, 306, "norm", "The output of the head, which gets its length from the norm and its gain"],
};
const ARROWS = ["M59,88V120", "M177,88V120", "M177,180V212", "M59,180V304", "M177,272V288H80V304", "M112,335H122", "M295,88V292H210V304", "M230,335H240", "M295,364V384"];

const subtracting = () => text.group.find(model => model.pairs) ?? null;

// The numbers of a part: bars, their labels, words.
function numbersOf(part, model, steps) {
  const letters = text.tokens.map(visible), { n_embd: C } = model.config, heads = headsOf(model), E = C / heads;
  const { v } = model.changed.layers[text.layer], all = row => `sum ${num(sum(row))}, ${num(effective(row))} effective tokens`;
  const norm = list => Math.sqrt(sum(list.map(a => a * a)));
  const rows = { S0: steps.S[0], S1: steps.S[1], A0: steps.A[0], A1: steps.A[1], lam: steps.A[1].map(a => steps.lam * a), A: steps.a, y: steps.y, out: steps.out };
  const row = part === "V" ? text.tokens.slice(0, text.row + 1).map((_, j) => norm([...v.slice(j * C + model.head * E, j * C + (model.head + 1) * E)])) : [...rows[part]];
  if (part[0] === "S") return [row, letters, `from ${num(Math.min(...row))} to ${num(Math.max(...row))}: range Δ = ${num(Math.max(...row) - Math.min(...row))}`];
  if (part === "V") return [row, letters, `${E} channels per letter`];
  if (part === "y" || part === "out") return [row, [], `${E} channels, length ${num(norm(row))}`];
  if (part === "lam") return [row, letters, `λ = ${num(steps.lam)}, the sum of the row`];
  return [row, letters, all(row) + (part === "A" ? `, negative mass ${percent(negativeMass(row))}` : "")];
}

function buildHead() {
  const svg = at("diagram");
  const arrow = draw(draw(svg, "defs", {}), "marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" });
  draw(arrow, "path", { d: "M0,0L8,4L0,8z", style: `fill: ${colour("faint")}` });
  ARROWS.forEach(d => draw(svg, "path", { d, class: "thin", "marker-end": "url(#arrow)" }));
  draw(svg, "text", { x: 175, y: 16, "text-anchor": "middle" }, "all letters up to the query");
  draw(svg, "text", { x: 84, y: 300, style: "font-size: 18px" }, "−");
  draw(svg, "text", { x: 348, y: 398, "text-anchor": "end" }, "to the output matrix");
  for (const [part, [x, y, title, about]] of Object.entries(PARTS)) {
    const group = draw(svg, "g", { tabindex: 0, role: "button", "aria-label": `${title}: ${about}`, class: "part", id: `part-${part}` });
    draw(group, "rect", { x, y, width: 106, height: 58, rx: 6 });
    draw(group, "text", { x: x + 53, y: y + 15, "text-anchor": "middle" }, title);
    draw(group, "g", {});
    const show = () => { diagram.part = part; showPart(); };
    group.onpointerenter = group.onfocus = group.onclick = show;
  }
  diagram.figure = rowFigure(at("numbers"), "");
}

// A row as small bars in a box of the diagram.
function miniature(parent, row, x, y) {
  const hi = Math.max(0, ...row), lo = Math.min(0, ...row), scale = 30 / (hi - lo || 1), step = 94 / row.length;
  const bars = is => row.map((a, i) => signed(a) === is ? `M${x + (i + .4) * step},${y + hi * scale}v${-a * scale || -.5}` : "").join("");
  parent.replaceChildren();
  for (const is of ["positive", "negative"]) draw(parent, "path", { d: bars(is), style: `stroke: ${colour(is)}; stroke-width: ${step * .8}` });
}

// The letters with the largest weights, and what each step makes of them.
function showTable({ S, A, lam, a }) {
  const columns = { S0: ["S₁", S[0]], A0: ["A₁", A[0]], S1: ["S₂", S[1]], A1: ["A₂", A[1]], lam: ["λA₂", A[1].map(x => lam * x)], A: ["A", a] };
  const best = [...a.keys()].sort((i, j) => Math.abs(a[j]) - Math.abs(a[i])).slice(0, 6), table = at("steps");
  table.replaceChildren();
  const line = (tag, words) => {
    const row = add(table, "tr");
    words.forEach(([part, word]) => add(row, tag, word, part === diagram.part ? { class: "chosen" } : {}));
  };
  line("th", [["", "letter"], ...Object.entries(columns).map(([part, [name]]) => [part, name])]);
  for (const i of best) line("td", [["", `${visible(text.tokens[i])} (${i + 1})`], ...Object.entries(columns).map(([part, [, row]]) => [part, num(row[i])])]);
}

function showHead() {
  const model = subtracting();
  if (!model || !diagram.figure) return;
  const steps = stepsOf(model, model.changed, text.layer, model.head, text.row);
  for (const [part, [x, y]] of Object.entries(PARTS)) miniature(at(`part-${part}`).lastChild, numbersOf(part, model, steps)[0], x + 6, y + 22);
  at("part-lam").children[1].textContent = `times λ = ${num(steps.lam)}`;
  at("head-said").textContent = `${model.name}, layer ${text.layer}, head ${model.head}, query “${visible(text.tokens[text.row])}” (letter ${text.row + 1} of ${text.tokens.length})`;
  showPart(model, steps);
}

// The numbers of the chosen part.
function showPart(model = subtracting(), steps = stepsOf(model, model.changed, text.layer, model.head, text.row)) {
  Object.keys(PARTS).forEach(part => at(`part-${part}`).classList.toggle("chosen", part === diagram.part));
  const [, , title, about] = PARTS[diagram.part], [row, letters, words] = numbersOf(diagram.part, model, steps);
  at("part-about").textContent = `${about}.`;
  const scaled = diagram.part[0] === "S" ? model.bound ? ` with ${model.bound} cos(q, k)` : model.layers[0].g ? " with g cos(q, k)" : "/√D" : "";
  showTable(steps);
  diagram.figure.show(row, letters, words, -1, { name: title + scaled });
}
