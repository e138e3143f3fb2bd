// The page's side of dashboard.py: draws the numbers of its `view`, and sends it the buttons pressed and whether it is
// on screen.

const ACTIONS = ["start", "stop", "restart"];
const PATIENCE = 5; // seconds without news after which the page shows a notice
const DARK = "(prefers-color-scheme: dark)";
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 960;
const MARGIN = 20;
const HALF = 440; // width of each of two charts
const MINUTE = 60;
const BASE = 214; // of the bars of ages

function make(name, kind, parent, text = "") {
  const element = document.createElement(name);
  element.className = kind;
  element.textContent = text;
  parent.append(element);
  return element;
}

// The picture of a view: the same as that of snapshot.py, and a hint wherever there are more numbers.
function drawing(view) {
  const parts = [];
  function add(name, attributes, hint = "", text = "") {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    if (hint) {
      const title = document.createElementNS(SVG, "title");
      title.textContent = hint;
      element.append(title);
    }
    parts.push(element);
  }
  const write = (text, x, y, kind, hint) => add("text", { x, y, class: kind }, hint, text);
  const box = (x, y, width, height, kind, hint) => {
    if (width > 0) add("rect", { x, y, width, height, class: kind }, hint);
  };

  const height = view.errors.length ? 334 : 312;
  box(0.5, 0.5, WIDTH - 1, height - 1, "paper");
  parts[0].setAttribute("rx", 8);
  write(view.title, MARGIN, 27, "title");
  let right = WIDTH - MARGIN;
  for (const [label, hint] of view.stages.toReversed()) {
    write(label, right, 27, "quiet end", hint);
    right -= 7 * (label.length + 3);
  }
  view.tiles.forEach(([number, name, note], index) => {
    const x = MARGIN + (index * (WIDTH - 2 * MARGIN)) / view.tiles.length;
    write(name, x, 56, "quiet");
    write(number, x, 80, "number", note);
    write(note, x, 97, "quiet");
  });

  const end = view.rates.at(-1)?.[1] ?? 0;
  const recent = view.rates.filter((rate) => rate[1] > end - MINUTE);
  [["received", "bar", 2, 128], ["published", "published", 3, 180]].forEach(([name, kind, column, y]) => {
    const most = Math.max(0, ...recent.map((rate) => rate[column]));
    write(`${name}, at most ${Math.round(most).toLocaleString("en")}/s in the last minute`, MARGIN, y + 5, "quiet");
    add("line", { x1: MARGIN, x2: MARGIN + HALF, y1: y + 40, y2: y + 40, class: "lane" });
    for (const rate of recent) {
      const [from, to] = [rate[0], rate[1]].map((at) => HALF * Math.max(0, 1 - (end - at) / MINUTE));
      const tall = rate[column] && Math.max(1, (28 * rate[column]) / most);
      const hint = `${rate[column].toFixed(1)}/s, ${Math.round(end - rate[1])} s ago`;
      if (tall) box(MARGIN + from, y + 40 - tall, Math.max(0.8, to - from - 0.8), tall, kind, hint);
    }
  });

  const left = WIDTH - MARGIN - HALF;
  const bars = view.ages.map(([label, count], index) => [index, count, "bar", `${count} were up to ${label} old`]);
  bars.push([bars.length + 1, view.too_old, "expired", `${view.too_old} were older than ${view.max_age}`]);
  const most = Math.max(1, ...bars.map(([, count]) => count));
  const step = HALF / (bars.length + 1);
  const limit = left + step * (bars.length - 0.5);
  write(`age when published: ${view.age}`, left, 133, "quiet");
  add("line", { x1: left, x2: left + HALF, y1: BASE, y2: BASE, class: "lane" });
  add("line", { x1: limit, x2: limit, y1: 142, y2: BASE, class: "state" });
  for (const [place, count, kind, hint] of bars) {
    const tall = count && Math.max(1.5, (68 * count) / most);
    if (count) box(left + place * step, BASE - tall, step - 1.5, tall, kind, hint);
  }
  for (const [label, place] of view.age_ticks) write(label, left + place * step, BASE + 13, "small middle");
  write(`max_age ${view.max_age}`, left + HALF, BASE + 13, "small end");

  let x = MARGIN;
  const distinct = Math.max(1, view.outcomes.reduce((sum, [, count]) => sum + count, 0));
  view.outcomes.forEach(([name, count], index) => {
    const kind = name === "in_flight" ? "faded" : name;
    const text = `${name.replace("_", " ")} ${count.toLocaleString("en")}`;
    const width = ((WIDTH - 2 * MARGIN) * count) / distinct;
    box(x, 258, width, 12, kind, `${text}, ${((100 * count) / distinct).toFixed(1)}%`);
    box(MARGIN + index * 152, 281, 10, 10, kind);
    write(text, MARGIN + index * 152 + 15, 290, "");
    x += width;
  });
  if (view.errors.length) write(`last errors: ${view.errors}`, MARGIN, 322, "quiet");
  return [parts, height];
}

