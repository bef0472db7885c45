// Signing in and out. The session is a cookie that no script can read, and a secret; here is what the gateway told
// about it.

import { ApiError, Unreachable, call } from "./api.js";
import { h } from "./dom.js";
import { setBusy } from "./overlay.js";
import { forgetSecret, keepSecret } from "./session-secret.js";

const LINK = "#link=";

/** Where the caller comes from, the OpenAI Compatible URL, the gateway's version; null while signed out. */
export let session = null;

/** The one-time code of a sign-in link. It leaves the address bar, and the history, before anything else happens. */
export function takeLink() {
  if (!location.hash.startsWith(LINK)) return null;
  const link = location.hash.slice(LINK.length);
  history.replaceState(null, "", location.pathname);
  return link;
}

/** Begins a session, with the admin token or a link's code. */
async function begin(proof) {
  const { secret, ...about } = await call("POST", "/api/session", proof);
  keepSecret(secret);
  return about;
}

/** Signs in with a link's code, or finds the session there is; null, or why not, where there is none. */
export async function resume(link) {
  try {
    session = link === null ? await call("GET", "/api/session") : await begin({ link });
    return { session, trouble: null };
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      return { session: null, trouble: link === null ? null
        : "This sign-in link was used already, or is too old. Sign in with the admin token." };
    }
    return { session: null, trouble: error.message };
  }
}

/** Ends the session. */
export async function signOut() {
  await call("DELETE", "/api/session");
  forgetSecret();
  session = null;
}

/**
 * Asks for the admin token, over all that is open, until it is right. What lies below stays as it is: who was in the
 * middle of something goes on there.
 */
export function askToSignIn({ message = null, isFault = false, onSignedIn }) {
  document.querySelector("dialog.sign-in")?.remove();
  let isDone = false;
  const fault = h("p", { id: "sign-in-fault", class: "fault", role: "alert" });
  const token = h("input", {
    id: "sign-in-token", type: "password", autocomplete: "current-password", required: true, autofocus: true,
    spellcheck: "false", autocapitalize: "none", "aria-describedby": "sign-in-fault sign-in-hint",
    oninput: () => complain(""),
  });
  const complain = (text) => {
    fault.textContent = text;
    if (text === "") token.removeAttribute("aria-invalid");
    else token.setAttribute("aria-invalid", "true");
  };
  const go = h("button", { type: "submit", class: "button primary wide" }, "Sign in");
  let busy = false;
  const submit = async (event) => {
    event.preventDefault();
    if (busy) return;
    const text = token.value.trim();
    if (text === "") {
      complain("Enter the admin token.");
      token.focus();
      return;
    }
    busy = true;
    setBusy(go, true);
    try {
      session = await begin({ token: text });
      isDone = true;
      token.value = "";
      dialog.close();
      dialog.remove();
      onSignedIn();
    } catch (error) {
      complain(error instanceof Unreachable || error.status !== 401 ? error.message
        : "This is not the admin token. Copy it anew from the token file.");
      token.select();
      token.focus();
    } finally {
      busy = false;
      setBusy(go, false);
    }
  };
  const dialog = h("dialog", { class: "sign-in", "aria-labelledby": "sign-in-title" },
    h("div", { class: "sign-in-card" },
      h("p", { class: "brand" }, h("img", { src: "/panel/icon.svg", alt: "", width: "32", height: "32" }), h("span", {}, "keygate")),
      h("h1", { id: "sign-in-title" }, "Sign in"),
      message && h("p", { class: `notice ${isFault ? "warn" : "info"}`, role: "status" }, message),
      h("form", { novalidate: true, onsubmit: submit },
        h("label", { for: "sign-in-token" }, "Admin token"), token, fault,
        h("p", { id: "sign-in-hint", class: "hint" },
          "It stands in the gateway's token file, ", h("code", {}, "admin.token"), " unless the config says otherwise."),
        go)));
  // Nothing closes it but the right token.
  dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.preventDefault());
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.addEventListener("close", () => isDone || !dialog.isConnected || dialog.showModal());
  document.body.append(dialog);
  dialog.showModal();
}
