// The search box over trajectories: hits in the drawn one, switches by source, and the list to choose another one from.
for (const search of document.querySelectorAll(".search")) {
  const most = 5000;
  const field = search.querySelector("input[type=search]");
  const isPattern = search.querySelector(".pattern input");
  const sources = [...search.querySelectorAll("input[name=source]")];
  const found = search.querySelector(".found");
  const list = document.querySelector(".list");
  const drawn = document.getElementById("drawn");
  const buttons = list ? [...list.querySelectorAll("button[data-view]")] : [];
  let hits = [];
  let now = -1;
  let elsewhere = "";
  const pattern = () => {
    if (!field.value) return null;
    if (isPattern.checked) return new RegExp(field.value, "gm");
    return new RegExp(field.value.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&"), "giu");
  };
  const sourcesOn = () => new Set(sources.filter((box) => box.checked).map((box) => box.value));
  const clear = () => {
    const parents = new Set();
    for (const mark of drawn.querySelectorAll("mark.hit")) {
      parents.add(mark.parentNode);
      mark.replaceWith(...mark.childNodes);
    }
    for (const parent of parents) parent.normalize();
    hits = [];
    now = -1;
  };
  const texts = function* () { // text nodes that stand side by side: in one turn, with nothing hidden between them
    for (const run of drawn.querySelectorAll(".run")) {
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
  const countIn = (data, wanted, on) => { // hits in a trajectory that is not drawn
    const writers = tokenView.writers(data);
    const turnOf = tokenView.turnOf(data);
    const runs = [];
    data.texts.forEach((text, token) => {
      if (!on.has(writers[token])) return;
      const follows = token > 0 && turnOf[token] === turnOf[token - 1] && on.has(writers[token - 1]);
      if (follows) runs[runs.length - 1].push(text); else runs.push([text]);
    });
    let number = 0;
    for (const run of runs) for (const match of run.join("").matchAll(wanted)) if (match[0]) number += 1;
    return number;
  };
  const findInList = (wanted) => {
    const on = sourcesOn();
    for (const part of list.querySelectorAll(".hits")) part.hidden = !wanted;
    let others = 0;
    for (const button of buttons) {
      const row = button.closest("tr");
      const number = wanted ? countIn(tokenView.data(button.dataset.view), wanted, on) : 0;
      row.querySelector("td.hits").textContent = wanted ? number.toLocaleString("en") : "";
      const isCurrent = button.ariaCurrent === "true";
      row.hidden = Boolean(wanted) && !number && !isCurrent && button.textContent.search(wanted) < 0;
      if (number && !isCurrent) others += 1;
    }
    elsewhere = wanted && others ? `, and in ${others} more of the list` : "";
  };
  const say = () => {
    const count = hits.length < most ? hits.length.toLocaleString("en") : `first ${most.toLocaleString("en")}`;
    const what = hits.length === 1 ? "hit" : "hits";
    found.textContent = !field.value ? "" : now < 0 ? `${count} ${what}${elsewhere}` : `${now + 1} of ${count} ${what}`;
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
    if (list) findInList(wanted);
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
    const on = sourcesOn();
    for (const turn of drawn.querySelectorAll(".turn")) {
      const tokens = [...turn.querySelectorAll(".t")];
      for (const token of tokens) token.hidden = !on.has(token.dataset.source);
      turn.hidden = tokens.every((token) => token.hidden);
    }
    find();
  };
  const choose = (button) => {
    for (const other of buttons) other.ariaCurrent = other === button ? "true" : null;
    const view = tokenView.draw(button.dataset.view);
    drawn.replaceChildren(view);
    tokenView.wire(view);
    filter();
  };
  let waiting = 0;
  field.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(find, 150); });
  isPattern.addEventListener("change", find);
  for (const box of sources) box.addEventListener("change", filter);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); go(event.shiftKey ? -1 : 1); }
  });
  for (const button of search.querySelectorAll("button")) {
    button.addEventListener("click", () => go(Number(button.dataset.step)));
  }
  for (const button of buttons) {
    button.addEventListener("click", () => choose(button));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const shown = [...list.querySelectorAll("tr:not([hidden]) button[data-view]")];
      shown[shown.indexOf(button) + step]?.focus();
    });
  }
  if (list) list.hidden = false;
  search.hidden = false;
  filter();
}
