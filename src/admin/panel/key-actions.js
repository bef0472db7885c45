// What can be done to one key, and what is said about it then.

import { ApiError, call, isNews } from "./api.js";
import { refusalWords } from "./ceilings.js";
import { foreign, h, quoted, quotedText } from "./dom.js";
import { fromNow } from "./format.js";
import { openKeyForm } from "./key-form.js";
import { confirm, openMenu, toast } from "./overlay.js";
import { endOldToken, hasOldToken, openRotate } from "./rotate.js";
import { keyPageOf } from "./key-row.js";
import { session } from "./session.js";
import { isOwner, isPerson, mayChange } from "./who.js";

const address = (key) => `/api/keys/${encodeURIComponent(key.id)}`;

/** The menu of a key. `onChanged` hears that the key, or for null that no key any more, has this id. */
export function keyMenu(button, key, onChanged) {
  const ours = (...items) => (mayChange(key) ? items : []);
  const operators = (item) => (isPerson() ? [] : [item]);
  openMenu(button, `Actions for ${quotedText(key.name)}`, [
    ...ours({ text: "Edit", icon: "edit", act: () => editKey(key, onChanged) }),
    { text: "Usage", icon: "usage", act: () => { location.hash = keyPageOf(key.id); } },
    ...operators({ text: "Recent refusals", icon: "warning", act: async () => (await lazily(() => import("./refusals.js")))?.openRefusals(key) }),
    ...(isOwner(key.account) ? [{ text: "Activity", icon: "activity", act: () => { location.hash = `#/activity?key=${encodeURIComponent(key.id)}`; } }] : []),
    ...operators({ text: "Would this pass?", icon: "info", act: () => explainKey(key) }),
    ...ours({ text: key.disabled ? "Enable" : "Disable", icon: key.disabled ? "play" : "pause", act: () => switchKey(key, !key.disabled, onChanged) },
    { text: "Rotate…", icon: "refresh", act: () => openRotate(key, onChanged) },
    ...(hasOldToken(key) ? [{ text: "End old token now", icon: "close", act: () => endOldToken(key, () => onChanged(key.id)) }] : []),
    { text: "Delete", icon: "trash", danger: true, act: () => deleteKey(key, onChanged) }),
  ]);
}


/** Opens the pane on a key. */
export function editKey(key, onChanged) {
  openKeyForm({ key, address: session.client_address, onEnded: () => onChanged(key.id), onSaved: (saved) => {
    toast([quoted(saved.name), " was saved.", stillRefused(saved)]);
    onChanged(key.id);
  } });
}

async function explainKey(key) {
  const module = await lazily(() => import("./explain.js"));
  module?.openExplain(key);
}

/** A part of the panel that is loaded when it is first used; null where it cannot be had. */
export async function lazily(load) {
  try {
    return await load();
  } catch {
    toast("This could not be loaded. Check that the gateway runs, then reload the page.", { bad: true });
    return null;
  }
}

async function switchKey(key, disabled, onChanged) {
  try {
    const changed = await call("PATCH", address(key), { disabled });
    toast([quoted(key.name), disabled ? " is disabled: requests with it are refused." : [" is enabled again.", stillRefused(changed)]]);
  } catch (error) {
    if (!isNews(error)) return;
    if (error.inForce) toast([quoted(key.name), ` is disabled, but the key file does not say so yet: ${error.message}`], { bad: true });
    else toast([quoted(key.name), ` was not ${disabled ? "disabled" : "enabled"}. ${error.message}`], { bad: true });
  }
  onChanged(key.id);
}

function deleteKey(key, onChanged) {
  confirm({
    title: "Delete this API key?",
    body: [h("p", {}, quoted(key.name), key.hint && [", whose token ends in ", h("code", {}, foreign(key.hint)), ","],
      " stops working at once, in running requests too. This cannot be undone.")],
    ok: "OK",
    okLabel: `OK, delete ${quotedText(key.name)}`,
    act: async () => {
      try {
        await call("DELETE", address(key));
        toast([quoted(key.name), " was deleted."]);
      } catch (error) {
        if (error.inForce) toast([quoted(key.name), ` is deleted, but the key file does not say so yet: ${error.message}`], { bad: true });
        else if (error instanceof ApiError && error.status === 404) toast([quoted(key.name), " was deleted already."]);
        else throw Object.assign(error, { message: `Nothing was deleted. ${error.message}` });
      }
      onChanged(null);
    },
  });
}

/** What stands in the way of a key that was just changed. */
function stillRefused(key) {
  const { state, expires_at: end } = key;
  return key.refused_by_account ? ` It stays refused by its account: ${refusalWords(key)}.` : state === "expired" ? ` It stays refused: it expired ${fromNow(Date.parse(end))}. Edit its expiration date to have it taken again.` : "";
}
