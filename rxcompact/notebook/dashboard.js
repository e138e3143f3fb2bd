// The page's side of dashboard.py: shows its `view`, and sends it the buttons pressed and whether it is on screen.

const ACTIONS = ["start", "stop", "restart"];
const PATIENCE = 5; // seconds without news after which the page shows a notice
const DARK = "(prefers-color-scheme: dark)";

function make(name, kind, parent) {
  const element = document.createElement(name);
  element.className = kind;
  parent.append(element);
  return element;
}

function render({ model, el }) {
  const id = Math.random().toString(36).slice(2); // several cells may show the same dashboard
  const root = make("div", "rxcompact-dashboard", el);
  const bar = make("div", "rxcompact-bar", root);
  const picture = make("div", "rxcompact-picture", root);
  const letters = make("div", "rxcompact-letters", root);
  // elements of the page, with a style of their own: as an image each picture would be a document that stays in memory
  const shadow = picture.attachShadow({ mode: "open" });
  picture.setAttribute("role", "img");
  let updated = Date.now();
  let awaited = false; // the answer to a button
  const buttons = ACTIONS.map((action) => {
    const button = make("button", "rxcompact-button", bar);
    button.type = "button";
    button.textContent = action;
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

  function draw() {
    const view = model.get("view");
    // the picture is dark as the notebook's theme is; elsewhere as the browser asks
    const theme = document.body.dataset.jpThemeLight;
    const media = theme === undefined ? DARK : theme === "false" ? "all" : "not all";
    shadow.innerHTML = view.picture.replace(DARK, media);
    shadow.firstElementChild.style = "display:block;height:auto;max-width:100%";
    picture.setAttribute("aria-label", view.title);
    // escaped in Python; left alone while it is the same, so that it can be selected
    if (letters.dataset.html !== view.letters) {
      letters.dataset.html = view.letters;
      letters.innerHTML = view.letters;
    }
  }

  function show() {
    const view = model.get("view");
    updated = Date.now();
    awaited = false;
    for (const button of buttons) button.disabled = !view.actions.includes(button.textContent);
    if (notice.textContent !== view.notice) notice.textContent = view.notice;
    draw();
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
  const themes = new MutationObserver(draw);

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
