// A line under the pointer shows the lines of the other text that belong to it.
const rows = new Map();
for (const row of document.querySelectorAll("tr[data-s]")) {
  const id = row.dataset.s;
  if (!id) continue;
  if (!rows.has(id)) rows.set(id, []);
  rows.get(id).push(row);
}
const light = (event, on) => {
  const row = event.target.closest("tr[data-s]");
  for (const other of (row && rows.get(row.dataset.s)) || []) other.classList.toggle("on", on);
};
document.addEventListener("mouseover", (event) => light(event, true));
document.addEventListener("mouseout", (event) => light(event, false));
