// What the buttons of the guided steps do, and the first drawing.

const taskPair = task.models.find(model => model.pairs);

// Steps 2 and 3 change the model and ask it; step 1 asks all models, as trained.
document.querySelectorAll("button[data-do]").forEach(button => button.onclick = () => {
  const steps = { lambda: { lam: Object.assign([], { [task.answering]: 0 }) }, negative: { negative: false } };
  const output = button.parentNode.querySelector("output"), edits = steps[button.dataset.do];
  if (edits) Object.assign(task, { layer: task.answering, row: task.tokens.length - 1 });  // where the step looks
  taskPair?.edit({ ...newEdits(), ...edits });
  later(output, () => (edits ? `Your list: ${taskPair.said.textContent}. ` : "")
    + askMany(edits ? [taskPair] : task.models));
});

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(details => details.open = true));

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
document.querySelectorAll("nav a").forEach(a => a.parentNode.hidden = at(a.hash.slice(1)).closest("[hidden]"));
