"use strict";
// Click on a heading sorts its table by that column, a second click the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = Array.from(table.tHead.rows[0].cells);
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") === "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        return cell.dataset.number === undefined ? cell.textContent : Number(cell.dataset.number);
      };
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        return typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
      };
      const body = table.tBodies[0];
      const rows = Array.from(body.rows).sort((a, b) => (up ? order(a, b) : order(b, a)));
      body.append(...rows);
    });
  });
}
