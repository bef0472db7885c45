// A token that nobody copied is lost: a bubble offers a new one, which is a new key with the same fields in place of the old.

import { call, isNews } from "./api.js";
import { h, quoted } from "./dom.js";
import { toast } from "./overlay.js";

/** Offers it for a key that was just made. `onReplaced` gets the gateway's answer for the new key. */
export function offerNewToken(key, onReplaced) {
  let isAsked = false;
  const put = toast([quoted(key.name), " was created, but its token was not copied. ",
    h("button", { type: "button", class: "button small", onclick: async () => {
      if (isAsked) return;
      isAsked = true;
      put();
      await replace(key, onReplaced);
    } }, "Make a new token")], { stays: true });
}

async function replace(key, onReplaced) {
  const { name, model_access, allow_from, expires_at, account } = key;
  let made;
  try {
    made = await call("POST", "/api/keys", { name, model_access, allow_from, expires_at, account });
  } catch (error) {
    if (isNews(error)) toast(["No new token was made for ", quoted(name), `. ${error.message}`], { bad: true });
    return;
  }
  try {
    // Where somebody changed the old key since, it stays for them to decide.
    await call("DELETE", `/api/keys/${encodeURIComponent(key.id)}`, undefined, { revision: key.revision });
  } catch (error) {
    if (isNews(error) && error.status !== 404) toast(["The first ", quoted(name), ` was not deleted: delete it by hand. ${error.message}`], { bad: true });
  }
  onReplaced(made);
}
