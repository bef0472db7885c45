// AI / Members: the people of an account, with their roles, and open invitations: of a person's own account, and, for
// operators, on the page of any account.

import { call, isNews } from "./api.js";
import { secret } from "./created.js";
import { foreign, h, icon, quoted, quotedText, uniqueId } from "./dom.js";
import { field } from "./field.js";
import { openForm } from "./form.js";
import { dateAndTime, fromNow, plural, timeElement } from "./format.js";
import { confirm, openMenu, openWindow, toast, windowHead } from "./overlay.js";
import { ROLES, account as ownAccount, isOwner, isPerson, isSelf, nameOf } from "./who.js";

const COLUMNS = ["Member", "Role", "Signs in with", "Last sign-in"];
const OPEN_COLUMNS = ["Invited", "Role", "Invited by", "Works until"];
const WAYS = { password: "E-mail and password", oidc: "Company's sign-in" };
const pathOf = (account, ...words) => `/api/accounts/${[account, ...words].map(encodeURIComponent).join("/")}`;
const never = (text) => h("span", { class: "muted" }, text);
const cell = (name, ...content) => h("td", { role: "cell", "data-label": name }, h("div", {}, content));
const head = (columns) => h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((name) => h("th", { scope: "col", role: "columnheader" }, name)),
  h("th", { scope: "col", role: "columnheader", class: "row-menu" }, h("span", { class: "unseen" }, "Actions"))));

/** Draws the view of the own account. */
export function membersView(main, title) {
  const account = ownAccount();
  const people = peopleOf(account.id);
  main.append(
    h("header", { class: "page-head" },
      h("div", {}, h("p", { class: "crumb" }, "AI"), h("h1", { tabindex: "-1" }, title),
        h("p", { class: "lead" }, "Who belongs to ", foreign(nameOf(account)), `, and may do what there. You are ${ROLES[account.role].as}: you ${mayWords(account.role)}.`)),
      h("div", { class: "head-actions" }, h("button", { type: "button", class: "button", onclick: () => people.load() }, icon("refresh"), "Refresh"), people.invite)),
    ...people.element);
  people.load();
  return { refresh: people.load, leave: people.leave };
}

const mayWords = (role) => ({ viewer: `can ${ROLES.viewer.may}`, member: "can create keys, and change those that you created",
  owner: "can change all keys, and who belongs to the account" }[role]);

