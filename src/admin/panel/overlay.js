// What lies over the page: windows, menus, bubbles, and the copy button that several of them have.
//
// Windows are the browser's own dialogs: it keeps the focus inside, hides the rest from screen readers, and gives the
// focus back to whatever had it.

import { h, icon, uniqueId } from "./dom.js";

/** A click this soon after a window opened was meant for what lay there before, as the second of a double click is. */
const SETTLED = 400;

/**
 * Opens a window. `build` gets a function that closes it and gives its content; `mayClose`, where given, is asked
 * before Escape, or a click beside it, closes it; `onClose` hears that it is gone, from the page too.
 */
export function openWindow({ kind, role, label, describedBy, build, mayClose = () => true, onClose = () => {} }) {
  const opened = performance.now();
  const dialog = h("dialog", { class: kind, role, "aria-labelledby": label, "aria-describedby": describedBy });
  let isGone = false;
  const close = () => {
    if (isGone) return;
    isGone = true;
    // Emptied at once, not when the browser gets round to telling: what a window showed may be a secret.
    dialog.close();
    dialog.replaceChildren();
    dialog.remove();
    open.delete(close);
    onClose();
    if (document.activeElement === document.body) document.getElementById("main").focus({ preventScroll: true });
  };
  const attempt = () => {
    if (mayClose()) close();
    return isGone;
  };
  const isBeside = (event) => {
    const box = dialog.getBoundingClientRect();
    return event.target === dialog && (event.clientX < box.left || event.clientX >= box.right
      || event.clientY < box.top || event.clientY >= box.bottom);
  };
  // A drag that began inside, to mark a text, does not close the window where it ends.
  let pressedBeside = false;
  dialog.addEventListener("pointerdown", (event) => { pressedBeside = isBeside(event); });
  dialog.addEventListener("click", (event) => {
    if (pressedBeside && isBeside(event) && performance.now() - opened > SETTLED) attempt();
  });
  // The browser lets a second Escape pass whatever the answer to the first was; this does not.
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    event.preventDefault();
    attempt();
  });
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    attempt();
  });
  dialog.addEventListener("close", close);
  document.body.append(dialog);
  dialog.append(...[build(close)].flat());
  dialog.showModal();
  open.set(close, attempt);
  return close;
}

/** How to close each open window, and how to ask it to. */
const open = new Map();

/** Closes every window that was opened here. */
export function closeWindows() {
  for (const close of open.keys()) close();
}

/** Asks every window to close; false where one of them holds something that would be lost. */
export function askWindowsToClose() {
  return [...open.values()].every((attempt) => attempt());
}

/** A window's first line, with its cross. */
export function windowHead(id, title, close, { about = null } = {}) {
  return h("header", { class: "window-head" },
    h("div", { id }, h("h2", { tabindex: "-1" }, title), about && h("p", { class: "about" }, about)),
    h("button", { type: "button", class: "icon-button", "aria-label": "Close", onclick: close }, icon("close")));
}

/** Asks before something that cannot be taken back. `act` may throw: the window stays, and says what came back. */
export function confirm({ title, body, ok, okLabel = null, isDanger = true, act, onCancel = () => {} }) {
  const [label, text] = [uniqueId("title"), uniqueId("text")];
  const fault = h("p", { class: "notice bad", role: "alert", hidden: true });
  let [busy, isDone] = [false, false];
  openWindow({
    onClose: () => isDone || onCancel(),
    kind: "confirm", role: "alertdialog", label, describedBy: text,
    mayClose: () => !busy,
    build: (close) => {
      const cancel = h("button", { type: "button", class: "button", autofocus: true, onclick: () => busy || close() }, "Cancel");
      const go = h("button", { type: "button", class: `button ${isDanger ? "danger" : "primary"}`, "aria-label": okLabel, onclick: async () => {
        if (busy) return;
        busy = true;
        setBusy(go, true);
        try {
          await act();
          isDone = true;
          close();
        } catch (error) {
          fault.textContent = error.message;
          fault.hidden = false;
        } finally {
          busy = false;
          setBusy(go, false);
        }
      } }, ok);
      return [
        h("h2", { id: label }, title),
        h("div", { id: text, class: "confirm-text" }, body),
        fault,
        h("div", { class: "actions" }, cancel, go),
      ];
    },
  });
}

/** Shows that a button is at work; it keeps the focus, and its clicks are its owner's to ignore. */
export function setBusy(button, busy) {
  button.classList.toggle("busy", busy);
  if (busy) button.setAttribute("aria-disabled", "true");
  else button.removeAttribute("aria-disabled");
}

