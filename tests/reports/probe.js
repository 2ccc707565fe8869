// What test_report_in_a_browser.py asks of a report: it stands in a frame of the probe's page.
const told = {};
const frame = document.getElementById("page");
const canonical = (node) => { // markup without the blanks between elements, attributes in one order
  if (node.nodeType === Node.TEXT_NODE) {
    return node.parentElement.closest(".t") || node.data.trim() ? JSON.stringify(node.data) : "";
  }
  const attributes = [...node.attributes].map(({ name, value }) => `${name}=${JSON.stringify(value)}`).sort().join(" ");
  return `<${node.localName} ${attributes}>${[...node.childNodes].map(canonical).join("")}</>`;
};
const boxes = (page) => {
  const found = {};
  const left = page.documentElement.getBoundingClientRect();
  for (const part of page.querySelectorAll("header, section[id], .tile, figure, .list, .tokens, .search")) {
    const box = part.getBoundingClientRect();
    const name = part.id || part.className || part.localName;
    const number = Object.keys(found).filter((key) => key.split("#")[0] === name).length;
    found[`${name}#${number}`] = [box.x - left.x, box.width, box.height].map(Math.round);
  }
  return found;
};
const inert = (page, win) => ({
  hacked: win.hacked === undefined && win.top.hacked === undefined ? 0 : 1,
  scripts: [...page.scripts].filter((script) => script.type !== "application/json").length,
  styles: page.querySelectorAll("style").length,
  foreign: page.querySelectorAll("img, iframe, object, embed, link, a, form, base").length,
  handlers: [...page.querySelectorAll("*")].filter((e) => [...e.attributes].some((a) => a.name.startsWith("on"))).length,
});
frame.onload = () => {
  const page = frame.contentDocument;
  const win = frame.contentWindow;
  told.loaded = Math.round(win.performance.getEntriesByType("navigation")[0].loadEventEnd);
  told.height = page.documentElement.scrollHeight; // the layout is part of opening
  told.opened = Math.round(win.performance.now());
  told.wide = boxes(page);

  const drawn = page.getElementById("drawn");
  const buttons = [...page.querySelectorAll("button[data-view]")];
  const first = canonical(drawn.querySelector(".view"));
  const start = win.performance.now();
  buttons[1].click();
  told.drawing = Math.round(win.performance.now() - start);
  told.second = drawn.querySelector("h3").textContent;
  told.hostile = drawn.querySelector(".tokens").textContent.includes("<script>window.hacked");
  told.current = buttons.map((button) => button.ariaCurrent).indexOf("true");
  drawn.querySelectorAll(".t")[3].click();
  told.detail = drawn.querySelector(".detail").children.length;
  told.inert = inert(page, win);
  buttons[0].click();
  told.redrawn = canonical(drawn.querySelector(".view")) === first;

  const press = (target, key) => (
    target.dispatchEvent(new win.KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }))
  );
  const token = drawn.querySelector(".t");
  token.focus();
  press(token, "ArrowRight");
  told.focus = [...drawn.querySelectorAll(".t")].indexOf(page.activeElement);
  buttons[0].focus();
  press(buttons[0], "ArrowDown");
  told.listFocus = buttons.indexOf(page.activeElement);

  const field = page.querySelector("input[type=search]");
  const pattern = page.querySelector(".pattern input");
  const find = (text) => {
    field.value = text;
    pattern.dispatchEvent(new win.Event("change"));
    return buttons.filter((button) => !button.closest("tr").hidden).length;
  };
  told.listed = [find("window.hacked"), find("no such words"), find("new_boxes-004"), find("")];
  told.found = page.querySelector(".found").textContent;

  const table = page.querySelector("[aria-labelledby=t-headline] table");
  const head = table.tHead.rows[0].cells[1];
  const column = () => [...table.tBodies[0].querySelectorAll("tr:not(.group)")].map((row) => row.cells[1].dataset.value);
  const sorted = [column()];
  for (let k = 0; k < 3; k += 1) {
    head.querySelector("button").click();
    sorted.push(column(), head.getAttribute("aria-sort"));
  }
  told.sorted = sorted;
  const words = page.querySelector("[aria-labelledby=t-headline] thead th button");
  words.focus();
  told.headFocus = page.activeElement === words;

  frame.style.width = "390px";
  told.narrowWidth = page.documentElement.scrollWidth;
  told.narrow = boxes(page);
  told.margin = win.getComputedStyle(page.body).margin;
  document.title = JSON.stringify(told);
};
