"use strict";
for (const box of document.querySelectorAll(".wide")) {
  const hint = document.createElement("p");
  hint.className = "note hint";
  hint.textContent = "More columns to the right: scroll the table sideways \u2192";
  box.before(hint);
  new ResizeObserver(() => { hint.hidden = box.scrollWidth <= box.clientWidth + 1; }).observe(box);
}

for (const table of document.querySelectorAll("table.browse")) {
  table.classList.add("sorts");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const fixed = rows.filter((row) => row.classList.contains("apart"));
  const heads = [...table.tHead.rows[0].cells];

  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    return cell.classList.contains("number") ? NaN : cell.textContent;
  };
  const compare = (a, b, down) => {
    const missing = Number(Number.isNaN(a)) - Number(Number.isNaN(b));
    if (missing || Number.isNaN(a)) return missing;
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return down ? -order : order;
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      const moving = rows.filter((row) => !fixed.includes(row));
      if (next !== "none") {
        moving.sort((a, b) => compare(key(a, column), key(b, column), next === "descending"));
      }
      body.append(...moving, ...fixed);
    });
  });

  const label = document.createElement("label");
  const input = document.createElement("input");
  label.className = "filter";
  input.type = "search";
  label.append("Show rows with", input);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  table.parentElement.before(label);
}
