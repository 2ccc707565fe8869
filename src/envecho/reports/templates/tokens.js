// A drawn trajectory: its detail line and keyboard, and drawing another one from its data (see token_views.view_data).
const tokenView = {};
{
  const element = (tag, attributes, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  tokenView.wire = (view) => {
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
      const text = element("b", {}, token.textContent.replaceAll("\n", "↵").slice(0, 60));
      detail.replaceChildren(text, ...token.dataset.says.split(" · ").map((part) => element("span", {}, part)));
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
  };

  const count = (value) => value.toLocaleString("en");
  const capital = (text) => text[0].toUpperCase() + text.slice(1);
  const flat = function* (runs) { for (const [value, length] of runs) for (let k = 0; k < length; k += 1) yield value; };
  const probability = (nats) => {
    const percent = 100 * Math.exp(-nats);
    return percent >= 0.1 ? `${percent.toFixed(1)} %` : `${percent.toExponential(1).replace("e+", "e")} %`;
  };
  const facts = document.getElementById("token-facts");
  const { sources, levels } = facts ? JSON.parse(facts.textContent) : {};
  const known = new Map();
  tokenView.data = (index) => {
    if (!known.has(index)) known.set(index, JSON.parse(document.getElementById(`view-${index}`).textContent));
    return known.get(index);
  };
  // Which source wrote each token of a view, and in which turn it is.
  tokenView.writers = (data) => [...flat(data.sources)].map((place) => sources[place][0]);
  tokenView.turnOf = (data) => [...flat(data.turns)];

  const span = (text, classes, source, title) => {
    const made = element("span", { class: classes, "data-source": source, title });
    const lines = text.split("\n");
    lines.forEach((line, number) => {
      const shown = number ? `\n${line}` : line;
      if (shown) made.append(shown);
      if (number < lines.length - 1) made.append(element("i", { class: "nl" }));
    });
    return made;
  };
  const spans = (data) => {
    const sourceOf = [...flat(data.sources)];
    const turnOf = tokenView.turnOf(data);
    const classes = sourceOf.map((place) => ["t", sources[place][1], ...(sources[place][0] === "redacted" ? ["redacted"] : [])]);
    const titles = sourceOf.map((place, token) => [sources[place][0], `turn ${turnOf[token]}`]);
    [...flat(data.weights || [])].forEach((weight, token) => {
      if (!weight) return;
      classes[token].push("trained");
      titles[token].push(`trained, weight ${weight}`);
    });
    data.nll.forEach((runs, number) => {
      for (const [start, ...values] of runs) {
        values.forEach((thousandths, offset) => {
          const nats = thousandths / 1000;
          classes[start + offset].push(`p${number}-${levels.filter((level) => level < nats).length}`);
          titles[start + offset].push(`${data.predictors[number]} ${nats.toFixed(3)} nats, p = ${probability(nats)}`);
        });
      }
    });
    return data.texts.map((text, token) => (
      span(text, classes[token].join(" "), sources[sourceOf[token]][0], titles[token].join(" · "))
    ));
  };
  const turns = (data) => {
    const made = spans(data);
    let start = 0;
    return data.turns.map(([turn, length]) => {
      const label = turn < 0 ? [] : [element("span", { class: "sr" }, "turn "), String(turn)];
      const run = element("div", { class: "run" }, ...made.slice(start, start + length));
      start += length;
      return element("div", { class: "turn" }, element("span", { class: "turn-number" }, ...label), run);
    });
  };
  const shades = (data) => {
    if (!data.predictors.length) return [];
    const choices = [...data.predictors.map((name, number) => [name, `p${number}`]), ["nothing", "none"]];
    const labels = choices.map(([name, kind], number) => {
      const input = element("input", { type: "radio", name: "view", class: kind });
      if (number < data.predictors.length && name === data.chosen) input.setAttribute("checked", "");
      return element("label", {}, input, element("span", {}, name));
    });
    return [element("fieldset", { class: "shade" }, element("legend", {}, "Shade by"), ...labels)];
  };
  const counts = (data) => {
    const unit = capital(data.unit);
    const roles = data.roles.flatMap(([role, label, number], place) => (
      [...(place ? [", "] : []), element("span", { class: role }, `${label} ${count(number)}`)]
    ));
    const head = ["Source", "Role", unit, "Share"].map((text) => element("th", { scope: "col" }, text));
    const rows = data.counts.map(([source, role, number, part]) => element("tr", {},
      element("th", { scope: "row" }, source), element("td", { class: role }, role),
      element("td", {}, count(number)), element("td", {}, part)));
    const table = element("table", {}, element("caption", { class: "sr" }, `${unit} per source`),
      element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
    const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": `${unit} per source` };
    return element("details", { class: "counts" },
      element("summary", {}, `${unit} per role and source: `, ...roles), element("div", region, table));
  };
  const notes = (data) => [
    ...(data.left ? [`${count(data.left)} more ${data.unit} are not drawn here.`] : []),
    ...(data.trained === null ? [] : [`${count(data.trained)} tokens are trained; they are underlined.`]),
  ].map((text) => element("p", { class: "note" }, text));
  tokenView.draw = (index) => {
    const data = tokenView.data(index);
    const box = { class: "tokens", role: "group", "aria-label": `${capital(data.unit)} of ${data.label}` };
    const hint = "Point at a piece of text, tap it, or move with the arrow keys: who wrote it, in which turn, and what it cost.";
    return element("article", { class: "view", "aria-labelledby": "view-h" },
      element("h3", { id: "view-h" }, data.label), ...shades(data), element("div", box, ...turns(data)),
      element("output", { class: "detail", "aria-live": "polite" }, hint), ...notes(data), counts(data));
  };
  for (const view of document.querySelectorAll(".view")) tokenView.wire(view);
}
