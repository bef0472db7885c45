// Chromium, Debian's, as the tests and the screenshots start it.

import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

/** With `scrollbars`, those that take room, as most desktops have. */
export function startBrowser({ scrollbars = false } = {}) {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  if (!existsSync(executablePath)) throw new Error(`${executablePath} is missing: install Debian's package chromium`);
  return chromium.launch({ executablePath, args: ARGUMENTS, ignoreDefaultArgs: scrollbars ? ["--hide-scrollbars"] : [] });
}
