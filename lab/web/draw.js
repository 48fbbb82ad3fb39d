// What all parts of the page of lab/page.py draw with.

const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const sum = list => list.reduce((a, b) => a + b, 0);
const mean = list => sum(list) / list.length;
const total = row => num(+sum(row).toFixed(6));  // of a map's row: without the rounding of its numbers
const signed = a => a < 0 ? "negative" : "positive";
const raised = power => [...String(power)].map(c => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");

// A number with digits enough that only 0 is shown as zero.
function num(a) {
  const size = Math.abs(a.toPrecision(3));
  if (size === 0 || !Number.isFinite(a)) return Number.isNaN(a) ? "–" : size ? "∞" : "0";
  if (size >= 1e5 || size < 1e-4) {
    const [digits, power] = a.toExponential(1).split("e");
    return `${digits.replace("-", "−")}·10${raised(+power)}`;
  }
  const digits = size < 1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0;
  return (size < 0.1 ? a.toPrecision(2) : a.toFixed(digits)).replace("-", "−");
}

const chance = p => p > .9995 && p < 1 ? "> 0.999" : num(p);
const percent = share => `${num(100 * share)}\u00a0%`;

function visible(byte) {
  if (byte > 32 && byte < 127) return String.fromCharCode(byte);
  return { 10: "⏎", 32: "·" }[byte] ?? byte.toString(16).padStart(2, "0");
}

function add(parent, tag, content = "", attributes = {}) {
  const child = parent.appendChild(document.createElementNS(parent.namespaceURI, tag));
  child.textContent = content;
  for (const [name, value] of Object.entries(attributes)) child.setAttribute(name, value);
  return child;
}

// Say something about an input; dim what is made of it where that is still of the input before.
function tell(part, words, stale = false) {
  at(`${part}-said`).textContent = words + (stale ? " Below you still see the last valid input." : "");
  at(`${part}-shown`).classList.toggle("stale", stale);
}

// A labelled slider with its value; gives a function that sets it.
function slider(parent, label, range, change) {
  const box = add(parent, "label", label, { class: "slider" });
  const input = add(box, "input", "", { type: "range", ...range }), output = add(box, "output");
  const set = value => { input.value = value; output.textContent = num(value); };
  input.oninput = () => { set(+input.value); change(+input.value); };
  return set;
}

// Names of which one is chosen: radio buttons, so arrow keys choose, too.
function choices(parent, names, chosen, change) {
  if (parent.names !== names.join("\n")) {
    parent.names = names.join("\n");
    parent.replaceChildren();
    for (const name of names) {
      const label = add(parent, "label");
      add(label, "input", "", { type: "radio", name: parent.id });
      label.append(name);
    }
  }
  [...parent.children].forEach(({ firstChild }, i) =>
    Object.assign(firstChild, { checked: i === chosen, onchange: () => change(i) }));
}

// A figure of a row of weights as bars over their labels, with words below. Gives a function that draws it.
function rowFigure(parent) {
  const figure = add(parent, "figure"), title = add(figure, "figcaption");
  const box = add(figure, "div", "", { class: "weights", role: "img" }), said = add(figure, "small");
  return (name, values, labels, words, { scale = values, mark = -1 } = {}) => {
    const hi = Math.max(0, ...scale), lo = Math.min(0, ...scale), size = hi - lo || 1;
    const [most, least] = [Math.max, Math.min].map(of => values.indexOf(of(...values)));
    title.textContent = name;
    said.textContent = words;
    box.setAttribute("aria-label", `${name}: ${words}`);
    box.style.setProperty("--zero", hi / size);
    box.replaceChildren();
    values.forEach((a, i) => {
      const style = `--top: ${(hi - Math.max(a, 0)) / size}; --size: ${Math.abs(a) / size}`;
      const column = add(box, "span", "", { style, class: signed(a), title: `${labels[i]}: ${num(a)}` });
      if (a) add(column, "i");
      if (values.length <= 5 || i === most || (i === least && a < 0)) add(column, "b", num(a));
      add(column, "code", labels[i], i === mark ? { class: "mark" } : {});
    });
  };
}

// e to the entropy of the shares |a| / Σ|a|, which is ln Σ|a| − Σ |a| ln|a| / Σ|a|.
function effective(row) {
  let all = 0, logs = 0;
  for (const a of row) if (a) { all += Math.abs(a); logs += Math.abs(a) * Math.log(Math.abs(a)); }
  return Math.exp(Math.log(all) - logs / all);
}

const spreadOf = row => row.some(a => a) ? `${num(effective(row))} of ${row.length} effective tokens` : "all zero";

// The share of Σ|a| that is below zero.
const negativeMass = row => sum(row.map(a => Math.max(0, -a))) / sum(row.map(Math.abs));
