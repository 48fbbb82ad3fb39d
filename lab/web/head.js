// The diagram of a head that subtracts, in part 2: pointing at a part shows its numbers, of the query chosen there.

// Where a part is in the grid, row / column; its name; what it does.
const PARTS = [
  ["1 / 1", "S₁", "Scores: how well the query of this letter fits the key of each letter that it sees."],
  ["1 / 2", "S₂", "Scores again, of a query and keys of their own."],
  ["1 / 3", "V", "The values, a vector per letter, which both maps share. Bars are their lengths."],
  ["2 / 1", "A₁ = softmax", "Softmax makes weights of the scores: all above zero, with sum 1."],
  ["2 / 2", "A₂ = softmax", "The same for the second scores."],
  ["3 / 2", "λA₂", "The second row times λ: this is subtracted."],
  ["4 / 1", "A", "What both rows share cancels. Where λA₂ is larger, the weight is below zero"],
  ["4 / 2", "times V", "The values, each times its weight, added up. Bars are the channels of the sum."],
  ["4 / 3", "norm", "The sum ÷ its root mean square, times a learned gain per channel and the factor 1 − λ_init."],
];
const diagram = { part: 6 };

function buildHead() {
  diagram.buttons = PARTS.map(([area, name], i) => {
    const button = add(at("diagram"), "button", name, { style: `grid-area: ${area}` });
    button.onpointerenter = button.onfocus = button.onclick = () => { diagram.part = i; showHead(); };
    return button;
  });
  diagram.figure = rowFigure(at("numbers"));
}

// The row of each part, in the order of PARTS, for the query `row` of a layer.
function partsOf({ head, changed }, layer, row) {
  const { scores, maps, lam, A, V, AV, Y } = changed.layers[layer], E = V[head][0].length;
  const from = AV.length / A[0].length * row + head * E;
  const second = [...maps[2 * head + 1][row]], ofHead = list => [...list.subarray(from, from + E)];
  const lengths = second.map((_, j) => Math.sqrt(dot(V[head][j], V[head][j])));
  return [
    [...scores(2 * head, row)], [...scores(2 * head + 1, row)], lengths, [...maps[2 * head][row]], second,
    second.map(a => lam[head] * a), [...A[head][row]], ofHead(AV), ofHead(Y),
  ];
}

function showHead() {
  const model = text.group.find(model => model.pairs), { part } = diagram;
  at("head").hidden = !model;
  if (!model) return;
  const rows = partsOf(model, text.layer, text.row), row = rows[part], letters = text.tokens.map(visible);
  const [before, after] = rows.slice(7).map(y => Math.sqrt(dot(y, y) / y.length));
  const ends = [Math.min, Math.max].map(of => of(...row)), E = rows[7].length;
  const weights = `sum ${total(row)}, ${spreadOf(row)}`;
  const words = part < 2 ? `from ${num(ends[0])} to ${num(ends[1])}, range Δ = ${num(ends[1] - ends[0])}`
    : part === 2 ? `${E} channels, mean length ${num(mean(row))}`
    : part < 7 ? weights + (part === 6 ? `, negative mass ${percent(negativeMass(row))}` : "")
    : `root mean square ${num(before)}` + (!model.layers[text.layer].gain ? "; this model has no norm"
      : `; ${num(before / Math.sqrt(before ** 2 + 1e-5))} after division, ${num(after)} with the gain and the factor`);
  const [first, last] = [[0, 2], [2, 3], [3, 7], [7, 9]].find(([, last]) => part < last);  // parts of one scale
  const { bound } = model, scores = ["₁", "₂"].map(i => bound ? `${bound} cos(q${i}, k${i})` : `Q${i}K${i}ᵀ/√D`);
  scores.forEach((score, i) => diagram.buttons[i].textContent = score);
  diagram.buttons[6].textContent = titleOf(model, "A").slice(4);
  diagram.buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === part));
  const query = `layer ${text.layer}, head ${model.head}, query “${letters[text.row]}”.`;
  at("head-said").textContent = `The numbers are those of ${shortName(model)}, ${query}`;
  const end = part === 6 ? (model.edits.negative ? "." : ", and set to 0.") : "";
  const more = bound && part < 2 ? ` They lie between −${bound} and ${bound}.` : end;
  at("part-says").textContent = PARTS[part][2] + more;
  at("numbers").style.minWidth = `${.6 * row.length + 2}rem`;
  const name = part === 6 ? titleOf(model, "A") : PARTS[part][1] + (part < 2 ? ` = ${scores[part]}` : "");
  const scale = rows.slice(first, last).flat();
  diagram.figure(name, row, part < 7 ? letters : row.map(() => ""), words, { scale });
  at("numbers").parentNode.scrollLeft = 1e4;  // on a phone: to the query, near which most weight is
}
