// What an account allows its keys at most, and how that is said. It makes no call and knows no view: the forms of operators
// and of persons use it.

import { visible } from "./dom.js";
import { count, date, plural } from "./format.js";
import { budgetWords, limitWords } from "./key-limits.js";
import { overlap } from "./networks.js";
import { isPerson } from "./who.js";

const DAY = 86_400_000;
const MOST_NAMED = 5;
const REFUSALS = {
  disabled: "the account is disabled", expired: "the key is older than the account allows",
  networks: "no network is left that both allow", models: "no model is left that both allow",
};

/** Why the account of a key refuses every request with it; null where it does not. */
export const refusalWords = (key) => key.refused_by_account && (REFUSALS[key.refused_by_account] ?? key.refused_by_account);

/** Whose account it is, at the beginning of a sentence. */
const whose = () => (isPerson() ? "Your account" : "The account");

const named = (texts, what) => (texts.length > MOST_NAMED ? plural(texts.length, what) : texts.map(visible).join(", "));

/**
 * What an account allows a key that was made at `createdAt`, for each field of its form: {note, fault(one)}, or {end, lastDay,
 * note}; null where it allows everything. `isMoved`: the key did not belong to it before.
 */
export function bounds(account, { createdAt, isMoved }) {
  const { model_access: { mode, models }, allow_from: networks, max_key_days: days } = account;
  const end = createdAt + days * DAY;
  // Keys end with a day, and this is the last one that ends in time.
  const lastDay = new Date(Math.floor(end / DAY) * DAY - DAY);
  return {
    model_access: mode === "all" ? null : { isMoved,
      note: `${whose()} allows ${mode === "inclusive" ? "only" : "every model but"} ${named(models, "model")}.`,
      fault: ({ id, alias_of: alias }) => ((mode === "inclusive" ? models.includes(id) : !models.includes(id) && !models.includes(alias))
        ? null : `not allowed by ${whose().toLowerCase()}`) },
    allow_from: networks.length === 0 ? null : { isMoved,
      note: `${whose()} allows access only from ${named(networks, "network")}.`,
      fault: (network) => (networks.some((other) => overlap(network, other)) ? null : `${whose()} allows no address of ${network}.`) },
    expires_at: days === null ? null : { isMoved, end, lastDay: lastDay.toISOString().slice(0, 10),
      note: `${whose()} allows ${plural(days, "day")} at most: until ${date(lastDay)}.` },
  };
}

/** Why an account takes no further key; null where it does. */
export const roomFault = ({ keys, max_keys: most }) => (most !== null && keys >= most ? `${whose()} has ${plural(keys, "key")}, and may have ${count(most)} at most.` : null);

/** "3 of 20 keys". */
export const keysOf = ({ keys, max_keys: most }) => (most === null ? plural(keys, "key") : `${count(keys)} of ${plural(most, "key")}`);

/** What is shared by the keys of an account, in words; null where nothing is limited. */
export const sharedWords = (account) => [limitWords(account), budgetWords(account)].filter(Boolean).join("; ") || null;

/** An account in a line. */
export function summary(account) {
  const shared = sharedWords(account);
  return [`${account.name ? `${account.name}: ` : ""}${keysOf(account)}.`, account.disabled && "It is disabled: its keys are refused.",
    shared && `Shared by its keys: ${shared}.`].filter(Boolean).join(" ");
}
