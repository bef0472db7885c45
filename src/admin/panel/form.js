// The pane in which a key or an account is made or changed. Invariant: whatever the gateway answers, what was typed stays
// typed; only creating, saving, or a deliberate "Discard" puts it away.

import { ApiError, call, isNews } from "./api.js";
import { h, icon, uniqueId } from "./dom.js";
import { openWindow, setBusy, windowHead } from "./overlay.js";

/**
 * Opens the pane. `what` it is about, in a word; `path` is that of all of them. `present()` gives the one that is changed, null
 * for a new one; `parts` are its fields by their names; `fieldOf(error)` names the field of a refusal that names none;
 * `unsure` is said where nobody knows whether it was made; `reopen(present)` opens the pane anew; `onSaved` gets the gateway's
 * answer once the pane is closed.
 */
export function openForm({ what, title: words, ok = null, about = null, facts = null, path, present = () => null, parts, fieldOf = () => null, unsure = null, reopen, onSaved }) {
  const title = uniqueId("title");
  const before = values(parts);
  const isNew = present() === null;
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const go = h("button", { type: "submit", class: "button primary" }, ok ?? (isNew ? "Create" : "Save"));
  const doubt = h("div", { class: "doubt", hidden: true });
  const actions = h("div", { class: "actions" });
  const address = () => `${path}/${encodeURIComponent(present().id)}`;
  let busy = false;

  const isChanged = () => JSON.stringify(values(parts)) !== JSON.stringify(before)
    || Object.values(parts).some((part) => part.pending?.());
  const mayClose = () => {
    if (busy) return false;
    if (!isChanged()) return true;
    actions.hidden = true;
    doubt.hidden = false;
    doubt.querySelector("button").focus();
    return false;
  };

  openWindow({
    kind: "pane", label: title, mayClose,
    build: (close) => {
      const attempt = () => mayClose() && close();
      actions.append(h("button", { type: "button", class: "button", onclick: attempt }, "Cancel"), go);
      doubt.append(
        h("p", {}, isNew ? "Discard what you typed?" : "Discard your changes?"),
        h("button", { type: "button", class: "button", onclick: () => {
          doubt.hidden = true;
          actions.hidden = false;
          go.focus();
        } }, "Keep editing"),
        h("button", { type: "button", class: "button danger", onclick: close }, "Discard"));
      const submit = async (event) => {
        event.preventDefault();
        if (busy) return;
        trouble.hidden = true;
        const faulty = Object.values(parts).filter((part) => !part.settle());
        if (faulty.length > 0) {
          faulty[0].focus();
          return;
        }
        const wanted = values(parts);
        if (!isNew && !isChanged()) {
          close();
          return;
        }
        busy = true;
        setBusy(go, true);
        try {
          const answer = isNew ? await call("POST", path, wanted)
            : await call("PATCH", address(), changes(before, wanted), { revision: present().revision });
          busy = false;
          close();
          onSaved(answer);
        } catch (error) {
          busy = false;
          if (isNews(error)) complain(error);
        } finally {
          setBusy(go, false);
        }
      };
      const complain = (error) => {
        // A faulty key file names fields too, but of its own lines.
        const name = error.faults ? null : error.field?.split(/[.[]/)[0] ?? fieldOf(error);
        const part = parts[name];
        if (part) {
          const message = error.message.startsWith(`${error.field}: `) ? error.message.slice(error.field.length + 2) : error.message;
          part.complain(sentence(message));
          part.focus();
          return;
        }
        if (error.status === 412) {
          changedMeanwhile();
          return;
        }
        const lead = error.inForce ? "" : !isNew ? "Nothing was changed. " : error instanceof ApiError ? `No ${what} was created. ` : "";
        trouble.replaceChildren(icon("warning"), h("div", {},
          h("p", {}, h("strong", {}, lead), error.message),
          isNew && unsure && !(error instanceof ApiError) && h("p", {}, unsure)));
        trouble.hidden = false;
        trouble.scrollIntoView({ block: "nearest" });
      };
      /** What was typed stays until the present values are asked for. */
      const changedMeanwhile = () => {
        const load = h("button", { type: "button", class: "button", onclick: async () => {
          setBusy(load, true);
          try {
            const loaded = await call("GET", address());
            close();
            reopen(loaded);
          } catch (error) {
            setBusy(load, false);
            if (isNews(error)) complain(error);
          }
        } }, "Load the present values");
        trouble.replaceChildren(icon("warning"), h("div", {},
          h("p", {}, h("strong", {}, "Nothing was saved. "), `This ${what} was changed meanwhile, in another window or by somebody else. `
            + "Loading the present values replaces what you typed."),
          load));
        trouble.hidden = false;
        load.focus();
      };
      return h("form", { class: "pane-form", novalidate: true, onsubmit: submit },
        windowHead(title, words, attempt, { about }),
        h("div", { class: "pane-body" }, facts, Object.values(parts).map((part) => part.element)),
        h("footer", { class: "pane-foot" }, trouble, actions, doubt));
    },
  });
  Object.values(parts)[0].focus();
}

function values(parts) {
  return Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, part.value()]));
}

function changes(before, wanted) {
  return Object.fromEntries(Object.entries(wanted).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name])));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
