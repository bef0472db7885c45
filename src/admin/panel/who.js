// Who is signed in, in which of their accounts, and what they may do there. This decides only what is shown: the gateway
// checks every call.

import { session } from "./session.js";

const RANKS = ["viewer", "member", "owner"];
/** What each role is, for whoever gives it or has it. */
export const ROLES = {
  viewer: { name: "Viewer", as: "a viewer", may: "see the keys, the models and the usage of the account" },
  member: { name: "Member", as: "a member", may: "also create keys, and change the keys that they created" },
  owner: { name: "Owner", as: "an owner", may: "also change all keys, invite and remove people, and see the activity" },
};

/** The id of the account that is looked at. */
let chosen = null;

export const isPerson = () => session?.principal?.kind === "person";
/** The accounts of a person: {id, name, role}. An operator has none, and may do everything. */
export const accounts = () => session?.accounts ?? [];
export const hasSeveral = () => isPerson() && accounts().length > 1;
/** The account that is looked at; null for an operator. */
export const account = () => (isPerson() ? accounts().find(({ id }) => id === chosen) ?? accounts()[0] : null);
export const nameOf = ({ id, name }) => name ?? id;
/** Looks at another account, if it is one of theirs. */
export function choose(id) {
  if (accounts().some((one) => one.id === id)) chosen = id;
}
/** What a question about one account's keys, usage or activity names, as parameters. */
export const ofAccount = () => (isPerson() ? [["account", account().id]] : []);

function isAtLeast(role, id) {
  const own = accounts().find((one) => one.id === id)?.role;
  return !isPerson() || RANKS.indexOf(own) >= RANKS.indexOf(role);
}
export const mayCreate = (id = account()?.id) => isAtLeast("member", id);
export const isOwner = (id = account()?.id) => isAtLeast("owner", id);
export const isSelf = (id) => id !== null && session?.principal?.id === id;
/** Whether the key may be changed, rotated, disabled and deleted. */
export const mayChange = (key) => isOwner(key.account) || (mayCreate(key.account) && isSelf(key.created_by));