/** The people of an account: {element, invite, load(), leave()}; `invite` is the button that invites. */
export function peopleOf(account) {
  const mayManage = isOwner(account);
  let loading = null;
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const body = h("tbody", { role: "rowgroup" });
  const openBody = h("tbody", { role: "rowgroup" });
  const status = h("p", { class: "count", role: "status" });
  const card = h("div", { class: "card table-card", "aria-busy": "true" }, h("table", { class: "people", role: "table" }, h("caption", { class: "unseen" }, "Members"), head(COLUMNS), body));
  const none = h("p", { class: "card notice", hidden: true });
  const openOnes = h("section", { class: "open-invitations", hidden: true }, h("h2", {}, "Open invitations"),
    h("div", { class: "card table-card" }, h("table", { class: "people", role: "table" }, h("caption", { class: "unseen" }, "Open invitations"), head(OPEN_COLUMNS), openBody)));
  const invite = h("button", { type: "button", class: "button primary", hidden: !mayManage, onclick: openInvite }, icon("plus"), "Invite…");

  async function load() {
    loading?.abort();
    const turnOfThis = loading = new AbortController();
    const { signal } = turnOfThis;
    card.setAttribute("aria-busy", "true");
    try {
      const [{ members }, { invitations }] = await Promise.all([call("GET", pathOf(account, "members"), undefined, { signal }),
        mayManage ? call("GET", pathOf(account, "invitations"), undefined, { signal }) : { invitations: [] }]);
      trouble.hidden = true;
      const focused = document.activeElement?.closest?.(".people tr")?.dataset.id;
      status.textContent = plural(members.length, "member");
      card.hidden = members.length === 0;
      none.hidden = members.length > 0;
      none.textContent = "Nobody belongs to this account yet. Invite its owner: who has the link chooses a password, and creates keys without you.";
      body.replaceChildren(...members.map(memberRow));
      openOnes.hidden = invitations.length === 0;
      openBody.replaceChildren(...invitations.map(invitationRow));
      if (focused && document.activeElement === document.body) focusRow(focused);
    } catch (error) {
      if (!isNews(error)) return;
      trouble.replaceChildren(icon("warning"), h("span", {}, `The members could not be loaded. ${error.message}`), h("button", { type: "button", class: "button small", onclick: load }, "Try again"));
      trouble.hidden = false;
    } finally {
      if (loading === turnOfThis) card.setAttribute("aria-busy", "false");
    }
  }

  function focusRow(id) {
    const row = [...body.rows, ...openBody.rows].find((row) => row.dataset.id === id);
    (row?.querySelector("button") ?? (invite.hidden ? document.getElementById("main") : invite)).focus({ preventScroll: true });
  }

  /** After a change the rows are new; whoever was on one is put back there. */
  async function reloadAt(id) {
    await load();
    if ([document.body, document.getElementById("main")].includes(document.activeElement)) focusRow(id);
  }

  function memberRow(member) {
    const { id, email, name, role, sign_in: way, last_sign_in_at: last } = member;
    const more = h("button", { type: "button", class: "icon-button", "aria-haspopup": "menu", "aria-expanded": "false", "aria-label": `Actions for ${quotedText(email)}`,
      onclick: () => openMenu(more, `Actions for ${quotedText(email)}`, [
        { text: "Change role…", icon: "edit", act: () => changeRole(member) },
        ...(way === "password" ? [{ text: "Reset password…", icon: "key", act: () => resetPassword(member) }] : []),
        { text: "Remove…", icon: "trash", danger: true, act: () => remove(member) },
      ]) }, icon("more"));
    return h("tr", { role: "row", "data-id": id },
      h("th", { scope: "row", role: "rowheader" }, h("div", {}, foreign(email), isSelf(id) && h("span", { class: "muted" }, " (you)"), name && h("span", { class: "sub" }, foreign(name)))),
      cell("Role", ROLES[role].name), cell("Signs in with", WAYS[way] ?? way),
      cell("Last sign-in", last ? timeElement(Date.parse(last), fromNow(Date.parse(last))) : never("Never")),
      h("td", { role: "cell", class: "row-menu" }, mayManage && more));
  }

  function invitationRow({ id, email, role, person, invited_by: by, expires_at: end }) {
    return h("tr", { role: "row", "data-id": id },
      h("th", { scope: "row", role: "rowheader" }, h("div", {}, foreign(email), person !== null && h("span", { class: "sub" }, "to set a new password"))),
      cell("Role", ROLES[role].name), cell("Invited by", foreign(by)), cell("Works until", timeElement(Date.parse(end), fromNow(Date.parse(end)))),
      h("td", { role: "cell", class: "row-menu" }, h("button", { type: "button", class: "button small", "aria-label": `Revoke the invitation of ${quotedText(email)}`,
        onclick: () => revoke(id, email) }, "Revoke…")));
  }

  function openInvite() {
    openForm({ what: "invitation", title: "Invite somebody", ok: "Make the link", path: pathOf(account, "invitations"),
      parts: { email: emailField(), role: roleField("member") }, onSaved: (made) => showLink(made, `Invitation for ${made.invitation.email}`) });
  }

  function showLink({ invitation: { id, email, expires_at: end }, link, mailed }, words) {
    const title = uniqueId("title");
    let isCopied = mailed;
    openWindow({ kind: "created", label: title, onClose: () => {
      if (!isCopied) toast(["The link for ", quoted(email), " was not copied, and is not shown again. Revoke it and make a new one."], { bad: true });
      reloadAt(id);
    }, build: (close) => h("div", { class: "created-body" }, windowHead(title, words, close),
      mailed && h("p", { class: "notice good" }, icon("check"), h("span", {}, "The link was sent by mail.")),
      h("p", { class: "notice warn" }, icon("warning"), h("span", {}, h("strong", {}, mailed ? "It is shown only now. " : "Copy the link now: it is not shown again. "),
        `Give it to this person alone: whoever has it can use it. It works once, within seven days, until ${dateAndTime(Date.parse(end))}.`)),
      secret("Link", link, () => { isCopied = true; })) });
    document.getElementById(title).firstChild.focus();
  }

  function changeRole(member) {
    openForm({ what: "role", title: "Change role", about: quoted(member.email), path: pathOf(account, "members"), present: () => member,
      parts: { role: roleField(member.role, "The sessions of the member end: who is signed in signs in again.") }, onSaved: (saved) => {
        toast([quoted(saved.email), ` is ${ROLES[saved.role].as} now.`]);
        reloadAt(saved.id);
      } });
  }

  function resetPassword({ id, email }) {
    confirm({ title: "Make a link for a new password?", ok: "Make the link", okLabel: `Make a link for ${quotedText(email)}`, isDanger: false,
      body: h("p", {}, "Whoever has the link sets a new password for ", quoted(email), ". The present one works until then."),
      act: async () => {
        const made = await call("POST", pathOf(account, "members", id, "reset-password"), {});
        // The question is closed by then.
        setTimeout(() => showLink(made, `New password for ${email}`));
      } });
  }

  function remove({ id, email }) {
    confirm({ title: "Remove this member?", ok: "Remove", okLabel: `Remove ${quotedText(email)}`,
      body: h("p", {}, quoted(email), " cannot see or change anything of this account any more, and is signed out at once. The keys that this person created stay, and go on working."),
      act: async () => {
        await call("DELETE", pathOf(account, "members", id));
        toast([quoted(email), " was removed."]);
        reloadAt(null);
      } });
  }

  function revoke(id, email) {
    confirm({ title: "Revoke this invitation?", ok: "Revoke", okLabel: `Revoke the invitation of ${quotedText(email)}`,
      body: h("p", {}, "The link that ", quoted(email), " has does not work any more."),
      act: async () => {
        try {
          await call("DELETE", pathOf(account, "invitations", id));
        } catch (error) {
          if (error.status !== 404) throw error;
        }
        toast(["The invitation of ", quoted(email), " was revoked."]);
        reloadAt(null);
      } });
  }

  return { element: [h("div", { class: "toolbar" }, status), trouble, card, none, openOnes], invite, load, leave: () => loading?.abort() };
}

function emailField() {
  const input = h("input", { id: uniqueId("email"), type: "email", autocomplete: "off", spellcheck: "false", autocapitalize: "none", maxlength: "254", autofocus: true, oninput: () => part.complain("") });
  const part = field({ label: "E-mail address", input, control: input,
    hint: `You get a link for this person.${isPerson() ? "" : " The first person you invite is usually an owner."}` });
  return { ...part, value: () => input.value.trim(), settle: () => part.complain(input.value.trim() === "" ? "Enter the e-mail address of whom you invite." : "") };
}

function roleField(already, note = null) {
  const words = h("p");
  const select = h("select", { id: uniqueId("role"), onchange: draw }, Object.entries(ROLES).map(([role, { name }]) => h("option", { value: role }, name)));
  select.value = already;
  const part = field({ label: "Role", input: select, control: h("div", { class: "select" }, select, icon("left")), hint: [words, note && h("p", {}, note)] });
  function draw() {
    words.textContent = `${ROLES[select.value].name}s can ${ROLES[select.value].may}.`;
    part.complain("");
  }
  draw();
  return { ...part, value: () => select.value, settle: () => true };
}
