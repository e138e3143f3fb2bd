// The page's side of dashboard.py: shows its `view`, and sends it the buttons pressed and whether it is on screen.

const ACTIONS = ["start", "stop", "restart"];

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
  const picture = make("img", "rxcompact-picture", root);
  const letters = make("div", "rxcompact-letters", root);
  const buttons = ACTIONS.map((action) => {
    const button = make("button", "rxcompact-button", bar);
    button.type = "button";
    button.textContent = action;
    button.addEventListener("click", () => {
      for (const each of buttons) each.disabled = true; // until the next view enables some
      model.send({ action });
    });
    return button;
  });
  const notice = make("span", "rxcompact-notice", bar);
  notice.setAttribute("role", "status");

  function show() {
    const view = model.get("view");
    for (const button of buttons) button.disabled = !view.actions.includes(button.textContent);
    if (notice.textContent !== view.notice) notice.textContent = view.notice;
    if (picture.src !== view.picture) {
      // decoded before it replaces the last one: no flicker
      const next = new Image();
      next.src = view.picture;
      next.decode().then(() => {
        picture.src = next.src;
        picture.alt = view.title;
      }, () => {});
    }
    // escaped in Python; left alone while it is the same, so that it can be selected
    if (letters.dataset.html !== view.letters) {
      letters.dataset.html = view.letters;
      letters.innerHTML = view.letters;
    }
  }

  let on_screen = false;
  let sent = false;
  function send_shown() {
    const shown = on_screen && document.visibilityState === "visible";
    if (shown !== sent) {
      sent = shown;
      model.send({ view: id, shown });
    }
  }
  function leave() {
    on_screen = false;
    send_shown();
  }
  const observer = new IntersectionObserver((entries) => {
    on_screen = entries.at(-1).isIntersecting;
    send_shown();
  });

  show();
  model.on("change:view", show);
  observer.observe(root);
  document.addEventListener("visibilitychange", send_shown);
  window.addEventListener("pagehide", leave);
  return () => {
    model.off("change:view", show);
    observer.disconnect();
    document.removeEventListener("visibilitychange", send_shown);
    window.removeEventListener("pagehide", leave);
    leave();
  };
}

export default { render };
