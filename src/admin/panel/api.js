// The admin API. Knows no view; tells one listener when the session has ended.

import { askOtherTabs, sessionSecret } from "./session-secret.js";

/** What the gateway answered in place of what was asked for. */
export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `The gateway answered ${status}.`);
    this.status = status;
    this.code = body?.error?.code ?? null;
    this.field = body?.error?.field ?? null;
    this.faults = body?.error?.faults ?? null;
    this.inForce = body?.in_force ?? null;
    /** How many keys the account has. */
    this.keys = body?.keys ?? null;
  }
}

/** Nothing answered, or nothing that could be read. */
export class Unreachable extends Error {
  constructor() {
    super("The gateway could not be reached. Check that it runs, then try again.");
  }
}

/** The session has ended; the sign-in is already being shown, so there is nothing left to say. */
export class SessionEnded extends Error {}

/** Calls that somebody makes who is not signed in. */
const OPEN = new Set(["/api/session", "/api/invitations/look"]);

let sessionEnded = () => {};
/** Who is told when a call finds the session ended. */
export function onSessionEnd(listener) {
  sessionEnded = listener;
}

/** How far the gateway's clock is ahead of this machine's, in milliseconds. */
let clockDifference = 0;
/** The gateway's time: what is told as "in 3 days" must not hang on the clock of whoever looks. */
export function now() {
  return Date.now() + clockDifference;
}

/** Calls the admin API: the answer's JSON, or null where it has none; with `asCsv` the answer's text. */
export async function call(method, path, body, { signal, revision, asCsv = false, isAgain = false } = {}) {
  const headers = { Accept: asCsv ? "text/csv" : "application/json" };
  // The change is refused where the key is another than the one that was looked at.
  if (revision !== undefined) headers["If-Match"] = `"${revision}"`;
  const secret = sessionSecret();
  if (secret !== null) headers["X-Keygate-Session"] = secret;
  // No page of another site can send this header without being asked first, and nobody answers it.
  if (method !== "GET") {
    headers["X-Keygate-Panel"] = "1";
    headers["Content-Type"] = "application/json";
  }
  let response;
  let answer = null;
  try {
    response = await fetch(path, {
      method, headers, signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin", cache: "no-store", redirect: "error",
    });
    const text = await response.text();
    if (text !== "") answer = asCsv && response.ok ? text : JSON.parse(text);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (!response || response.ok) throw new Unreachable();
  }
  const date = Date.parse(response.headers.get("date"));
  // The header has whole seconds; less than two of difference is none.
  if (!Number.isNaN(date)) clockDifference = Math.abs(date - Date.now()) < 2000 ? 0 : date - Date.now();
  if (response.ok) return answer;
  if (response.status === 401 && !(method === "POST" && OPEN.has(path))) {
    // Another tab may have signed in anew: the cookie is of its session then, and the secret with it.
    if (!isAgain && await askOtherTabs(secret)) return call(method, path, body, { signal, revision, asCsv, isAgain: true });
    if (path === "/api/session") throw new ApiError(response.status, answer);
    sessionEnded();
    throw new SessionEnded("Your session has ended. Sign in again.");
  }
  throw new ApiError(response.status, answer);
}

/** Whether an error is worth telling: neither a call taken back nor the end of the session, which shows itself. */
export function isNews(error) {
  return !(error instanceof SessionEnded) && error.name !== "AbortError";
}

/** The catalogue, or null where it cannot be had. */
export async function catalogue() {
  try {
    return (await call("GET", "/api/models")).models;
  } catch {
    return null;
  }
}
