// What all parts of the page of lab/page.py draw with.

const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const sum = list => list.reduce((a, b) => a + b, 0);
const colour = (name, alpha = 1) => `rgb(var(--${name}) / ${alpha})`;
const signed = a => a < 0 ? "negative" : "positive";
const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

// A number with digits enough that only 0 is shown as zero.
function num(a) {
  const size = Math.abs(a);
  if (size === 0 || !Number.isFinite(a)) return Number.isNaN(a) ? "–" : size ? "∞" : "0";
  if (size >= 1e5 || size < 1e-4) {
    const [digits, power] = a.toExponential(1).split("e");
    return `${digits.replace("-", "−")}·10${[...power.replace("+", "")].map(c => RAISED[c]).join("")}`;
  }
  return (size < 0.1 ? a.toPrecision(2) : a.toFixed(size < 1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0)).replace("-", "−");
}

const chance = p => p > .9995 && p < 1 ? "> 0.999" : num(p);
const visible = byte => byte === 10 ? "⏎" : byte === 32 ? "·" : byte > 32 && byte < 127 ? String.fromCharCode(byte) : byte.toString(16).padStart(2, "0");

function add(parent, tag, content = "", attributes = {}) {
  const child = parent.appendChild(document.createElement(tag));
  child.textContent = content;
  for (const [name, value] of Object.entries(attributes)) child.setAttribute(name, value);
  return child;
}

function draw(parent, tag, attributes, content = "") {
  const child = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", tag));
  for (const [name, value] of Object.entries(attributes)) child.setAttribute(name, value);
  child.textContent = content;
  return child;
}

// A labelled slider, with what `shown` makes of its value beside it.
function slider(parent, label, { min, max, step, value }, change, shown = num) {
  const id = `${parent.id}-${parent.childElementCount}`;
  add(parent, "label", label, { for: id });
  const input = add(parent, "input", "", { id, type: "range", min, max, step });
  const output = add(parent, "output", shown(value), { for: id });
  input.value = value;
  input.oninput = () => { output.textContent = shown(+input.value); change(+input.value); };
}

// Buttons of which one is chosen; they keep the focus when they are made again.
function choices(parent, names, chosen, change) {
  const focused = [...parent.children].indexOf(document.activeElement);
  parent.replaceChildren();
  names.forEach((name, i) => add(parent, "button", name, { type: "button", "aria-pressed": i === chosen }).onclick = () => change(i));
  parent.children[focused]?.focus();
}

// The width of the place of an svg, measured once, as measuring makes the browser lay out the page; cleared when it changes.
const widths = new Map();

function widthOf(svg) {
  if (!widths.get(svg)) widths.set(svg, svg.parentNode.clientWidth);
  return widths.get(svg) || 320;
}

// A row of weights as bars over their labels: orange above zero, blue with a minus below; on the scale of `others`, too.
function drawRow(svg, values, labels, mark = -1, others = [], height = 96) {
  const n = values.length, width = Math.max(widthOf(svg), 7 * n), step = Math.min(width / n, 70);
  const [hi, lo] = [Math.max, Math.min].map(of => of(...values, ...others, 0)), scale = (height - 44) / (hi - lo || 1), zero = 13 + hi * scale;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.width = `${width}px`;
  const text = (x, y, content, size = 11) => draw(svg, "text", { x, y, "text-anchor": x < 18 ? "start" : x > width - 18 ? "end" : "middle", style: `font-size: ${size}px` }, content);
  const extremes = [Math.max, Math.min].map(of => values.indexOf(of(...values))).filter((i, k) => k === 0 || values[i] < 0);
  values.forEach((a, i) => {
    const x = i * step + step / 2, size = Math.max(Math.abs(a) * scale, .7), wide = Math.min(step * .8, 24);
    const bar = draw(svg, "rect", { x: x - wide / 2, y: a < 0 ? zero : zero - size, width: wide, height: size, style: `fill: ${colour(signed(a))}` });
    draw(bar, "title", {}, `${labels[i] ?? i + 1}: ${num(a)}`);
    if (a < 0 && size > 7) draw(svg, "path", { d: `M${x - wide / 4},${zero + size / 2}h${wide / 2}`, style: `stroke: ${colour("card")}; stroke-width: 1.5` });
    if (n <= 8 || extremes.includes(i)) text(x, a < 0 ? zero + size + 11 : zero - size - 3, num(a), 10.5);
    if (labels[i]) draw(svg, "text", { x, y: height - 4, "text-anchor": "middle", class: i === mark ? "letter mark" : "letter", style: `font-size: ${Math.min(14, step * 1.4)}px` }, labels[i]);
  });
  draw(svg, "path", { d: `M0,${zero}h${n * step}`, class: "thin" });
}

// A figure with a title, a row of weights and words below, which `show` draws anew.
function rowFigure(parent, title) {
  const figure = add(parent, "figure"), heading = add(figure, "figcaption", title), box = add(figure, "div", "", { class: "scroll" });
  const svg = draw(box, "svg", { role: "img" }), said = add(figure, "small");
  return { show(values, labels, words, mark, { name = title, others } = {}) {
    heading.textContent = name;
    svg.setAttribute("aria-label", `${name}: ${words}`);
    drawRow(svg, values, labels, mark, others);
    said.textContent = words;
  } };
}

// Over how many tokens a row is spread: e to the entropy of |a| / Σ|a|, which is ln Σ|a| − Σ |a| ln|a| / Σ|a|.
function effective(row) {
  let all = 0, logs = 0;
  for (const a of row) if (a) { all += Math.abs(a); logs += Math.abs(a) * Math.log(Math.abs(a)); }
  return Math.exp(Math.log(all) - logs / all);
}

// The share of Σ|a| that is below zero.
function negativeMass(row) {
  let all = 0, below = 0;
  for (const a of row) { all += Math.abs(a); if (a < 0) below -= a; }
  return below / all;
}

const percent = share => `${num(100 * share)}\u00a0%`;
