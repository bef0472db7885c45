// The form of an account.

import { catalogue } from "./api.js";
import { quoted, h, uniqueId } from "./dom.js";
import { field } from "./field.js";
import { count } from "./format.js";
import { openForm } from "./form.js";
import { allowanceFields } from "./key-limits.js";
import { accessField, networksField, textField } from "./rule-fields.js";

const ID = /^[A-Za-z0-9_-]{0,64}$/;
const MAX_KEYS = 1_000_000;
const MAX_DAYS = 36_500;

/** Opens the form of an account, or of a new one. `onSaved` gets the gateway's answer once the form is closed. */
export function openAccountForm({ account = null, address, onSaved }) {
  const parts = {
    ...(account ? {} : { id: idField() }),
    name: textField({ what: "name", label: "Name", value: account?.name, hint: "Whom the account is for." }),
    model_access: accessField(account, "Its keys"),
    allow_from: networksField(account, address),
    max_key_days: numberField({ label: "Longest life of a key, in days", value: account?.max_key_days, least: 1, most: MAX_DAYS,
      hint: "Counted from the key's creation. Empty: keys may live for ever." }),
    max_keys: numberField({ label: "Most keys", value: account?.max_keys, least: 0, most: MAX_KEYS,
      hint: "Empty: any number. Keys that are there already stay." }),
    ...allowanceFields(account, { shared: true }),
    disabled: disabledField(account),
  };
  openForm({
    what: "account", title: account ? "Edit account" : "Create account", about: account && quoted(account.name ?? account.id),
    path: "/api/accounts", present: () => account, parts,
    // There is an account of this ID.
    fieldOf: (error) => (error.status === 409 ? "id" : null),
    reopen: (present) => openAccountForm({ account: present, address, onSaved }), onSaved,
  });
  catalogue().then(parts.model_access.load);
}

function idField() {
  const part = textField({ what: "id", label: "ID", spellcheck: "false", autocapitalize: "none",
    hint: "Keys name the account by it, and it stays. Empty: one is made up." });
  return { ...part, value: () => part.value() ?? undefined,
    settle: () => part.complain(ID.test(part.value() ?? "") ? "" : "Use up to 64 of A–Z, a–z, 0–9, _ and -.") };
}

function numberField({ label, hint, value, least, most }) {
  const input = h("input", { id: uniqueId("number"), type: "text", inputmode: "numeric", autocomplete: "off", value: value ?? "", oninput: () => part.complain("") });
  const part = field({ label, optional: true, control: input, input, hint });
  const read = () => (input.value.trim() === "" ? null : Number(input.value.replaceAll(/[\s,_]/g, "")));
  return { ...part, value: read,
    settle: () => part.complain(read() === null || (Number.isInteger(read()) && read() >= least && read() <= most) ? ""
      : `Write a whole number from ${least} to ${count(most)}, or nothing.`) };
}

function disabledField(account) {
  const input = h("input", { id: uniqueId("disabled"), type: "checkbox" });
  input.checked = account?.disabled ?? false;
  const part = field({ label: "Disabled", control: input, input, hint: "All of its keys are refused at once, in running requests too." });
  part.element.classList.add("check");
  return { ...part, value: () => input.checked, settle: () => true };
}
