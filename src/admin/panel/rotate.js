// A new token for a key: how long its old one works on, and the end of that one. Invariant: an old token that may be in
// use is never ended without saying so first.

import { call, catalogue, isNews, now } from "./api.js";
import { showCreated } from "./created.js";
import { foreign, h, icon, quoted, quotedText, uniqueId } from "./dom.js";
import { dateAndTime, fromNow } from "./format.js";
import { confirm, openWindow, setBusy, toast, windowHead } from "./overlay.js";
import { firstModel } from "./snippets.js";

const HOUR = 3600;
const GRACES = [["For 24 hours", 24 * HOUR], ["For 7 days", 7 * 24 * HOUR], ["For 30 days", 30 * 24 * HOUR], ["Not at all: it ends at once", 0]];

const address = (key, what) => `/api/keys/${encodeURIComponent(key.id)}/${what}`;

/** Whether a key has an old token that still works. */
export const hasOldToken = ({ previous }) => Boolean(previous) && Date.parse(previous.not_after) > now();

/** When the old token was used last. */
export const oldTokenUse = ({ previous }, unused = "not used since the rotation or the gateway's start") => (previous.last_used_at
  ? `last used ${fromNow(Date.parse(previous.last_used_at))}` : unused);

const ending = ({ previous }) => previous.hint && [", which ends in ", h("code", {}, foreign(previous.hint)), ","];
const until = ({ previous }) => dateAndTime(new Date(previous.not_after));

/** Opens the window for a key. `onChanged` hears that the key is another now. */
export function openRotate(key, onChanged) {
  const [title, graceId, hintId] = ["title", "grace", "hint"].map(uniqueId);
  const grace = h("select", { id: graceId, "aria-describedby": hintId }, GRACES.map(([text, seconds]) => h("option", { value: seconds }, text)));
  const trouble = h("div", { role: "alert" });
  let busy = false;
  openWindow({ kind: "reload", label: title, mayClose: () => !busy, build: (close) => {
    const go = h("button", { type: "submit", class: "button primary" }, "Rotate");
    const submit = async (event) => {
      event.preventDefault();
      if (busy) return;
      busy = true;
      setBusy(go, true);
      try {
        // The key that was looked at: nobody has rotated it since.
        const rotated = await call("POST", address(key, "rotate"), { grace_seconds: Number(grace.value) }, { revision: key.revision });
        const model = firstModel(rotated.key.model_access, await catalogue());
        busy = false;
        close();
        onChanged(key.id);
        showCreated({ title: "API Key Rotated Successfully", name: rotated.key.name, token: rotated.token, url: rotated.url, warnings: rotated.warnings, model,
          onUncopied: () => uncopied(rotated.key) });
      } catch (error) {
        if (!isNews(error)) return;
        const message = error.status === 412 ? "The key was changed meanwhile. Close this window and look at the key again." : error.message;
        trouble.replaceChildren(h("p", { class: "notice bad" }, icon("warning"), h("span", {}, h("strong", {}, "Nothing was changed. "), message)));
      } finally {
        busy = false;
        setBusy(go, false);
      }
    };
    return h("form", { class: "bulk-form", novalidate: true, onsubmit: submit },
      windowHead(title, "Rotate this API key", () => busy || close(), { about: quoted(key.name) }),
      h("div", { class: "bulk-body" },
        h("p", {}, "The key gets a new token. Everything else about it stays."),
        h("div", { class: "field" }, h("label", { for: graceId }, "The old token works on"),
          h("div", { class: "select" }, grace, icon("left")),
          h("div", { id: hintId, class: "hint" }, "Give the new token to everybody who uses the key before the old one ends. Running requests end with their token.")),
        hasOldToken(key) && h("p", { class: "notice warn" }, icon("warning"), h("span", {}, h("strong", {}, "An older token still works"), ending(key),
          ` until ${until(key)} (${oldTokenUse(key)}). It ends at once when you rotate again.`)),
        trouble),
      h("div", { class: "actions" }, h("button", { type: "button", class: "button", onclick: () => busy || close() }, "Cancel"), go));
  } });
  grace.focus();
}

/** Nobody has the new token. Rotating again would end the old one, which is in use. */
function uncopied(key) {
  toast([quoted(key.name), " has a new token, but it was not copied. ", hasOldToken(key)
    ? `The old token works until ${until(key)}, and ends at once when you rotate again: do that when its users can change.`
    : "Nobody can use the key now: rotate it again."], { bad: true });
}

/** Asks, then ends the old token. `onEnded` gets the key as it is then. */
export function endOldToken(key, onEnded) {
  confirm({
    title: "End the old token now?",
    body: [h("p", {}, "The old token of ", quoted(key.name), ending(key), ` works until ${until(key)} (${oldTokenUse(key)}). It stops working at once, in running requests too. This cannot be undone.`)],
    ok: "End old token",
    okLabel: `End the old token of ${quotedText(key.name)}`,
    act: async () => {
      let changed;
      try {
        changed = await call("POST", address(key, "expire-previous"), undefined, { revision: key.revision });
      } catch (error) {
        if (error.inForce) throw Object.assign(error, { message: `The old token has ended, but the key file does not say so yet: ${error.message}` });
        if (error.status === 412) throw Object.assign(error, { message: "The key was changed meanwhile. Cancel, and look at the key again." });
        throw error;
      }
      toast(["The old token of ", quoted(key.name), " has ended."]);
      onEnded(changed);
    },
  });
}