function render({ model, el }) {
  const id = Math.random().toString(36).slice(2); // several cells may show the same dashboard
  const root = make("div", "rxcompact-dashboard", el);
  const bar = make("div", "rxcompact-bar", root);
  const picture = make("div", "rxcompact-picture", root);
  const tables = make("div", "rxcompact-letters", root);
  // elements of the page, with a style of their own: as an image each picture would be a document that stays in memory
  const shadow = picture.attachShadow({ mode: "open" });
  const style = make("style", "", shadow);
  const svg = document.createElementNS(SVG, "svg");
  svg.style = "display:block;height:auto;max-width:100%";
  svg.setAttribute("width", WIDTH);
  shadow.append(svg);
  picture.setAttribute("role", "img");
  let updated = Date.now();
  let awaited = false; // the answer to a button
  const buttons = ACTIONS.map((action) => {
    const button = make("button", "rxcompact-button", bar, action);
    button.type = "button";
    button.addEventListener("click", () => {
      for (const each of buttons) each.disabled = true; // until the next view enables some
      updated = Date.now();
      awaited = true;
      model.send({ action });
    });
    return button;
  });
  const notice = make("span", "rxcompact-notice", bar);
  notice.setAttribute("role", "status");

  function restyle() {
    // the picture is dark as the notebook's theme is; elsewhere as the browser asks
    const theme = document.body.dataset.jpThemeLight;
    const media = theme === undefined ? DARK : theme === "false" ? "all" : "not all";
    style.textContent = model.get("look").replace(DARK, media);
  }

  const opened = new Set(); // causes whose keys are shown
  function list(view) {
    // left alone while it is the same, so that it can be selected
    const text = JSON.stringify([view.causes, view.top]);
    if (tables.dataset.shown === text) return;
    tables.dataset.shown = text;
    tables.replaceChildren();
    if (view.causes.length) make("b", "", make("div", "", tables), "Dead letters, by outcome, stage and reason");
    for (const [outcome, stage, reason, count, keys] of view.causes) {
      const name = `${outcome} at ${stage}${reason && `: ${reason}`}`;
      const cause = make("details", "", tables);
      cause.open = opened.has(name);
      cause.addEventListener("toggle", () => (cause.open ? opened.add(name) : opened.delete(name)));
      make("summary", "", cause, `${count.toLocaleString("en")} × ${name}`);
      make("div", "rxcompact-keys", cause, keys.length ? `the last: ${keys.join(", ")}` : "no key is remembered");
    }
    if (view.top.length) {
      const top = view.top.map(([key, count]) => `${key} × ${count.toLocaleString("en")}`).join(" · ");
      make("b", "", make("div", "", tables), "Most frequent keys of the last minute");
      make("div", "rxcompact-keys", tables, top);
    }
  }

  function show() {
    const view = model.get("view");
    updated = Date.now();
    awaited = false;
    for (const button of buttons) button.disabled = !view.actions.includes(button.textContent);
    if (notice.textContent !== view.notice) notice.textContent = view.notice;
    const [parts, height] = drawing(view);
    svg.replaceChildren(...parts);
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
    const [received, published] = view.tiles;
    const brief = [received, published].map(([number, name, note]) => `${name} ${number}, ${note}`);
    picture.setAttribute("aria-label", [view.title, ...brief].join("; "));
    list(view);
  }

  let on_screen = false;
  let sent = false;
  function send_shown() {
    const shown = on_screen && document.visibilityState === "visible";
    if (shown !== sent) {
      sent = shown;
      updated = Date.now();
      model.send({ view: id, shown });
    }
  }
  function leave() {
    on_screen = false;
    send_shown();
  }
  function look() {
    const silent = Math.round((Date.now() - updated) / 1000);
    if ((awaited || (sent && model.get("view").live)) && silent >= PATIENCE) {
      notice.textContent = `no news for ${silent} s: the kernel is busy, or was restarted; then run the cell again`;
    }
  }
  const observer = new IntersectionObserver((entries) => {
    on_screen = entries.at(-1).isIntersecting;
    send_shown();
  });
  const themes = new MutationObserver(restyle);

  restyle();
  show();
  model.on("change:view", show);
  observer.observe(root);
  themes.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
  const timer = setInterval(look, 1000);
  document.addEventListener("visibilitychange", send_shown);
  window.addEventListener("pagehide", leave);
  return () => {
    model.off("change:view", show);
    observer.disconnect();
    themes.disconnect();
    clearInterval(timer);
    document.removeEventListener("visibilitychange", send_shown);
    window.removeEventListener("pagehide", leave);
    leave();
  };
}

export default { render };
