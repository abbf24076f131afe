// Tools of every page: tables that sort, are searched and saved; figures that are saved.
"use strict";

function save(name, href) {
  const link = document.createElement("a");
  link.download = name;
  link.href = href;
  link.click();
}

function saveText(name, text, type) {
  const href = URL.createObjectURL(new Blob([text], { type }));
  save(name, href);
  setTimeout(() => URL.revokeObjectURL(href), 10000);
}

// Text that the page holds deflated, in base64.
async function inflate(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

function csv(rows) {
  const quoted = (value) => /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  return rows.map((row) => row.map((value) => quoted(String(value ?? ""))).join(",") + "\n").join("");
}

function fileName(words) {
  return words.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "table";
}

function button(words, action, label) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = words;
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

// A cell's number or text; counts have suffixes such as 417M.
function cellValue(row, column) {
  const cell = row.cells[column];
  const words = (cell.firstElementChild?.tagName === "SPAN" ? cell.firstElementChild : cell.firstChild)?.textContent.trim() ?? "";
  const found = /^[<−-]?\s*\d[\d.,]*(e[-+]?\d+)?\s*([kMBT%]?)$/.exec(words);
  if (!found) return words;
  const size = { k: 1e3, M: 1e6, B: 1e9, T: 1e12 }[found[2]] ?? 1;
  return parseFloat(words.replace("−", "-").replace(/[<,\s]/g, "")) * size;
}

function compareCells(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b, undefined, { numeric: true });
}

function sortBy(table, column, head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => [cellValue(row, column), row]);
  rows.sort(([a], [b]) => (down ? -1 : 1) * compareCells(a, b));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function equip(table) {
  const title = table.closest(".scroll").previousElementSibling?.textContent ?? "table";
  const rows = [...table.tBodies[0].rows];
  const tools = document.createElement("div");
  tools.className = "tools";
  if (rows.length > 5) {
    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "search";
    search.setAttribute("aria-label", `Search ${title}`);
    search.addEventListener("input", () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
    tools.append(search, " ");
  }
  const cells = (row) => [...row.cells].map((cell) => [...cell.childNodes].map((node) => node.textContent.trim()).filter(Boolean).join(" "));
  tools.append(button("CSV", () => {
    const shown = [...table.rows].filter((row) => !row.hidden);
    saveText(`${fileName(title)}.csv`, csv(shown.map(cells)), "text/csv");
  }, `Save ${title} as CSV`));
  table.closest(".scroll").before(tools);
  if (rows.length < 2) return;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const sort = button(head.textContent, () => sortBy(table, column, head));
    head.replaceChildren(sort);
  });
}

for (const table of document.querySelectorAll(".scroll table")) equip(table);
for (const image of document.querySelectorAll("figure img")) {
  const figure = image.closest("figure"), vector = figure.querySelector(".vector");
  const title = figure.querySelector("b")?.textContent ?? "figure";
  const tools = document.createElement("div");
  tools.className = "tools";
  tools.append(button("PNG", () => save(`${fileName(title)}.png`, image.src), `Save ${title} as PNG`));
  if (vector && window.DecompressionStream) tools.append(button("SVG", async () => saveText(`${fileName(title)}.svg`, await inflate(vector.textContent), "image/svg+xml"), `Save ${title} as SVG`));
  image.after(tools);
}
