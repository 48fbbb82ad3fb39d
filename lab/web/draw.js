// What all parts of the page of lab/page.py draw with.

const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const digits = (a, n = 2) => (Math.abs(a) < 0.5 * 10 ** -n ? 0 : a).toFixed(n).replace("-", "−");
const sum = list => list.reduce((a, b) => a + b, 0);

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
function slider(parent, label, { min, max, step, value }, change, shown = digits) {
  const id = `${parent.id}-${parent.childElementCount}`;
  add(parent, "label", label, { for: id });
  const input = add(parent, "input", "", { id, type: "range", min, max, step });
  const output = add(parent, "output", "", { for: id });
  const show = x => { input.value = x; output.textContent = shown(+input.value); };
  input.oninput = () => { show(input.value); change(+input.value); };
  show(value);
}

// Do what removes and makes the children of `parent` again, and give the focus back to the one at its place.
function keepingFocus(parent, rebuild) {
  const all = () => [...parent.querySelectorAll("button, input")], focused = all().indexOf(document.activeElement);
  rebuild();
  if (focused >= 0) all()[Math.min(focused, all().length - 1)]?.focus();
}

const colour = (name, alpha = 1) => `rgb(var(--${name}) / ${alpha})`;
const signed = a => a < 0 ? "negative" : "positive";
