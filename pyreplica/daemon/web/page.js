// Takes the place of the reload key: puts what has changed into the page, without a flicker.
"use strict";

const EVERY = 5000; // milliseconds

const alive = document.getElementById("alive");
let timer = 0;

async function look() {
  clearTimeout(timer);
  try {
    const answer = await fetch("./", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(answer.statusText);
    const made = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = made.getElementById("live");
    const before = document.getElementById("live");
    if (getSelection().isCollapsed) {
      // who goes through the page by the keyboard stays where they are
      const focused = before.contains(document.activeElement) ? document.activeElement.hash : "";
      before.replaceWith(document.adoptNode(now));
      document.title = made.title;
      if (focused) now.querySelector(`a[href="${focused}"]`)?.focus({ preventScroll: true });
      alive.textContent = "";
    } else {
      alive.textContent = "Not renewed while text is selected.";
    }
  } catch {
    if (!alive.textContent.startsWith("The daemon")) {
      alive.textContent = `The daemon does not answer, since ${new Date().toLocaleTimeString()}.`;
    }
  }
  if (!document.hidden) timer = setTimeout(look, EVERY);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) look();
});
timer = setTimeout(look, EVERY);
