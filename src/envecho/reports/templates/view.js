"use strict";
for (const view of document.querySelectorAll(".view")) {
  const detail = view.querySelector(".detail");
  const tokens = [...view.querySelectorAll(".t")];
  const place = new Map(tokens.map((token, index) => [token, index]));
  let chosen = null;
  for (const token of tokens) {
    token.dataset.says = token.title;
    token.removeAttribute("title");
    token.tabIndex = -1;
  }
  if (tokens.length) tokens[0].tabIndex = 0;
  const show = (token) => {
    const text = document.createElement("b");
    text.textContent = token.textContent.replaceAll("\n", "↵").slice(0, 60);
    detail.replaceChildren(text, ...token.dataset.says.split(" · ").map((part) => {
      const item = document.createElement("span");
      item.textContent = part;
      return item;
    }));
  };
  const choose = (token) => {
    if (chosen) { chosen.classList.remove("chosen"); chosen.tabIndex = -1; }
    chosen = token;
    tokens[0].tabIndex = -1;
    token.classList.add("chosen");
    token.tabIndex = 0;
    show(token);
  };
  const box = view.querySelector(".tokens");
  const on = (type, act) => box.addEventListener(type, (event) => {
    const token = event.target.closest(".t");
    if (token) act(token);
  });
  on("pointerover", show);
  on("click", choose);
  on("focusin", choose);
  box.addEventListener("pointerleave", () => { if (chosen) show(chosen); });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    let next = step && tokens[place.get(event.target) + step];
    while (next && next.hidden) next = tokens[place.get(next) + step];
    if (next) { event.preventDefault(); next.focus(); }
  });
}
const search = document.querySelector(".search");
if (search) {
  const most = 5000;
  const field = search.querySelector("input[type=search]");
  const isPattern = search.querySelector(".pattern input");
  const sources = [...search.querySelectorAll("input[name=source]")];
  const found = search.querySelector(".found");
  let hits = [];
  let now = -1;
  const pattern = () => {
    if (!field.value) return null;
    if (isPattern.checked) return new RegExp(field.value, "gm");
    return new RegExp(field.value.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&"), "giu");
  };
  const clear = () => {
    const parents = new Set();
    for (const mark of document.querySelectorAll("mark.hit")) {
      parents.add(mark.parentNode);
      mark.replaceWith(...mark.childNodes);
    }
    for (const parent of parents) parent.normalize();
    hits = [];
    now = -1;
  };
  const texts = function* () { // text nodes that stand side by side: in one turn, with nothing hidden between them
    for (const run of document.querySelectorAll(".run")) {
      let nodes = [];
      for (const token of run.querySelectorAll(".t")) {
        if (token.hidden) { yield nodes; nodes = []; continue; }
        const walk = document.createTreeWalker(token, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) nodes.push(walk.currentNode);
      }
      yield nodes;
    }
  };
  const wrap = (nodes, matches) => { // from the end, so that what comes before keeps its place
    const starts = [];
    let length = 0;
    for (const node of nodes) { starts.push(length); length += node.data.length; }
    const marked = [];
    let last = nodes.length - 1;
    for (const [start, end] of matches.reverse()) {
      const parts = [];
      while (last > 0 && starts[last] >= end) last -= 1;
      for (let k = last; k >= 0 && starts[k] + nodes[k].data.length > start; k -= 1) {
        const from = Math.max(start - starts[k], 0);
        const to = Math.min(end - starts[k], nodes[k].data.length);
        if (to <= from) continue;
        const middle = from ? nodes[k].splitText(from) : nodes[k];
        if (to - from < middle.data.length) middle.splitText(to - from);
        const mark = document.createElement("mark");
        mark.className = "hit";
        middle.replaceWith(mark);
        mark.append(middle);
        parts.unshift(mark);
      }
      if (parts.length) marked.unshift(parts);
    }
    return marked;
  };
  const say = () => {
    const count = hits.length < most ? hits.length.toLocaleString("en") : `first ${most.toLocaleString("en")}`;
    const what = hits.length === 1 ? "hit" : "hits";
    found.textContent = !field.value ? "" : now < 0 ? `${count} ${what}` : `${now + 1} of ${count} ${what}`;
  };
  const find = () => {
    clear();
    let wanted;
    try { wanted = pattern(); } catch { found.textContent = "no regular expression"; return; }
    for (const nodes of wanted ? texts() : []) {
      const matches = [];
      for (const match of nodes.map((node) => node.data).join("").matchAll(wanted)) {
        if (match[0] && hits.length + matches.length < most) matches.push([match.index, match.index + match[0].length]);
      }
      if (matches.length) hits.push(...wrap(nodes, matches));
    }
    say();
  };
  const go = (step) => {
    if (!hits.length) return;
    if (now >= 0) for (const mark of hits[now]) mark.classList.remove("now");
    now = now < 0 ? (step > 0 ? 0 : hits.length - 1) : (now + step + hits.length) % hits.length;
    for (const mark of hits[now]) mark.classList.add("now");
    hits[now][0].scrollIntoView({ block: "center" });
    say();
  };
  const filter = () => {
    const on = new Set(sources.filter((box) => box.checked).map((box) => box.value));
    for (const turn of document.querySelectorAll(".turn")) {
      const tokens = [...turn.querySelectorAll(".t")];
      for (const token of tokens) token.hidden = !on.has(token.dataset.source);
      turn.hidden = tokens.every((token) => token.hidden);
    }
    find();
  };
  let waiting = 0;
  field.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(find, 150); });
  isPattern.addEventListener("change", find);
  for (const box of sources) box.addEventListener("change", filter);
  search.addEventListener("submit", (event) => { event.preventDefault(); go(1); });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); go(event.shiftKey ? -1 : 1); }
  });
  for (const button of search.querySelectorAll("button")) {
    button.addEventListener("click", () => go(Number(button.dataset.step)));
  }
  search.hidden = false;
  filter();
}
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
