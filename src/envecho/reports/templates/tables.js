// Tables of class `sorts`: a button in each column's head sorts the rows of each group; a third press restores the order.
{
  const number = (cell) => {
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = (cell.firstChild ? cell.firstChild.textContent : "").replace("−", "-").replaceAll(",", "").replace(" %", "");
    return /^[+-]?\d*\.?\d+(e[+-]?\d+)?$/.test(text.trim()) ? Number(text) : NaN;
  };
  const compare = (one, other) => {
    const [a, b] = [number(one), number(other)];
    if (!Number.isNaN(a) && !Number.isNaN(b)) return a - b;
    return one.textContent.trim().localeCompare(other.textContent.trim(), "en", { numeric: true });
  };
  const isMissing = (cell) => ["", "–"].includes(cell.textContent.trim());
  const sort = (table, column, order) => {
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.matches(".group"));
      for (const row of rows) row.dataset.place ??= String(rows.indexOf(row));
      rows.sort((one, other) => {
        const [a, b] = [one.cells[column], other.cells[column]];
        if (!order) return one.dataset.place - other.dataset.place;
        if (isMissing(a) !== isMissing(b)) return isMissing(a) ? 1 : -1; // what is unknown stands last either way
        return order * compare(a, b) || one.dataset.place - other.dataset.place;
      });
      body.append(...rows);
    }
  };
  for (const table of document.querySelectorAll("table.sorts")) {
    if (![...table.tBodies].some((body) => body.querySelectorAll("tr:not(.group)").length > 1)) continue;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const order = { ascending: -1, descending: 0 }[head.getAttribute("aria-sort")] ?? 1;
        for (const other of heads) other.removeAttribute("aria-sort");
        if (order) head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
        sort(table, column, order);
      });
    });
  }
}
