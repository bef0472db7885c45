// Who made a key. Keys have only the person's id; the account's members have the e-mail address.

import { call } from "./api.js";
import { foreign } from "./dom.js";
import { isSelf } from "./who.js";

/** The members of an account by their ids; none where they cannot be had. */
export async function membersOf(account, options) {
  const found = await call("GET", `/api/accounts/${encodeURIComponent(account)}/members`, undefined, options).catch(() => null);
  return new Map((found?.members ?? []).map((member) => [member.id, member]));
}

/** In words; null where no person made it, or nobody knows. */
export function makerWords({ created_by: id }, members) {
  if (id === null || id === undefined) return null;
  return isSelf(id) ? "you" : members.has(id) ? foreign(members.get(id).email) : "a former member";
}
