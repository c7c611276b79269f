"use strict";
// Tables sort by a click on a head, or Enter or Space: best first, then worst first. Rows without a number stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const first = head.dataset.first;
      const order = now === null ? first : now === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].map((row) => ({ row, value: row.cells[column].dataset.value ?? "" }));
      rows.sort((a, b) => {
        if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "");
        const numbers = [Number(a.value), Number(b.value)];
        if (numbers.some(Number.isNaN)) return sign * a.value.localeCompare(b.value);
        return sign * (numbers[0] - numbers[1]);
      });
      body.append(...rows.map(({ row }) => row));
    });
  });
}
// A shadow at the right edge of what can be scrolled further.
for (const box of document.querySelectorAll(".scroll")) {
  const look = () => box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
  box.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(box);
}
