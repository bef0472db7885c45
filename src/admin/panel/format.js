// Numbers and times as people read them. Dates are UTC throughout, as keys expire in UTC.

import { now } from "./api.js";
import { h } from "./dom.js";

const DAY = 86_400_000;
const number = new Intl.NumberFormat("en-US");
const day = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short", year: "numeric" });
const clock = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", hour: "2-digit", minute: "2-digit" });
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "long" });

export const count = (value) => number.format(value);
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;
export const date = (time) => day.format(time);
export const timeOfDay = (time) => clock.format(time);
export const dateAndTime = (time) => `${day.format(time)}, ${clock.format(time)} UTC`;
const UNITS = [["minute", 60_000, 60], ["hour", 3_600_000, 24], ["day", DAY, 60], ["month", 30.44 * DAY, 24], ["year", 365.25 * DAY, Infinity]];

/** "in 3 days", "2 minutes ago"; the nearest number. */
export function fromNow(time) {
  const difference = time - now();
  const distance = Math.abs(difference);
  if (distance < 60_000) return difference < 0 ? "just now" : "in less than a minute";
  // The first unit that needs no more than this many, once rounded: 59.7 minutes are 1 hour, not 60 minutes.
  const [unit, length] = UNITS.find(([, length, most]) => Math.round(distance / length) < most);
  return relative.format(Math.sign(difference) * Math.round(distance / length), unit);
}

/** The last instant at which the key is taken: `expires_at` itself is past it. */
const lastInstant = (expiresAt) => new Date(expiresAt - 1000);
const isMidnight = (time) => time.getTime() % DAY === 0;

/** The day on which a key ends. */
export const lastDay = (expiresAt) => date(lastInstant(new Date(expiresAt)));

/** "31 Jan 2027" where a key ends with a day, else the day and the time. */
export function expiryDate(expiresAt) {
  const end = new Date(expiresAt);
  return isMidnight(end) ? date(lastInstant(end)) : dateAndTime(end);
}

/** The same in a sentence's full length. */
export function expirySentence(expiresAt) {
  const end = new Date(expiresAt);
  return isMidnight(end)
    ? `Valid through ${date(lastInstant(end))}, to the end of that day, UTC`
    : `Valid until ${dateAndTime(end)}`;
}

/** The day, as a date picker writes it, at whose end the key ends; null where it ends within a day. */
export function expiryDay(expiresAt) {
  const end = new Date(expiresAt);
  return isMidnight(end) ? lastInstant(end).toISOString().slice(0, 10) : null;
}

/** Today, UTC, and so many days on, as a date picker writes it. */
export const dayFromToday = (days) => new Date(now() + days * DAY).toISOString().slice(0, 10);
/** The instant from which on a key with this last day is refused. */
export const endOfDay = (text) => new Date(Date.parse(`${text}T00:00:00Z`) + DAY);
/** Whether a time lies within the next seven days. */
export const isSoon = (time) => time - now() < 7 * DAY;

/** A time as an element, whole and exact for whoever points at it. */
export function timeElement(time, text, title = dateAndTime(time)) {
  return h("time", { datetime: new Date(time).toISOString(), title }, text);
}

const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
/** 1234567 -> "1.2M". */
export const short = (value) => compact.format(value);

/** A decimal of the API, "0.25", in millionths: sums of them are exact. Null stays null. */
export function millionths(text) {
  if (text === null) return null;
  const [whole, fraction = ""] = text.split(".");
  return Number(whole) * 1_000_000 + Number(fraction.padEnd(6, "0"));
}

/** Millionths of a currency: "€1,204.50"; less than one has more digits. A currency without a code of ISO 4217 stands behind. */
export function money(value, currency) {
  const units = value / 1_000_000;
  const digits = { minimumFractionDigits: 2, maximumFractionDigits: units < 0.01 ? 6 : units < 1 ? 4 : 2 };
  try {
    return new Intl.NumberFormat("en-US", { style: "currency", currency, ...digits }).format(units);
  } catch {
    return `${new Intl.NumberFormat("en-US", digits).format(units)} ${currency}`;
  }
}

/** 0.00004 -> "40 µs". */
export function duration(seconds) {
  const [value, unit] = seconds < 0.001 ? [seconds * 1e6, "µs"] : seconds < 1 ? [seconds * 1e3, "ms"] : [seconds, "s"];
  return [value >= 10 ? String(Math.round(value)) : String(Number(value.toFixed(1))), unit];
}