/** A menu under a button: [{text, icon, act, danger}]. Arrow keys move, Escape and a click elsewhere close. */
export function openMenu(button, label, items) {
  const menu = h("div", { class: "menu", role: "menu", popover: "auto", "aria-label": label });
  const buttons = items.map(({ text, icon: name, act, danger }) =>
    h("button", { type: "button", role: "menuitem", tabindex: "-1", class: danger && "danger", onclick: () => {
      menu.hidePopover();
      button.focus();
      act();
    } }, icon(name), text));
  menu.append(...buttons);
  menu.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      buttons.at(to % buttons.length).focus();
    } else if (event.key === "Tab") {
      menu.hidePopover();
      button.focus();
    }
  });
  menu.addEventListener("toggle", (event) => {
    const isOpen = event.newState === "open";
    button.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) return;
    gone.abort();
    menu.remove();
  });
  // Not beside its button: rows may be drawn anew while it is open.
  document.getElementById("main").append(menu);
  menu.showPopover();
  const [from, own] = [button.getBoundingClientRect(), menu.getBoundingClientRect()];
  const below = from.bottom + 4 + own.height <= innerHeight;
  menu.style.top = `${below ? from.bottom + 4 : Math.max(8, from.top - 4 - own.height)}px`;
  menu.style.left = `${Math.max(8, from.right - own.width)}px`;
  // It stands where the button was; when that moves away, so does its reason.
  const gone = new AbortController();
  addEventListener("scroll", () => {
    if (Math.abs(button.getBoundingClientRect().top - from.top) > 8) menu.hidePopover();
  }, { capture: true, passive: true, signal: gone.signal });
  buttons[0].focus({ preventScroll: true });
}

/**
 * A bubble at the bottom. Good news goes by itself; bad news, and what `stays`, until it is put away. The answer puts it
 * away too.
 */
export function toast(content, { bad = false, stays = false } = {}) {
  const shelf = document.getElementById("toasts");
  // Shown anew, it lies over windows that were opened since.
  if (shelf.matches(":popover-open")) shelf.hidePopover();
  shelf.showPopover();
  const put = () => {
    bubble.remove();
    if (!shelf.querySelector(".toast")) shelf.hidePopover();
  };
  const text = h("p", {}, content);
  const bubble = h("div", { class: `toast ${bad ? "bad" : "good"}` },
    icon(bad ? "warning" : "check"), text,
    h("button", { type: "button", class: "icon-button", "aria-label": "Put away", onclick: put }, icon("close")));
  shelf.append(bubble);
  // Screen readers listen to places that were there before, not to what has only just appeared.
  const place = document.getElementById(bad ? "said-urgently" : "said");
  place.textContent = "";
  setTimeout(() => { place.textContent = text.textContent; }, 50);
  if (bad || stays) return put;
  let timer = setTimeout(put, 6000);
  const hold = () => clearTimeout(timer);
  const release = () => { timer = setTimeout(put, 3000); };
  bubble.addEventListener("pointerenter", hold);
  bubble.addEventListener("pointerleave", release);
  bubble.addEventListener("focusin", hold);
  bubble.addEventListener("focusout", release);
  return put;
}

/** Takes all bubbles away. */
export function clearToasts() {
  for (const bubble of document.querySelectorAll(".toast")) bubble.remove();
  for (const id of ["said", "said-urgently"]) document.getElementById(id).textContent = "";
}

/**
 * A button that copies what `text` gives and says "Copied"; `label` tells a screen reader what it copies. Where the browser does
 * not let it copy, the text in the element that `shown` gives is selected.
 */
export function copyButton(text, label, { onCopied = () => {}, className = "button small", shown = null } = {}) {
  const words = h("span", {}, "Copy");
  const said = h("span", { class: "unseen", role: "status" });
  let timer;
  const button = h("button", { type: "button", class: `${className} copy`, "aria-label": `Copy ${label}`, onclick: async () => {
    const done = await copy(text(), button);
    button.classList.toggle("done", done);
    button.replaceChildren(icon(done ? "check" : "warning"), words);
    words.textContent = done ? "Copied" : "Press Ctrl+C";
    button.setAttribute("aria-label", done ? `Copied ${label}` : `Copy ${label}`);
    said.textContent = done ? "Copied" : "The browser did not let this page copy. The text is selected: press Ctrl+C.";
    if (!done && shown) getSelection().selectAllChildren(shown());
    if (done) onCopied();
    clearTimeout(timer);
    timer = setTimeout(() => {
      button.classList.remove("done");
      button.replaceChildren(icon("copy"), words);
      words.textContent = "Copy";
      button.setAttribute("aria-label", `Copy ${label}`);
      said.textContent = "";
    }, 2500);
  } }, icon("copy"), words);
  return h("span", { class: "copy-place" }, button, said);
}

async function copy(text, near) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain HTTP from another machine there is no clipboard but this old way to it. The field has to lie within
    // the open window, since nothing outside it can be marked.
    const field = h("textarea", { class: "unseen", readonly: true, tabindex: "-1", "aria-hidden": "true" });
    field.value = text;
    near.after(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    near.focus();
    return done;
  }
}
