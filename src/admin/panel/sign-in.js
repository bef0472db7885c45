// The page that signs in: by e-mail address and password, by the company's sign-in, or by the admin token.

import { ApiError, call } from "./api.js";
import { h, uniqueId } from "./dom.js";
import { setBusy } from "./overlay.js";
import { begin, keepPlace } from "./session.js";

const TOKEN_ALONE = { password: false, token: true, oidc: null };
const ERRORS = {
  not_invited: "Nobody has invited you under an e-mail address that your company has verified. Ask an owner of the account for an invitation.",
  in_no_account: "You are in no account any more, or your account is disabled. Ask an owner of the account, or whoever runs this gateway.",
  not_begun_here: "This sign-in was not begun in this browser, or it took too long. Sign in again here.",
  too_late: "The sign-in took too long. Sign in again.",
  declined: "Your company's sign-in did not let you in. Sign in again, or ask those who run it.",
  provider_unreachable: "Your company's sign-in could not be reached. Try again in a minute.",
};

/** Why a sign-in elsewhere failed. The label comes from the address, so that only one that could be the gateway's is shown. */
export function errorWords(label) {
  return Object.hasOwn(ERRORS, label) ? ERRORS[label]
    : `The sign-in failed. Try again; if it fails again, tell whoever runs this gateway${/^[a-z_]{1,40}$/.test(label) ? `: ${label}` : ""}.`;
}

/** Lays a card over all that is open: {body, entitle(text), close(), isOpen()}. Nothing but `close` closes it. */
export function openCard(title) {
  document.querySelector("dialog.sign-in")?.remove();
  let isDone = false;
  const heading = h("h1", { id: "sign-in-title", tabindex: "-1" }, title);
  const body = h("div", { class: "sign-in-body" });
  const dialog = h("dialog", { class: "sign-in", "aria-labelledby": "sign-in-title" },
    h("div", { class: "sign-in-card" },
      h("p", { class: "brand" }, h("img", { src: "/panel/icon.svg", alt: "", width: "32", height: "32" }), h("span", {}, "keygate")), heading, body));
  dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.preventDefault());
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.addEventListener("close", () => isDone || !dialog.isConnected || dialog.showModal());
  document.body.append(dialog);
  dialog.showModal();
  return { body, isOpen: () => dialog.isConnected, entitle: (...content) => {
    heading.replaceChildren(...content);
    heading.focus();
  }, close: () => {
    isDone = true;
    // What was typed goes with it.
    body.replaceChildren();
    dialog.close();
    dialog.remove();
  } };
}

/**
 * A form of a card. `fields` are {label, missing, …attributes of the input}; `judge(values)` says what is wrong before anything is
 * sent; `act(values)` signs in; `words(error)` says what came back.
 */
export function cardForm({ fields, hint, ok = "Sign in", judge = () => null, act, words }) {
  const [faultId, hintId] = [uniqueId("fault"), uniqueId("hint")];
  const fault = h("p", { id: faultId, class: "fault", role: "alert" });
  const inputs = fields.map(({ label, missing, ...attributes }) => {
    const input = h("input", { id: uniqueId("sign-in"), required: true, spellcheck: "false", autocapitalize: "none",
      "aria-describedby": `${faultId} ${hintId}`, oninput: () => complain(null), ...attributes });
    return { input, missing, element: [h("label", { for: input.id }, label), input] };
  });
  function complain(text, input = inputs.at(-1).input) {
    fault.textContent = text ?? "";
    for (const one of inputs) one.input.removeAttribute("aria-invalid");
    if (text === null) return;
    input.setAttribute("aria-invalid", "true");
    input.focus();
  }
  const go = h("button", { type: "submit", class: "button primary wide" }, ok);
  let busy = false;
  return h("form", { novalidate: true, onsubmit: async (event) => {
    event.preventDefault();
    if (busy) return;
    const empty = inputs.find(({ input }) => input.value.trim() === "");
    if (empty) return complain(empty.missing, empty.input);
    const values = inputs.map(({ input }) => input.value);
    const wrong = judge(...values);
    if (wrong !== null) return complain(wrong);
    busy = true;
    setBusy(go, true);
    try {
      await act(...values);
    } catch (error) {
      complain(words(error));
      inputs.at(-1).input.select();
    } finally {
      busy = false;
      setBusy(go, false);
    }
  } }, inputs.map(({ element }) => element), fault, h("div", { id: hintId, class: "hint" }, hint), go);
}

/**
 * Asks who it is, over all that is open, until somebody signs in. What lies below stays as it is: who was in the middle of
 * something goes on there.
 */
export async function askToSignIn({ message = null, isFault = false, isOperator = false, onSignedIn }) {
  const card = openCard("Sign in");
  const place = h("div", { class: "sign-in-body" });
  if (message) card.body.append(h("p", { class: `notice ${isFault ? "warn" : "info"}`, role: "status" }, message));
  card.body.append(place);
  const ways = await call("GET", "/api/sign-in").catch(() => TOKEN_ALONE);
  if (!card.isOpen()) return;
  const hasPersons = ways.password || ways.oidc !== null;
  const done = async (proof) => {
    await begin(proof);
    card.close();
    onSignedIn();
  };
  const other = (text, isOperator) => h("button", { type: "button", class: "button quiet wide", onclick: () => draw(isOperator) }, text);
  function draw(isOperator) {
    place.replaceChildren(...(isOperator || !hasPersons
      ? [tokenForm(done), hasPersons && other("I am not an operator", false)]
      : [ways.oidc && h("a", { class: "button primary wide", href: "/api/sign-in/oidc", onclick: keepPlace }, `Sign in with ${ways.oidc.name}`),
        ways.password && passwordForm(done), ways.token && other("I am an operator", true)]).filter(Boolean));
    place.querySelector("input, a").focus();
  }
  draw(isOperator);
}

function tokenForm(done) {
  return cardForm({
    fields: [{ label: "Admin token", missing: "Enter the admin token.", type: "password", autocomplete: "current-password" }],
    hint: ["It stands in the gateway's token file, ", h("code", {}, "admin.token"), " unless the config says otherwise."],
    act: (token) => done({ token: token.trim() }),
    words: (error) => (error instanceof ApiError && error.status === 401 ? "This is not the admin token. Copy it anew from the token file." : error.message),
  });
}

function passwordForm(done) {
  return cardForm({
    fields: [{ label: "E-mail address", missing: "Enter your e-mail address.", type: "email", autocomplete: "username" },
      { label: "Password", missing: "Enter your password.", type: "password", autocomplete: "current-password" }],
    hint: "No password yet, or forgotten? Ask an owner of your account for a link.",
    act: (email, password) => done({ email: email.trim(), password }),
    words: (error) => error.message,
  });
}
