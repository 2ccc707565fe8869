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
    const next = step && tokens[place.get(event.target) + step];
    if (next) { event.preventDefault(); next.focus(); }
  });
}
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
