// The window that shows a bearer token, the only time anyone sees it. Invariant: the token lives in this window's
// elements and closures alone. When the window closes they go, and nothing keeps it: no storage, no history, no log.

import { h, icon, quoted, uniqueId } from "./dom.js";
import { copyButton, openWindow, windowHead } from "./overlay.js";
import { snippets } from "./snippets.js";

/** Shows what was made, with `model` for a first try. `onUncopied` hears that it was closed before the token was copied. */
export function showCreated({ title: words = "API Key Created Successfully", name, token, url, warnings, model, onUncopied }) {
  const title = uniqueId("title");
  const caution = h("p", { id: uniqueId("caution"), class: "notice warn" });
  const cautionText = h("span");
  caution.append(icon("warning"), cautionText);
  cautionText.append(h("strong", {}, "Copy the token now: it is not shown again. "),
    "This window closes with Escape and with a click anywhere beside it.");
  let isCopied = false;
  const copied = () => {
    isCopied = true;
    caution.className = "notice good";
    cautionText.replaceChildren(h("strong", {}, "Copied. "), "Keep the token in a safe place; it is not shown again. You can close this window now.");
    caution.firstChild.replaceWith(icon("check"));
  };

  openWindow({
    kind: "created", label: title, describedBy: caution.id, onClose: () => isCopied || onUncopied(),
    build: (close) => {
      const window = h("div", { class: "created-body" },
        windowHead(title, words, close, { about: quoted(name) }),
        caution,
        (warnings ?? []).map((text) => h("p", { class: "notice warn" }, icon("info"), h("span", { dir: "auto" }, text))),
        secret("OpenAI Compatible URL", url),
        secret("Bearer Token", token, copied),
        tabs(snippets({ url, token, model }), copied));
      // Marked by hand and copied by the keyboard is copied too.
      window.addEventListener("copy", () => {
        if (String(getSelection()).includes(token)) copied();
      });
      return window;
    },
  });
  document.getElementById(title).firstChild.focus();
}

/** A text to copy, under its name. */
export function secret(name, text, onCopied) {
  const id = uniqueId("value");
  const shown = h("code", { class: "secret-text", role: "group", "aria-labelledby": id, translate: "no" }, text);
  return h("div", { class: "secret" },
    h("h3", { id }, name),
    h("div", { class: "secret-row" },
      shown,
      copyButton(() => text, name, { onCopied, shown: () => shown })));
}

/** Texts under tabs; arrow keys go from one to the next. */
function tabs(texts, onCopied) {
  const panelId = uniqueId("panel");
  const code = h("code", { translate: "no" });
  const panel = h("div", { id: panelId, class: "snippet", role: "tabpanel", tabindex: "0" }, h("pre", {}, code));
  let at = 0;
  const buttons = texts.map(({ name }, index) => h("button", {
    type: "button", role: "tab", id: uniqueId("tab"), "aria-controls": panelId,
    onclick: () => select(index),
  }, name));
  const select = (index) => {
    at = index;
    buttons.forEach((button, other) => {
      button.setAttribute("aria-selected", String(other === index));
      button.tabIndex = other === index ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", buttons[index].id);
    code.textContent = texts[index].text;
  };
  const list = h("div", { class: "tabs", role: "tablist", "aria-label": "Ready to use", onkeydown: (event) => {
    const last = buttons.length - 1;
    const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(to);
    buttons[to].focus();
  } }, buttons);
  select(0);
  return h("div", { class: "ready" },
    h("div", { class: "tabs-row" }, list, copyButton(() => texts[at].text, "this text", { onCopied, shown: () => code })), panel);
}
