// The frame: who is signed in, which view is open, and where one goes from there.

import { isNews, onSessionEnd } from "./api.js";
import { h, icon } from "./dom.js";
import { askWindowsToClose, clearToasts, closeWindows, toast } from "./overlay.js";
import { askToSignIn, resume, session, signOut, takeLink } from "./session.js";
import { dashboardView } from "./dashboard.js";
import { keysView } from "./keys.js";
import { modelsView } from "./models.js";

/** A view draws itself into the main part and gives {refresh, leave}. */
const VIEWS = {
  "#/keys": { title: "API Keys", icon: "key", draw: keysView },
  "#/models": { title: "On-Demand Models", icon: "models", draw: modelsView },
  "#/dashboard": { title: "Dashboard", icon: "dashboard", draw: dashboardView },
};
const FIRST = "#/keys";

const app = document.getElementById("app");
const main = document.getElementById("main");
let open = null;
/** Where `open` is, as the address says it. */
let here = "";

function drawFrame() {
  document.getElementById("nav").replaceChildren(...Object.entries(VIEWS).map(([address, view]) =>
    h("li", {}, h("a", { href: address }, icon(view.icon), view.title))));
  const out = document.getElementById("sign-out");
  out.append(icon("signOut"), "Sign out");
  out.addEventListener("click", leaveForGood);
}

function show(address, { moveFocus }) {
  const view = VIEWS[address] ?? VIEWS[FIRST];
  open?.leave();
  main.replaceChildren();
  for (const link of document.querySelectorAll("#nav a")) {
    if (VIEWS[link.hash] === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  here = address;
  document.title = `${view.title} – keygate`;
  open = view.draw(main, view.title);
  scrollTo(0, 0);
  if (moveFocus) main.querySelector("h1").focus({ preventScroll: true });
}

function enter() {
  document.getElementById("who").replaceChildren(
    h("span", {}, `keygate ${session.version}`),
    session.client_address && h("span", { title: "The address you come from" }, session.client_address));
  app.hidden = false;
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
    if (askWindowsToClose()) show(location.hash, { moveFocus: true });
    // Something typed is still open: back to where it belongs.
    else history.pushState(null, "", here || location.pathname);
  }
});
// A page that is left may be kept, to come back to; a token shown in it must not be.
addEventListener("pagehide", closeWindows);
begin(link);
