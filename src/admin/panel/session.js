// The session. It is a cookie that no script can read, and a secret; here is what the gateway told about it.

import { ApiError, call } from "./api.js";
import { forgetSecret, keepSecret } from "./session-secret.js";

/** What the address may bring, once: the code of a sign-in link or of an invitation, or why a sign-in elsewhere failed. */
const BROUGHT = /^#(link|invitation|sign-in-error)=(.*)$/;
/** Where somebody was who signs in elsewhere, in this tab. */
const RETURN = "keygate-return";

/** Who is signed in, from where, the OpenAI Compatible URL, the gateway's version; null while signed out. */
export let session = null;

/** {name, value} of what the address brings, or null. It leaves the address bar, and the history, before anything else happens. */
export function takeBrought() {
  const [, name, value] = BROUGHT.exec(location.hash) ?? [];
  if (name === undefined) return null;
  history.replaceState(null, "", location.pathname);
  return { name, value };
}

/** Begins a session: with the admin token, a link's code, or a password beside an e-mail address or an invitation's code. */
export async function begin(proof) {
  const { secret, ...about } = await call("POST", "/api/session", proof);
  session = about;
  keepSecret(secret);
}

/** Signs in with a link's code, or finds the session there is; null, or why there is none. */
export async function resume(link) {
  try {
    if (link === null) session = await call("GET", "/api/session");
    else await begin({ link });
    return { session, trouble: null };
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      return { session: null, trouble: link === null ? null : error.message };
    }
    return { session: null, trouble: error.message };
  }
}

/** Ends the session. Where the browser signs out of the company's sign-in too, the address of that; else null. */
export async function signOut() {
  const answer = await call("DELETE", "/api/session");
  endHere();
  return answer?.end_session_url ?? null;
}

/** The session has ended already. */
export function endHere() {
  forgetSecret();
  session = null;
}

/** Keeps where this tab is, for the way back from a sign-in elsewhere. */
export function keepPlace() {
  try {
    sessionStorage.setItem(RETURN, location.hash);
  } catch {
    // Without storage one comes back to the first view.
  }
}

/** Goes back there. */
export function takePlace() {
  try {
    const hash = sessionStorage.getItem(RETURN);
    sessionStorage.removeItem(RETURN);
    if (hash?.startsWith("#/")) history.replaceState(null, "", hash);
  } catch {
    // As above.
  }
}
