// The frame: who is signed in, which view is open, and where one goes from there.

import { call, isNews, onSessionEnd } from "./api.js";
import { h, icon } from "./dom.js";
import { askWindowsToClose, clearToasts, closeWindows, toast } from "./overlay.js";
import { askToSignIn, resume, session, signOut, takeLink } from "./session.js";
import { keysView } from "./keys.js";

/** A view draws itself into the main part and gives {refresh, leave}. Those that are not the first load when they are opened. */
const VIEWS = {
  "#/keys": { title: "API Keys", icon: "key", load: async () => keysView },
  "#/accounts": { title: "Accounts", icon: "accounts", load: async () => (await import("./accounts.js")).accountsView },
  "#/usage": { title: "Usage", icon: "usage", load: async () => (await import("./usage.js")).usageView },
  "#/activity": { title: "Activity", icon: "activity", load: async () => (await import("./activity.js")).activityView },
  "#/models": { title: "On-Demand Models", icon: "models", load: async () => (await import("./models.js")).modelsView },
  "#/dashboard": { title: "Dashboard", icon: "dashboard", load: async () => (await import("./dashboard.js")).dashboardView },
  /** A key's own page, which other views lead to. */
  /** An account's own page: its ID stands behind. */
  "#/accounts/": { title: "Account", isBelow: "#/accounts", load: async () => (await import("./accounts.js")).accountPage },
  "#/key": { title: "API Key", isBelow: "#/keys", load: async () => (await import("./key-page.js")).keyPage },
};
const FIRST = "#/keys";

const app = document.getElementById("app");
const main = document.getElementById("main");
let open = null;
/** Where `open` is, as the address says it. */
let here = "";

function drawFrame() {
  document.getElementById("nav").replaceChildren(...Object.entries(VIEWS).filter(([, view]) => !view.isBelow).map(([address, view]) =>
    h("li", { hidden: address === "#/accounts" }, h("a", { href: address }, icon(view.icon), view.title))));
  const out = document.getElementById("sign-out");
  out.append(icon("signOut"), "Sign out");
  out.addEventListener("click", leaveForGood);
  // Its address would be another view's: it moves the focus only.
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
    main.scrollIntoView();
  });
}

function viewAt(address) {
  const [name] = address.split("?");
  return VIEWS[name] ?? VIEWS[name.slice(0, name.lastIndexOf("/") + 1)] ?? VIEWS[FIRST];
}

/** Accounts are in the database: without one there are none. */
async function offerAccounts() {
  const { parentElement: item } = document.querySelector('#nav a[href="#/accounts"]');
  item.hidden = await call("GET", "/api/accounts?limit=1").then(() => false, ({ code }) => code === "accounts_unavailable");
}

/** What a view keeps in the address behind its name. */
const place = {
  id: () => location.hash.split("?")[0].split("/")[2] ?? "",
  parameters: () => new URLSearchParams(location.hash.split("?")[1] ?? ""),
  remember: (parameters, state, isReplaced) => {
    const text = parameters.toString();
    const address = here.split("?")[0] || FIRST;
    here = text === "" ? address : `${address}?${text}`;
    if (location.hash === here || isReplaced) history.replaceState(state, "", here);
    else history.pushState(state, "", here);
  },
};

async function show(address, { moveFocus }) {
  const view = viewAt(address);
  open?.leave();
  main.replaceChildren();
  for (const link of document.querySelectorAll("#nav a")) {
    if (VIEWS[link.hash] === (VIEWS[view.isBelow] ?? view)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  here = address;
  document.title = `${view.title} – keygate`;
  const opening = open = { refresh: () => {}, leave: () => {} };
  let draw;
  try {
    draw = await view.load();
  } catch {
    if (open === opening) {
      main.append(h("h1", { tabindex: "-1" }, view.title), h("p", { class: "notice bad", role: "alert" }, icon("warning"),
        h("span", {}, "This view could not be loaded. Check that the gateway runs, then reload the page.")));
    }
    return;
  }
  // Another view was opened, or the session left, meanwhile.
  if (open !== opening) return;
  open = draw(main, view.title, place);
  scrollTo(0, 0);
  if (moveFocus) main.querySelector("h1").focus({ preventScroll: true });
}

function enter() {
  document.getElementById("who").replaceChildren(
    h("span", {}, `keygate ${session.version}`),
    ...(session.client_address ? [h("span", { title: "The address you come from" }, session.client_address)] : []));
  app.hidden = false;
  offerAccounts();
  if (open) open.refresh();
  else show(location.hash, { moveFocus: false });
}

/** The session ended by itself: what is open stays, covered, for whoever signs in again. */
function sessionEnded() {
  if (document.querySelector("dialog.sign-in")) return;
  askToSignIn({ message: "Your session has ended. Sign in again to go on where you were.", onSignedIn: enter });
}

/** Signing out leaves nothing behind. */
async function leaveForGood() {
  try {
    await signOut();
  } catch (error) {
    if (isNews(error) && error.status !== 401) {
      toast(`You are still signed in: ${error.message}`, { bad: true });
      return;
    }
  }
  empty();
  history.replaceState(null, "", `${location.pathname}${FIRST}`);
  askToSignIn({ message: "You are signed out.", onSignedIn: enter });
}

function empty() {
  closeWindows();
  clearToasts();
  open?.leave();
  open = null;
  main.replaceChildren();
  app.hidden = true;
}

async function begin(link) {
  const { session, trouble } = await resume(link);
  if (session) enter();
  else askToSignIn({ message: trouble, isFault: true, onSignedIn: enter });
}

const link = takeLink();
onSessionEnd(sessionEnded);
drawFrame();
addEventListener("hashchange", () => {
  // A sign-in link opened where the panel is already open.
  const again = takeLink();
  if (again !== null) {
    document.querySelector("dialog.sign-in")?.remove();
    empty();
    begin(again);
  } else if (open && location.hash !== here) {
    // Where something typed is still open, back to where it belongs.
    if (!askWindowsToClose()) history.pushState(null, "", here || location.pathname);
    else if (open.arrive && viewAt(location.hash) === viewAt(here)) {
      here = location.hash;
      open.arrive();
    } else show(location.hash, { moveFocus: true });
  }
});
/** Whoever comes back to the page sees what is so now. Rows under an open window or menu stay, since the focus returns to them. */
addEventListener("focus", () => {
  if (open && !document.querySelector("dialog[open], .menu:popover-open")) open.refresh();
});
// A page that is left may be kept, to come back to; a token shown in it must not be.
addEventListener("pagehide", closeWindows);
begin(link);
