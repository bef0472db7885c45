// The page that the link of an invitation opens. The code is in this page's memory alone.

import { call } from "./api.js";
import { foreign, h } from "./dom.js";
import { dateAndTime } from "./format.js";
import { begin } from "./session.js";
import { cardForm, openCard } from "./sign-in.js";
import { ROLES, nameOf } from "./who.js";

const LEAST = 12;

/** Opens it. `onSignedIn` gets the account's id; `onLeave` hears that somebody wants to sign in without it. */
export async function openInvitation({ code, onSignedIn, onLeave }) {
  const card = openCard("Invitation");
  const leave = (text) => h("button", { type: "button", class: "button quiet wide", onclick: () => {
    card.close();
    onLeave();
  } }, text);
  const [seen, ways] = await Promise.all([call("POST", "/api/invitations/look", { invitation: code }), call("GET", "/api/sign-in")])
    .catch((error) => [null, error]);
  if (!card.isOpen()) return;
  if (seen === null) return fail(ways);
  const { kind, email, account, role, expires_at: end, sets_password: isNew } = seen;
  const isReset = kind === "new_password";
  if (isReset) card.entitle("Set a new password");
  else card.entitle("You are invited to ", foreign(nameOf(account)), ` as ${ROLES[role].as}`);
  card.body.append(
    h("p", {}, h("bdi", { class: "email" }, email)),
    h("p", { class: "muted" }, isReset ? "It takes the place of your old password, and signs you out everywhere else." : rights(role), " ",
      `The link works once, until ${dateAndTime(Date.parse(end))}.`),
    ...(ways.oidc ? [h("button", { type: "button", class: "button primary wide", onclick: () => {
      location.assign(`/api/sign-in/oidc?${new URLSearchParams({ invitation: code })}`);
    } }, `Sign in with ${ways.oidc.name}`), h("p", { class: "hint" }, "Sign in there with the e-mail address above.")] : [form()]),
    leave(isReset ? "Sign in with the old password" : "Sign in without this invitation"));
  card.body.querySelector("input:not([hidden]), button").focus();

  function form() {
    const show = h("input", { type: "checkbox", id: "show-password", onchange: () => { element.querySelector('[name="password"]').type = show.checked ? "text" : "password"; } });
    const element = cardForm({
      fields: [{ label: isNew ? "New password" : "Your password", missing: isNew ? "Choose a password." : "Enter your password.", name: "password", type: "password",
        autocomplete: isNew ? "new-password" : "current-password", minlength: isNew ? LEAST : null }],
      hint: [h("p", {}, isNew ? `${LEAST} characters or more. A few words that only you put together are a good password.` : "You have signed in here before: the invitation adds this account."),
        h("p", { class: "check-line" }, show, h("label", { for: "show-password" }, "Show the password"))],
      ok: isNew ? "Set the password and sign in" : "Accept and sign in",
      judge: (password) => (isNew && [...password].length < LEAST ? `The password has ${[...password].length} characters; ${LEAST} are the least.` : null),
      act: async (password) => {
        await begin({ invitation: code, password });
        card.close();
        onSignedIn(account.id);
      },
      words: (error) => {
        if (error.code === "wrong_link") fail(error);
        return error.field === "password" ? `The ${error.message.replace(": ", " ")}.` : error.message;
      },
    });
    // A password manager keeps the password under this name.
    element.prepend(h("input", { type: "text", autocomplete: "username", value: email, hidden: true, readonly: true, "aria-hidden": "true", tabindex: "-1" }));
    return element;
  }

  function fail(error) {
    const isOver = error.code === "wrong_link";
    card.entitle(isOver ? "This link does not work any more" : "The invitation could not be looked up");
    card.body.replaceChildren(h("p", { role: "alert" }, isOver
      ? "It was used, taken back or replaced, or it is too old: a link works once, within seven days. Ask whoever sent it for a new one." : error.message),
    isOver ? h("p", { class: "muted" }, "If you have used it before, sign in as always.") : h("button", { type: "button", class: "button primary wide", onclick: () => {
      card.close();
      openInvitation({ code, onSignedIn, onLeave });
    } }, "Try again"), leave("Sign in"));
  }
}

function rights(role) {
  return { viewer: `A viewer can ${ROLES.viewer.may}.`, member: "A member can create API keys, and see those of the others.",
    owner: "An owner can create and change API keys, and invite people." }[role];
}
