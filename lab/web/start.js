// What the buttons of the guided steps do, and the first drawing.

const taskPair = task.models.find(model => model.pairs);
const DO = {
  name: () => at("list").select(),
  lambda: () => { const edits = newEdits(); edits.lam[task.answering] = 0; setEdits(taskPair, edits); },
  negative: () => setEdits(taskPair, { ...newEdits(), negative: false }),
  free: () => setGroup(text.groups.indexOf(text.group) ? 0 : text.groups.length - 1),
  zeros: () => setSketch({ ...EXAMPLES["by hand: 2, 1, 0 and 0, 1, 0"], lam: .425 }),
};
document.querySelectorAll("button[data-do]").forEach(button => {
  button.onclick = DO[button.dataset.do];
  button.closest(".step").hidden = { lambda: !taskPair, negative: !taskPair, free: text.groups.length < 2 }[button.dataset.do] ?? false;
});

// On a site of GitHub's own, which serves .md files as plain text, a link leads to the repository, which shows formulas.
function published(link) {
  const [, user, project, page] = link.match(/^https:\/\/(.+)\.github\.io\/([^/]+)\/(.+\.md.*)$/) ?? [];
  return user ? `https://github.com/${user}/${project}/blob/HEAD/docs/${page}` : link;
}
document.querySelectorAll("a").forEach(a => a.href = published(a.href));

if (text.groups.length) { buildHead(); buildText(); }
if (task.models.length) buildTask();
document.querySelectorAll(".answering").forEach(layer => layer.textContent = task.answering ?? 1);
[["task", task.models], ["part-text", text.groups], ["head", text.groups]].forEach(([id, list]) => { if (!list.length) at(id).hidden = true; });
buildSketch();
let width = innerWidth;
window.onresize = () => {
  if (innerWidth === width) return;
  width = innerWidth;
  widths.clear();
  if (task.models.length) showTask();
  if (text.groups.length) showHead();
  showSketch();
};
