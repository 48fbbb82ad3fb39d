// What the buttons of the guided steps do, and the first drawing.

const taskPair = task.models.find(model => model.pairs);

// Change the model, ask 50 lists, say what came of it.
function tryOut(edits, button) {
  taskPair.edit(edits);
  askMany();
  const name = changedName(taskPair), many = `right in ${task.right[name]} of 50 lists of ${task.first.length} letters`;
  button.parentNode.querySelector("output").textContent = `${name}: ${many}; this list: ${taskPair.said.textContent}`;
}
const DO = {
  many: askMany,
  lambda: button => tryOut({ ...newEdits(), lam: Object.assign([], { [task.answering]: 0 }) }, button),
  negative: button => tryOut({ ...newEdits(), negative: false }, button),
  zeros: () => setSketch({ ...Object.values(EXAMPLES)[0], lam: .425 }),
};
document.querySelectorAll("button[data-do]").forEach(button => button.onclick = () => DO[button.dataset.do](button));

// A site of GitHub's own serves .md files as plain text: there a link leads to the repository, which shows formulas.
function published(link) {
  const [, user, project, page] = link.match(/^https:\/\/(.+)\.github\.io\/([^/]+)\/(.+\.md.*)$/) ?? [];
  return user ? `https://github.com/${user}/${project}/blob/HEAD/docs/${page}` : link;
}
document.querySelectorAll("a[href$='.md'], a[href*='.md#']").forEach(a => a.href = published(a.href));

if (task.models.length) buildTask();
if (text.models.some(model => model.pairs)) buildHead();
if (text.models.length) buildText();
buildSketch();
document.querySelectorAll(".answering").forEach(layer => layer.textContent = task.answering ?? 1);
const shown = { task: task.models.length, "step-2": taskPair, "step-3": taskPair };
Object.assign(shown, { "part-text": text.models.length, "step-4": text.groups.length > 1 });
for (const id in shown) at(id).hidden = !shown[id];
document.querySelectorAll("a[href^='#']").forEach(a =>
  (a.closest("li") ?? a).hidden = at(a.hash.slice(1)).closest("[hidden]"));
